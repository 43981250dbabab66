"""How a device asks for its next certificate: what it signs with the key that it is known by.

The proof is a detached COSE_Sign1 (RFC 9052) by that key, with a type of its own. It says which device asks, for which
signing request, and repeats the server's nonce: a device needs no clock, and nobody can ask twice with one proof.
"""

from hashlib import sha256
from typing import Final

from firmware_store.codec import encode
from firmware_store.cose import sign1
from firmware_store.keys import Signer
from server.domain.identity import DeviceId

RENEWAL_TYPE: Final = "application/tidegate-renewal+cbor"
NONCE_BYTES: Final = 32


def renewal_payload(device: DeviceId, csr: bytes, nonce: bytes) -> bytes:
    """Return the bytes that are signed: ``[device, SHA-256 of the request's DER, nonce]``."""
    return encode([device, sha256(csr).digest(), nonce])


def prove_renewal(signer: Signer, device: DeviceId, csr: bytes, nonce: bytes) -> bytes:
    """Return the proof, by the key that the device is known by."""
    return sign1(signer, renewal_payload(device, csr, nonce), typ=RENEWAL_TYPE)
