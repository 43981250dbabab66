"""The device CA: the one key that devices' certificates and their revocation list (RFC 5280) are signed with.

It can make a device, and no more: who steals it can listen and report as any device, but cannot sign a release, a
directive or a status. A certificate says what the inventory says: the common name is the device's id, and nothing of
what was asked for is copied.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firmware_store.errors import ConfigurationError, ConflictError
from firmware_store.keys import MAX_KEY_FILE_BYTES, PublicKey
from firmware_store.private_files import read_private_file, write_new_file
from server.domain.enrolment import CREDENTIAL_LIFE
from server.domain.identity import DeviceId, device_id

KEY_FILE: Final = "device-ca-key.pem"
CERTIFICATE_FILE: Final = "device-ca.pem"

CA_LIFE: Final = timedelta(days=3653)
CRL_LIFE: Final = timedelta(days=7)
"""A broker with an older list lets nobody in: long enough for a weekend without the server."""

BACKDATED: Final = timedelta(hours=1)
"""A broker's clock may be behind ours, and with a list from its future it lets nobody in."""

ACCESS_FOLDER: Final = 0o700
ACCESS_PUBLIC: Final = 0o644

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """``chain`` is the certificate and the CA's, in PEM."""

    serial: int
    chain: bytes
    issued: datetime
    expires: datetime


class DeviceCa:
    """Issues and revokes. The key is on P-256, which every broker's TLS knows."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Raises: ConfigurationError: the key is not the certificate's, or it is no CA's."""
        if certificate.public_key() != key.public_key():
            raise ConfigurationError("The device CA's key is not the one in its certificate.")
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise ConfigurationError("The device CA's certificate is not one of a CA.")
        self._certificate = certificate
        self._key = key

    @property
    def certificate_pem(self) -> bytes:
        """What a broker trusts devices by."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def expires(self) -> datetime:
        return self._certificate.not_valid_after_utc

    def issue(self, device: DeviceId, public: PublicKey, *, now: datetime) -> IssuedCertificate:
        """Return a client's certificate: the id is checked again, for ``+`` would be every device.

        Raises:
            InvalidInputError: not a device id.
            ConfigurationError: the CA itself has expired.
        """
        if now >= self.expires:
            raise ConfigurationError("The device CA has expired: make a new one.")
        expires = min(now + CREDENTIAL_LIFE, self.expires)
        serial = x509.random_serial_number()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(device_id(device)))
            .issuer_name(self._certificate.subject)
            .public_key(_as_x509(public))
            .serial_number(serial)
            .not_valid_before(now - BACKDATED)
            .not_valid_after(expires)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(_as_x509(public)), critical=False)
            .add_extension(self._authority_identifier(), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM) + self.certificate_pem
        return IssuedCertificate(serial, chain, now, expires)

    def revocation_list(self, revoked: Iterable[tuple[int, datetime]], *, now: datetime) -> bytes:
        """Return the list, in PEM, of serial numbers and when each was revoked. Its number is the time in ms."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - BACKDATED)
            .next_update(now + CRL_LIFE)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
            .add_extension(self._authority_identifier(), critical=False)
        )
        for serial, at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _authority_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def create_device_ca(directory: Path, *, passphrase: bytes | None, name: str, dev: bool = False) -> DeviceCa:
    """Make a CA and write its two files: the key 0600, encrypted unless it is for development.

    Raises:
        ConfigurationError: no passphrase, or the files cannot be written.
        ConflictError: there is a CA already; it is left as it was.
    """
    if not passphrase and not dev:
        raise ConfigurationError("Only a development CA may be written without a passphrase.")
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    try:
        directory.mkdir(mode=ACCESS_FOLDER, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"Cannot make {directory}: {exc.strerror}.") from exc
    write_new_file(directory / KEY_FILE, secret)
    ca = DeviceCa(certificate, key)
    write_new_file(directory / CERTIFICATE_FILE, ca.certificate_pem, mode=ACCESS_PUBLIC)
    return ca


def load_device_ca(directory: Path, *, passphrase: bytes | None, production: bool = False) -> DeviceCa | None:
    """Read the CA, or return None if there is none.

    Raises:
        ConfigurationError: a file is missing or damaged, others may read the key, its passphrase is wrong, or it has
            none in production.
    """
    if not (directory / KEY_FILE).exists() and not (directory / CERTIFICATE_FILE).exists():
        return None
    secret = read_private_file(directory / KEY_FILE, max_bytes=MAX_KEY_FILE_BYTES)
    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in secret
    if production and not encrypted:
        raise ConfigurationError(f"{directory / KEY_FILE} is not encrypted; production needs a CA that is.")
    try:
        # A passphrase is set for all keys of the server; a development key beside them may have none.
        key = serialization.load_pem_private_key(secret, passphrase if encrypted else None)
        certificate = x509.load_pem_x509_certificate((directory / CERTIFICATE_FILE).read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"Cannot read {directory / CERTIFICATE_FILE}: {exc.strerror}.") from exc
    except (ValueError, TypeError) as exc:
        raise ConfigurationError(f"The device CA in {directory} is damaged, or its passphrase is wrong.") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("The device CA's key is not on P-256.")
    return DeviceCa(certificate, key)


class DeviceCaFolder:
    """Where the CA is read from; in development it is made there at its first use."""

    def __init__(self, directory: Path, *, passphrase: bytes | None, name: str, production: bool) -> None:
        """Raises: ConfigurationError: what is there cannot be used."""
        self._directory = directory
        self._passphrase = passphrase
        self._name = name
        self._production = production
        self._opening = asyncio.Lock()
        self._ca = self._load()

    async def open(self) -> DeviceCa:
        """Raises: ConflictError: there is none, and production makes none by itself."""
        async with self._opening:
            if self._ca is None:
                self._ca = await asyncio.to_thread(self._load_or_create)
            return self._ca

    def _load(self) -> DeviceCa | None:
        return load_device_ca(self._directory, passphrase=self._passphrase, production=self._production)

    def _load_or_create(self) -> DeviceCa:
        if (ca := self._load()) is not None:
            return ca
        if self._production:
            raise ConflictError("This server has no device CA: make one with `tidegate device ca init`.")
        log.info("device_ca_created", folder=str(self._directory))
        return create_device_ca(self._directory, passphrase=self._passphrase, name=self._name, dev=True)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _as_x509(public: PublicKey) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
    key = serialization.load_pem_public_key(public.to_pem())
    assert isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey))
    return key


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
