"""Our signed documents other than bundles: ``[payload bytes, [+ COSE_Sign1]]``.

The media type in each signature says which kind of document it is for, so that a signature can never be moved from one
kind to another. The payload is only parsed once enough keys have signed it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from firmware_store.codec import Encodable, Tag, Value, decode, encode
from firmware_store.cose import COSE_SIGN1_TAG, sign1, verify1
from firmware_store.errors import CodecError, ConflictError, SignatureError, TooLargeError
from firmware_store.keys import Kid, PublicKey, Signer

MAX_DOCUMENT_BYTES: Final = 16384
MAX_SIGNATURES: Final = 16
_LAST_LABEL: Final = 23  # one byte each, so that every CBOR library sorts them alike


class Kind(StrEnum):
    ROOT = "root"
    STATUS = "status"
    DIRECTIVE = "directive"
    WELCOME = "welcome"
    RELEASE_RECORD = "release-record"
    CHECKPOINT = "checkpoint"
    RESTORE_NOTE = "restore-note"

    @property
    def media_type(self) -> str:
        return f"application/tidegate-{self}+cbor"


@dataclass(frozen=True, slots=True)
class Opened:
    """A document whose signatures held. "The same document" means equal ``payload`` bytes."""

    payload: bytes
    value: dict[int, Value]
    kids: frozenset[Kid]


def seal(kind: Kind, payload: Mapping[int, Encodable], signers: Sequence[Signer]) -> bytes:
    """Return the document, signed by each of ``signers``."""
    return seal_payload(kind, encode(payload), signers)


def seal_payload(kind: Kind, payload: bytes, signers: Sequence[Signer]) -> bytes:
    """Sign bytes that exist already: a directive's counter is signed once, and its payload is kept."""
    blocks = [decode(sign1(signer, payload, typ=kind.media_type)) for signer in signers]
    return encode([payload, blocks])


def unseal(
    data: bytes,
    kind: Kind,
    *,
    keys: Mapping[Kid, PublicKey],
    threshold: int,
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> Opened:
    """Return the payload once at least ``threshold`` distinct ``keys`` have signed it as a ``kind``.

    Raises:
        CodecError: not strict CBOR, or not the shape of a document.
        SignatureError: too few keys have signed, or a signature of one of ``keys`` does not hold.
    """
    payload, blocks = split(data, max_bytes=max_bytes)
    signed_by = {verify1(block, payload, keys, typ=kind.media_type) for block in blocks}
    kids = frozenset(kid for kid in signed_by if kid is not None)
    if len(kids) < max(threshold, 1):
        raise SignatureError(f"a {kind} signed by {len(kids)} of our keys where {max(threshold, 1)} are needed")
    return Opened(payload, decode_payload(payload), kids)


def add_signature(data: bytes, kind: Kind, signer: Signer) -> bytes:
    """Return the document, which may have no signature yet, with one more.

    Raises:
        ConflictError: this key has signed already, or there is no room for more.
        TooLargeError: with this signature nobody could open it any more.
        CodecError, SignatureError: not a document, or with a damaged signature by this key.
    """
    payload, blocks = split(data, least=0)
    if signed_by(data, kind, {signer.public.kid: signer.public}):
        raise ConflictError(f"key {signer.public.kid.hex()} has signed this {kind} already")
    if len(blocks) == MAX_SIGNATURES:
        raise ConflictError(f"a {kind} has at most {MAX_SIGNATURES} signatures")
    block = sign1(signer, payload, typ=kind.media_type)
    signed = encode([payload, [decode(one) for one in (*blocks, block)]])
    if len(signed) > MAX_DOCUMENT_BYTES:
        raise TooLargeError(f"a {kind} has at most {MAX_DOCUMENT_BYTES} bytes", limit_bytes=MAX_DOCUMENT_BYTES)
    return signed


def signed_by(data: bytes, kind: Kind, keys: Mapping[Kid, PublicKey]) -> frozenset[Kid]:
    """Return which of ``keys`` have signed the document as a ``kind`` so far: none, while it is in the making.

    Raises:
        CodecError: not strict CBOR, or not the shape of a document.
        SignatureError: a malformed signature, or one of those keys' does not hold.
    """
    payload, blocks = split(data, least=0)
    kids = {verify1(block, payload, keys, typ=kind.media_type) for block in blocks}
    return frozenset(kid for kid in kids if kid is not None)


def split(data: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES, least: int = 1) -> tuple[bytes, list[bytes]]:
    """Return the payload and the COSE_Sign1 blocks of a document, ``least`` or more, with nothing verified yet.

    Raises:
        CodecError: not strict CBOR, or not the shape of a document.
    """
    match decode(data, max_bytes=max_bytes):
        case [bytes(payload), [*blocks]] if least <= len(blocks) <= MAX_SIGNATURES and all(map(_is_sign1, blocks)):
            return payload, [encode(block) for block in blocks]
    raise CodecError(f"a signed document is [payload, [{least} to {MAX_SIGNATURES} COSE_Sign1]]")


def decode_payload(payload: bytes) -> dict[int, Value]:
    """Return the map inside of a document.

    Raises:
        CodecError: not a map with the keys 0 to 23.
    """
    value = decode(payload, max_bytes=MAX_DOCUMENT_BYTES)
    if not isinstance(value, dict):
        raise CodecError("a document's payload must be a map")
    members: dict[int, Value] = {}
    for label, member in value.items():
        if not isinstance(label, int) or not 0 <= label <= _LAST_LABEL:
            raise CodecError(f"a document's payload has no member {label!r}")
        members[label] = member
    return members


def _is_sign1(block: Value) -> bool:
    return isinstance(block, Tag) and block.number == COSE_SIGN1_TAG
