"""What an exam signs with: the fleet's root, and the online keys of a lab's server."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from firmware_store.errors import ConfigurationError, TrustError
from firmware_store.keys import Kid, Signer
from firmware_store.roles import RoleName
from firmware_store.root import ROOT_FILE, Root, open_root
from firmware_store.signers import load_role


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
        directive, session = (
            _of(root, load_role(role, folder, passphrase=passphrase), role)
            for role in (RoleName.DIRECTIVE, RoleName.SESSION)
        )
        return cls(root, directive, session)


def _of(root: Root, found: Mapping[Kid, Signer], role: RoleName) -> Signer:
    for kid in root.roles[role].kids:
        if kid in found:
            return found[kid]
    raise ConfigurationError(f"There is no {role} key here that root {root.version} names.")
