"""Public keys that are safe to import, and the signers that hold the private halves.

Two algorithms, both fully specified (RFC 9864): Ed25519 and ECDSA on P-256 with SHA-256. The key decides which one is
used; a message can only agree. Signatures are the 64 bytes of COSE (RFC 9053 section 2), never DER, and are never an
identity: whoever sees an ECDSA signature can make a second one for the same message.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final, NewType, Protocol, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from firmware_store.codec import Encodable, encode
from firmware_store.edwards import is_sound_point
from firmware_store.errors import ConfigurationError, WeakKeyError
from firmware_store.private_files import read_private_file, write_new_file

Kid = NewType("Kid", bytes)

KID_BYTES: Final = 16
SIGNATURE_BYTES: Final = 64
MAX_KEY_FILE_BYTES: Final = 16384

# The group orders: a signature's numbers lie below them (FIPS 186-5; RFC 8032 section 5.1.7).
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493

# COSE_Key labels and values (RFC 9052 section 7, RFC 9053 section 7).
_KTY, _ALG, _CRV, _X, _Y = 1, 3, -1, -2, -3
_KTY_OKP, _KTY_EC2 = 1, 2
_CRV_P256, _CRV_ED25519 = 1, 6


class Algorithm(IntEnum):
    """COSE algorithm numbers (RFC 9864)."""

    ESP256 = -9
    ED25519 = -19


@dataclass(frozen=True)
class PublicKey:
    """``material`` is the 32-byte Ed25519 point, or x || y of a P-256 point.

    Raises:
        WeakKeyError: on creation, for material that is not a canonical point of large order on the curve.
    """

    algorithm: Algorithm
    material: bytes

    def __post_init__(self) -> None:
        if self.algorithm is Algorithm.ED25519:
            if not is_sound_point(self.material):
                raise WeakKeyError("an Ed25519 key of small order, not canonical, or not on the curve")
        else:
            try:
                ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + self.material)
            except ValueError as exc:
                raise WeakKeyError("a P-256 key that is not on the curve") from exc

    @cached_property
    def kid(self) -> Kid:
        """The first 16 bytes of the SHA-256 thumbprint (RFC 9679): computed, so that no key has two names."""
        required = {label: value for label, value in self.to_cose().items() if label != _ALG}
        return Kid(sha256(encode(required)).digest()[:KID_BYTES])

    def to_cose(self) -> dict[int, Encodable]:
        """Return the COSE_Key map, with its algorithm."""
        if self.algorithm is Algorithm.ED25519:
            return {_KTY: _KTY_OKP, _ALG: int(self.algorithm), _CRV: _CRV_ED25519, _X: self.material}
        x, y = self.material[:32], self.material[32:]
        return {_KTY: _KTY_EC2, _ALG: int(self.algorithm), _CRV: _CRV_P256, _X: x, _Y: y}

    @classmethod
    def from_cose(cls, value: object) -> Self:
        """Return the key that ``to_cose`` wrote.

        Raises:
            WeakKeyError: another map than that, or unsafe material.
        """
        match value:
            case {1: 1, 3: -19, -1: 6, -2: bytes(x), **rest} if not rest:
                return cls(Algorithm.ED25519, x)
            case {1: 2, 3: -9, -1: 1, -2: bytes(x), -3: bytes(y), **rest} if not rest and len(x) == len(y) == 32:
                return cls(Algorithm.ESP256, x + y)
        raise WeakKeyError("not the COSE_Key of an Ed25519 or an ESP256 key")

    def to_pem(self) -> bytes:
        """Return SubjectPublicKeyInfo, which other tools read too; the COSE_Key is what our documents hold."""
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        if self.algorithm is Algorithm.ED25519:
            return ed25519.Ed25519PublicKey.from_public_bytes(self.material).public_bytes(encoding, form)
        return self._p256.public_bytes(encoding, form)

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read a SubjectPublicKeyInfo.

        Raises:
            ConfigurationError: not the public half of an Ed25519 or a P-256 key.
            WeakKeyError: unsafe material.
        """
        try:
            public = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise ConfigurationError("the file holds no public key in PEM") from exc
        if not isinstance(public, (ed25519.Ed25519PublicKey, ec.EllipticCurvePublicKey)):
            raise ConfigurationError("the file holds neither an Ed25519 nor a P-256 key")
        return cls(*_material(public))

    def verify(self, signature: bytes, message: bytes) -> bool:
        """True if the private half signed exactly ``message``; never raises for a bad signature."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        if self.algorithm is Algorithm.ED25519:
            return self._verify_ed25519(signature, message)
        return self._verify_esp256(signature, message)

    def _verify_ed25519(self, signature: bytes, message: bytes) -> bool:
        if int.from_bytes(signature[32:], "little") >= _ED25519_ORDER:
            return False
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.material).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def _verify_esp256(self, signature: bytes, message: bytes) -> bool:
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        if not (0 < r < _P256_ORDER and 0 < s < _P256_ORDER):
            return False
        try:
            self._p256.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    @cached_property
    def _p256(self) -> ec.EllipticCurvePublicKey:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + self.material)


class Signer(Protocol):
    """Whoever can sign for one key: a file, a token, a command. The key itself never leaves it."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``."""
        ...


class SigningKey:
    """A private key in this process's memory."""

    def __init__(self, private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._private = private
        self.public = _public_half(private)

    @classmethod
    def generate(cls, algorithm: Algorithm) -> Self:
        if algorithm is Algorithm.ED25519:
            return cls(ed25519.Ed25519PrivateKey.generate())
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes | None = None) -> Self:
        """Read a PKCS#8 key.

        Raises:
            ConfigurationError: no key, a wrong or missing passphrase, or a passphrase for a key that needs none.
        """
        try:
            private = serialization.load_pem_private_key(pem, passphrase)
        except TypeError as exc:
            needed = "needs a passphrase" if passphrase is None else "is not encrypted, yet a passphrase was given"
            raise ConfigurationError(f"the key file {needed}") from exc
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise ConfigurationError("the key file is damaged, or its passphrase is wrong") from exc
        if not isinstance(private, (ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey)):
            raise ConfigurationError("the key file holds neither an Ed25519 nor a P-256 key")
        return cls(private)

    def to_pem(self, passphrase: bytes | None) -> bytes:
        """Return PKCS#8, encrypted unless ``passphrase`` is None (development keys only)."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        return self._private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)

    def sign(self, message: bytes) -> bytes:
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.sign(message)
        r, s = decode_dss_signature(self._private.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def save_key(path: Path, key: SigningKey, passphrase: bytes | None, *, dev: bool = False) -> None:
    """Write ``key`` as a new file with mode 0600.

    Raises:
        ConfigurationError: no passphrase for a key that is not a development key, or the file cannot be written.
        ConflictError: ``path`` exists; it is left as it was.
    """
    if not passphrase and not dev:
        raise ConfigurationError("only development keys may be written without a passphrase")
    write_new_file(path, key.to_pem(passphrase or None))


def load_key(path: Path, passphrase: bytes | None) -> SigningKey:
    """Read a key that only its owner can read.

    Raises:
        ConfigurationError: no such file, others may read or write it, or it holds no key of ours.
    """
    return SigningKey.from_pem(read_private_file(path, max_bytes=MAX_KEY_FILE_BYTES), passphrase)


def key_is_encrypted(path: Path) -> bool:
    """True if the key in the file needs a passphrase.

    Raises:
        ConfigurationError: no such file, or others may read or write it.
    """
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in read_private_file(path, max_bytes=MAX_KEY_FILE_BYTES)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        ConfigurationError: the file cannot be read, or holds no public key of ours.
        WeakKeyError: unsafe material.
    """
    try:
        with path.open("rb") as file:
            pem = file.read(MAX_KEY_FILE_BYTES)
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc
    return PublicKey.from_pem(pem)


def _public_half(private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> PublicKey:
    return PublicKey(*_material(private.public_key()))


def _material(public: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> tuple[Algorithm, bytes]:
    if isinstance(public, ed25519.Ed25519PublicKey):
        return Algorithm.ED25519, public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    if not isinstance(public.curve, ec.SECP256R1):
        raise ConfigurationError("an elliptic-curve key must be on P-256")
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return Algorithm.ESP256, point[1:]
