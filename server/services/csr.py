"""Certificate signing requests (PKCS#10, RFC 2986), of which only two things count: the public key and its proof.

The subject, the extensions and every other attribute are what the sender would like to be. They are never looked at,
so that nobody can ask for another name, for an authority's certificate or for a server's.
"""

from base64 import b64decode
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from firmware_store.errors import InvalidInputError, TooLargeError, WeakKeyError
from firmware_store.keys import PublicKey

MAX_CSR_BYTES: Final = 4096
"""Of the DER; one with a P-256 key and a few attributes has less than 500."""

_PEM_MARK: Final = "-----BEGIN "
_POINTER: Final = "/csr"
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A key whose private half the sender has shown to hold. ``der`` is what was sent, without its wrapping."""

    public: PublicKey
    der: bytes


def read_request(text: str) -> SigningRequest:
    """Read a request in PEM, or its DER in base64.

    Raises:
        InvalidInputError: not a request, one that its own key has not signed, or a kind of key that is not ours.
        WeakKeyError: a key that would verify what its owner never signed.
    """
    der = _unwrap(text)
    try:
        request = x509.load_der_x509_csr(der)
        public = _checked(request.public_key())
        if request.signature_hash_algorithm is not None and not isinstance(request.signature_hash_algorithm, _HASHES):
            raise InvalidInputError("The request is signed with a weak hash: use SHA-256.", pointer=_POINTER)
        proven = request.is_signature_valid
    except WeakKeyError:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise InvalidInputError(
            "Not a certificate signing request (PKCS#10) that we can read.", pointer=_POINTER
        ) from exc
    if not proven:
        raise InvalidInputError("The request is not signed by the key that it is for.", pointer=_POINTER)
    return SigningRequest(public, der)


def _unwrap(text: str) -> bytes:
    # base64 takes 4 characters for 3 bytes; PEM adds line ends and two lines
    if len(text) > MAX_CSR_BYTES * 3 // 2:
        raise TooLargeError(f"A request has at most {MAX_CSR_BYTES} bytes.", limit_bytes=MAX_CSR_BYTES)
    try:
        if text.lstrip().startswith(_PEM_MARK):
            return x509.load_pem_x509_csr(text.encode("ascii")).public_bytes(serialization.Encoding.DER)
        return b64decode(text, validate=True)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise InvalidInputError("The request is neither PEM nor DER in base64.", pointer=_POINTER) from exc


def _checked(key: object) -> PublicKey:
    if isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return PublicKey.from_pem(pem)
    raise InvalidInputError("The key is neither on P-256 nor Ed25519.", pointer=_POINTER)
