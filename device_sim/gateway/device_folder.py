"""A device's own folder: its key, its certificate, and where it connects.

Whenever the power goes, opening it finds a key and a certificate that belong together.

``device.key`` (PKCS#8), ``device.pem`` (certificate and CA), ``identity.json`` (all else, with the broker's password),
``root.cbor`` (the trust root); each 0600. ``next.key`` is there while a renewal is under way.
"""

import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from firmware_store.errors import ConfigurationError
from firmware_store.keys import Algorithm, PublicKey, SigningKey
from firmware_store.private_files import read_private_file, replace_file, write_new_file
from firmware_store.root import ROOT_FILE

KEY_FILE: Final = "device.key"
NEXT_KEY_FILE: Final = "next.key"
CERTIFICATE_FILE: Final = "device.pem"
IDENTITY_FILE: Final = "identity.json"

FILE_MOST_BYTES: Final = 65_536


class DeviceFolder:
    """Opening it finishes a renewal that a power cut has stopped.

    Raises:
        ConfigurationError: it cannot be made, or holds what is not ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigurationError(f"cannot make {path}: {exc.strerror}") from exc
        self._settle()

    @property
    def is_enrolled(self) -> bool:
        return (self.path / IDENTITY_FILE).exists()

    @property
    def key(self) -> SigningKey | None:
        return self._load(KEY_FILE)

    @property
    def next_key(self) -> SigningKey | None:
        return self._load(NEXT_KEY_FILE)

    @property
    def identity(self) -> dict[str, Any]:
        """What the server has answered last.

        Raises:
            ConfigurationError: not enrolled, or damaged.
        """
        try:
            identity: dict[str, Any] = json.loads(self._read(IDENTITY_FILE))
            return identity | {name: datetime.fromisoformat(identity[name]) for name in ("renew_at", "expires_at")}
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigurationError(f"{self.path / IDENTITY_FILE} is damaged: enrol again with a new claim") from exc

    def is_due(self) -> bool:
        """Whether the certificate is to be renewed."""
        due: datetime = self.identity["renew_at"]
        return datetime.now(UTC) >= due

    def make_key(self, name: str, algorithm: Algorithm) -> SigningKey:
        """Make a key and write it down before anything depends on it."""
        key = SigningKey.generate(algorithm)
        write_new_file(self.path / name, key.to_pem(None))
        return key

    def keep(self, answer: dict[str, Any]) -> None:
        """Write what the server has answered; a trust root that is there stays.

        The certificate comes first: it shows which key is the right one. The rest comes last: until it is there, a
        new device is not enrolled, and a renewal is still due.
        """
        answer = dict(answer)
        root = b64decode(answer.pop("root"))
        if not (self.path / ROOT_FILE).exists():
            write_new_file(self.path / ROOT_FILE, root)
        replace_file(self.path / CERTIFICATE_FILE, str(answer["certificate"]).encode())
        self._settle()
        replace_file(self.path / IDENTITY_FILE, json.dumps(answer, indent=2).encode() + b"\n")

    def _settle(self) -> None:
        """Put the next key in the place of the old one once there is a certificate for it."""
        upcoming = self.next_key
        if upcoming is not None and (self.path / CERTIFICATE_FILE).exists() and upcoming.public == self._certified():
            replace_file(self.path / KEY_FILE, upcoming.to_pem(None))
            (self.path / NEXT_KEY_FILE).unlink()

    def _certified(self) -> PublicKey:
        try:
            certificate = x509.load_pem_x509_certificates(self._read(CERTIFICATE_FILE))[0]
        except ValueError as exc:
            raise ConfigurationError(
                f"{self.path / CERTIFICATE_FILE} is damaged: enrol again with a new claim"
            ) from exc
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return PublicKey.from_pem(certificate.public_key().public_bytes(*form))

    def _load(self, name: str) -> SigningKey | None:
        return SigningKey.from_pem(self._read(name)) if (self.path / name).exists() else None

    def _read(self, name: str) -> bytes:
        return read_private_file(self.path / name, max_bytes=FILE_MOST_BYTES)


def make_request(key: SigningKey) -> bytes:
    """Return a signing request's DER. It has no subject: the server gives the name that it knows."""
    private = serialization.load_pem_private_key(key.to_pem(None), None)
    assert isinstance(private, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey))
    algorithm = hashes.SHA256() if isinstance(private, ec.EllipticCurvePrivateKey) else None
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private, algorithm)
    return request.public_bytes(serialization.Encoding.DER)


def as_text(data: bytes) -> str:
    return b64encode(data).decode()
