"""Named servers: which URL and token a command uses when it is given neither.

Kept as JSON in one file that only its owner may read, since it holds tokens: ``TIDEGATE_CONTEXTS``, or else
``contexts.json`` in the user's configuration folder.
"""

import json
import os
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from firmware_store.errors import ConfigurationError, NotFoundError

FILE_VARIABLE: Final = "TIDEGATE_CONTEXTS"
NAME_VARIABLE: Final = "TIDEGATE_CONTEXT"
OPTION: Final = "--context"
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Named:
    """One server, and who we are there."""

    url: str
    token: str = field(repr=False)


@dataclass(slots=True)
class Contexts:
    """What the file holds; ``current`` is the one that is used where none is named."""

    named: dict[str, Named]
    current: str | None = None

    def get(self, name: str) -> Named:
        """Raises: NotFoundError."""
        if name not in self.named:
            known = ", ".join(sorted(self.named)) or "none"
            raise NotFoundError(f"There is no context {name!r} (known: {known}); `tidegate context add` makes one.")
        return self.named[name]


def contexts_file() -> Path:
    """Return where they are kept, whether or not the file exists."""
    if FILE_VARIABLE in os.environ:
        return Path(os.environ[FILE_VARIABLE])
    from platformdirs import user_config_path

    return user_config_path("tidegate") / "contexts.json"


def load(path: Path) -> Contexts:
    """Return what is kept; nothing where there is no file.

    Raises:
        ConfigurationError: others may read the file, or it is not ours.
    """
    from firmware_store.private_files import read_private_file

    if not path.exists():
        return Contexts({})
    try:
        kept = json.loads(read_private_file(path, max_bytes=_MAX_BYTES))
        named = {str(name): Named(one["url"], one["token"]) for name, one in kept["contexts"].items()}
        return Contexts(named, kept["current"])
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigurationError(f"{path} is not a file of contexts: mend it, or remove it") from exc


def save(path: Path, contexts: Contexts) -> None:
    """Replace the file, readable by its owner alone. Raises: ConfigurationError."""
    from firmware_store.private_files import replace_file

    kept = {"current": contexts.current, "contexts": {name: asdict(one) for name, one in contexts.named.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ConfigurationError(f"cannot make {path.parent}: {exc.strerror}") from exc
    replace_file(path, json.dumps(kept, indent=2).encode() + b"\n")


def enter(arguments: list[str], environment: MutableMapping[str, str]) -> list[str]:
    """Put the context's URL and token where commands look for them, and return the arguments that are left.

    A context that is named, by ``--context`` in front of the command or by ``TIDEGATE_CONTEXT``, goes before
    ``TIDEGATE_URL`` and ``TIDEGATE_TOKEN``; the current one counts where nothing else says where to go, or as whom.

    Raises:
        NotFoundError: nothing of that name is kept.
        ConfigurationError: the file cannot be used.
    """
    name, rest = _named(arguments)
    name = name or environment.get(NAME_VARIABLE)
    if name is None and ("TIDEGATE_TOKEN" in environment or any(one.startswith("--server") for one in rest)):
        return rest  # somebody has said who they are, or where to go: no token is sent to another server than its own
    contexts = load(contexts_file())
    if name is not None:
        chosen = contexts.get(name)
        environment.update(TIDEGATE_URL=chosen.url, TIDEGATE_TOKEN=chosen.token)
    elif contexts.current is not None:
        chosen = contexts.get(contexts.current)
        if environment.setdefault("TIDEGATE_URL", chosen.url) == chosen.url:
            environment["TIDEGATE_TOKEN"] = chosen.token
    return rest


def _named(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Split what is said in front of the command."""
    if arguments and arguments[0].startswith(f"{OPTION}="):
        return arguments[0].partition("=")[2], arguments[1:]
    if len(arguments) >= 2 and arguments[0] == OPTION:
        return arguments[1], arguments[2:]
    return None, arguments
