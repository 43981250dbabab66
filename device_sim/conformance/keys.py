"""What an exam signs with: the fleet's root, and the online keys of a lab's server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from firmware_store.errors import ConfigurationError, TrustError
from firmware_store.keys import Kid, Signer
from firmware_store.roles import RoleName
from firmware_store.root import ROOT_FILE, Root, open_root
from firmware_store.signers import load_signer


@dataclass(frozen=True, slots=True)
class LabKeys:
    """``directive`` and ``session`` are keys that ``root`` names for these roles."""

    root: Root
    directive: Signer
    session: Signer

    @classmethod
    def read(cls, folder: Path, *, passphrase: bytes | None = None) -> Self:
        """Read ``root.cbor`` and the keys beside it, as a server's keys folder has them.

        Raises:
            ConfigurationError: one is missing, or no key is one that the root names.
        """
        path = folder / ROOT_FILE
        try:
            root = open_root(path.read_bytes(), now=None)
        except OSError as exc:
            raise ConfigurationError(f"There is no trust root at {path}.") from exc
        except TrustError as exc:
            raise ConfigurationError(f"{path} is not to be used: {exc}.") from exc
        found: dict[Kid, Signer] = {}
        for file in sorted(folder.glob("*.pem")):
            if file.name.startswith((f"{RoleName.DIRECTIVE}-", f"{RoleName.SESSION}-")):
                signer = load_signer(f"file:{file}", passphrase=passphrase)
                found[signer.public.kid] = signer
        return cls(root, _of(root, found, RoleName.DIRECTIVE), _of(root, found, RoleName.SESSION))


def _of(root: Root, found: dict[Kid, Signer], role: RoleName) -> Signer:
    for kid in root.roles[role].kids:
        if kid in found:
            return found[kid]
    raise ConfigurationError(f"There is no {role} key here that root {root.version} names.")
