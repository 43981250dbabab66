"""What happened on the devices of a virtual run: one line of JSON each, in the order in which it happened."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

Value = str | float | None


class Trace:
    """Each line goes to ``put``, if it is given; ``digest`` is the SHA-256 of all of them, with their line feeds."""

    def __init__(self, put: Callable[[str], object] | None = None) -> None:
        self._put = put
        self._digest = hashlib.sha256()
        self.lines = 0

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def head(self, **about: Any) -> None:
        """Say what run this is, so that it can be run again."""
        self._write(about)

    def write(self, at: float, who: str, event: str, facts: Mapping[str, Value]) -> None:
        """``at``: fleet time in seconds; facts that are empty are left out."""
        line = {"at": round(at, 3), "who": who, "event": event}
        self._write({**line, **{name: value for name, value in facts.items() if value not in {"", None}}})

    def _write(self, document: Mapping[str, Any]) -> None:
        line = json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n"
        self._digest.update(line.encode())
        self.lines += 1
        if self._put is not None:
            self._put(line)
