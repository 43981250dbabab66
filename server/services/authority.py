"""The keys that the server itself holds, and the only code that uses them: directives and welcomes.

Release keys are never here. What signs bundles lives offline, so that somebody who owns this whole process cannot
install a byte that the release keys did not sign.
"""

from pathlib import Path
from typing import Final

from firmware_store.documents import Kind, seal
from firmware_store.errors import ConfigurationError
from firmware_store.keys import SigningKey, load_key
from firmware_store.root import RoleName, Root, open_root
from server.protocol.orders import Directive, Welcome, directive_map, read_directive, welcome_map

ROOT_FILE: Final = "root.cbor"
DIRECTIVE_KEY: Final = "directive-1.pem"
SESSION_KEY: Final = "session-1.pem"


class Authority:
    """The trust root and the two online keys, checked against each other."""

    def __init__(self, root_bytes: bytes, root: Root, *, directive: SigningKey, session: SigningKey) -> None:
        for role, key in ((RoleName.DIRECTIVE, directive), (RoleName.SESSION, session)):
            if key.public.kid not in root.keys_for(role):
                raise ConfigurationError(f"The {role} key is not one that the trust root names for this role.")
        self.root_bytes = root_bytes
        self.root = root
        self._directive = directive
        self._session = session

    @property
    def directive_epoch(self) -> int:
        """Devices compare (epoch, counter); only a new root raises the epoch."""
        return self.root.roles[RoleName.DIRECTIVE].epoch

    def sign_directive(self, directive: Directive) -> bytes:
        return seal(Kind.DIRECTIVE, directive_map(directive), [self._directive])

    def sign_welcome(self, welcome: Welcome) -> bytes:
        return seal(Kind.WELCOME, welcome_map(welcome), [self._session])

    def read_directive(self, body: bytes) -> Directive:
        """Return a directive that our own keys have signed.

        Raises:
            TrustError: they have not.
            CodecError: it is no directive at all.
        """
        return read_directive(self.root.unseal(Kind.DIRECTIVE, body).value)


def load_authority(directory: Path, *, now: int, passphrase: bytes | None, production: bool) -> Authority:
    """Read the root document and the online keys.

    Raises:
        ConfigurationError: one is missing, unreadable, not ours, expired, or made for development only.
    """
    path = directory / ROOT_FILE
    if not path.exists():
        raise ConfigurationError(
            f"There is no trust root at {path}; make one for development with `tidegate keys init --dev {directory}`."
        )
    root_bytes = path.read_bytes()
    root = open_root(root_bytes, now=now)
    if production and root.dev:
        raise ConfigurationError("The trust root is marked for development; production needs keys of its own.")
    return Authority(
        root_bytes,
        root,
        directive=load_key(directory / DIRECTIVE_KEY, passphrase),
        session=load_key(directory / SESSION_KEY, passphrase),
    )
