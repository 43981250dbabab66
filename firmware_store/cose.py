"""COSE_Sign1 (RFC 9052 section 4.2), reduced to the one form that we sign and accept.

Tag 18, the payload detached, ``{1: alg, 4: kid}`` (and ``16: typ`` for our own documents, RFC 9596) protected, nothing
unprotected. The key's id chooses the key, the key decides the algorithm, and the header must agree with it. A header
that we do not know could change what a signature means, so there is none that is ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from firmware_store.codec import Encodable, Tag, decode, encode
from firmware_store.errors import CodecError, SignatureError
from firmware_store.keys import KID_BYTES, Kid, PublicKey, Signer

MAX_BLOCK_BYTES: Final = 512
COSE_SIGN1_TAG: Final = 18

_ALG, _KID, _TYP = 1, 4, 16


def sign1(signer: Signer, payload: bytes, *, typ: str | None) -> bytes:
    """Return the tagged block whose detached payload is ``payload``; ``typ`` is None in SUIT envelopes only."""
    header: dict[int, Encodable] = {_ALG: int(signer.public.algorithm), _KID: bytes(signer.public.kid)}
    if typ is not None:
        header[_TYP] = typ
    protected = encode(header)
    signature = signer.sign(_signed_bytes(protected, payload))
    return encode(Tag(COSE_SIGN1_TAG, [protected, {}, None, signature]))


def verify1(block: bytes, payload: bytes, keys: Mapping[Kid, PublicKey], *, typ: str | None) -> Kid | None:
    """Return the id of the key that signed ``payload``, or None if it is none of ``keys``.

    Raises:
        SignatureError: the block is malformed, or names one of ``keys`` and does not hold under it.
    """
    protected, header, signature = _parse(block)
    key = keys.get(header.kid)
    if key is None:
        return None
    if header.algorithm != key.algorithm:
        raise SignatureError(f"algorithm {header.algorithm!r} with a key for {key.algorithm.name}")
    if header.typ != typ:
        raise SignatureError(f"a signature for {header.typ!r} where {typ!r} is expected")
    if not key.verify(signature, _signed_bytes(protected, payload)):
        raise SignatureError(f"the signature by key {header.kid.hex()} does not hold")
    return header.kid


def claimed_kid(block: bytes) -> Kid:
    """Return the id of the key that a block says it is by; nothing is verified.

    Raises:
        SignatureError: the block is malformed.
    """
    return _parse(block)[1].kid


def _signed_bytes(protected: bytes, payload: bytes) -> bytes:
    """The Sig_structure of RFC 9052 section 4.4, without external data."""
    return encode(["Signature1", protected, b"", payload])


@dataclass(frozen=True, slots=True)
class _Header:
    algorithm: int
    kid: Kid
    typ: object


def _parse_header(protected: bytes) -> _Header:
    match decode(protected):
        case {1: int(algorithm), 4: bytes(kid), **rest} if len(kid) == KID_BYTES and rest.keys() <= {_TYP}:
            return _Header(algorithm, Kid(kid), rest.get(_TYP))
    raise SignatureError("the protected header must be {1: algorithm, 4: key id} and, at most, 16: typ")


def _parse(block: bytes) -> tuple[bytes, _Header, bytes]:
    try:
        match decode(block, max_bytes=MAX_BLOCK_BYTES):
            case Tag(number=18, value=[bytes(protected), {**unprotected}, None, bytes(signature)]) if not unprotected:
                return protected, _parse_header(protected), signature
    except CodecError as exc:
        raise SignatureError(f"a malformed COSE_Sign1: {exc}") from exc
    raise SignatureError("not a tagged COSE_Sign1 with a detached payload and an empty unprotected header")
