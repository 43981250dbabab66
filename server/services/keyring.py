"""The online keys: the only part of the server that reaches a private key (``tests/unit/test_private_keys.py``).

There may be more of them than the root names: before a key is replaced, its successor is put beside it, and used from
the moment the root names it. Release, root and status keys are never here.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from firmware_store.codec import Encodable
from firmware_store.documents import Kind, seal
from firmware_store.errors import ConfigurationError, SignerUnavailableError
from firmware_store.keys import Kid, Signer, SigningKey
from firmware_store.roles import RoleName
from firmware_store.root import Root
from firmware_store.signers import load_role

ONLINE: Final = (RoleName.DIRECTIVE, RoleName.SESSION)
"""Roles whose keys a server has."""


class Pen:
    """Enough keys of one role to sign what the role signs; empty where there are not enough of them."""

    def __init__(self, kind: Kind, signers: Iterable[Signer] = ()) -> None:
        self._kind = kind
        self._signers = tuple(signers)

    def __bool__(self) -> bool:
        return bool(self._signers)

    @property
    def kids(self) -> frozenset[Kid]:
        return frozenset(signer.public.kid for signer in self._signers)

    @property
    def blocks(self) -> bool:
        """Signing waits for somebody outside of this process, and belongs in a thread."""
        return not all(isinstance(signer, SigningKey) for signer in self._signers)

    def seal(self, payload: Mapping[int, Encodable]) -> bytes:
        """Return the signed document.

        Raises:
            SignerUnavailableError: there is no key that counts, or it did not sign.
        """
        if not self._signers:
            raise SignerUnavailableError(
                f"No {self._kind} can be signed: the keys here are revoked or not the root's. Publish a root that "
                "names a key of this server."
            )
        return seal(self._kind, payload, self._signers)


class Keyring:
    """Where the keys of each role are; ``sources`` are what ``load_role`` takes."""

    def __init__(self, sources: Mapping[RoleName, str | Path], *, passphrase: bytes | None) -> None:
        self._sources = sources
        self._passphrase = passphrase
        self._signers: Mapping[RoleName, Mapping[Kid, Signer]] = MappingProxyType({})

    @classmethod
    def open(
        cls, folder: Path, *, directive: str | None = None, session: str | None = None, passphrase: bytes | None = None
    ) -> Self:
        """Load the keys: by their settings (one signer a line), or else those named after their role in ``folder``.

        Raises:
            ConfigurationError: one cannot be read, or there is none for a role.
        """
        given = {RoleName.DIRECTIVE: directive, RoleName.SESSION: session}
        keyring = cls({role: given[role] or folder for role in ONLINE}, passphrase=passphrase)
        keyring.load()
        return keyring

    def load(self) -> None:
        """Read all keys again: a new one may have come.

        Raises:
            ConfigurationError: one cannot be read, or there is none for a role; the keys from before stay.
        """
        self._signers = MappingProxyType({role: self._load(role) for role in ONLINE})

    def pen(self, kind: Kind, role: RoleName, root: Root, *, revoked: frozenset[Kid] = frozenset()) -> Pen:
        """Return what signs this kind under ``root``, with as many keys as its threshold asks for."""
        known = self._signers[role]
        usable = [known[kid] for kid in root.keys_for(role, revoked=revoked) if kid in known]
        threshold = root.roles[role].threshold
        return Pen(kind, usable[:threshold] if len(usable) >= threshold else ())

    def where(self, role: RoleName) -> str:
        """Say where the keys of a role come from, for whoever has to put one there."""
        setting = f"TIDEGATE_{role.upper()}_SIGNER"
        if isinstance(self._sources[role], Path):
            return f"put its file, {role}-2.pem for example, into the server's keys directory (or set {setting})"
        return f"add it to {setting}, one signer a line, and restart the server"

    def _load(self, role: RoleName) -> Mapping[Kid, Signer]:
        signers = load_role(role, self._sources[role], passphrase=self._passphrase)
        if not signers:
            raise ConfigurationError(f"There is no {role} key: {self.where(role)}.")
        return signers
