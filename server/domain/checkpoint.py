"""A checkpoint of the audit (pure): how many rows there were, and the digest of the last, signed by a session key.

Whoever owns the database can write a whole new chain, or end it sooner. What was signed and kept outside of the
database, they cannot.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from firmware_store.codec import Encodable, Value
from firmware_store.documents import Kind
from firmware_store.errors import AudienceError, CodecError, SignatureError
from firmware_store.root import Root
from server.domain.audit import Head


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``at``: Unix seconds."""

    fleet: bytes
    head: Head
    at: int


def checkpoint_map(checkpoint: Checkpoint) -> dict[int, Encodable]:
    """Return what is signed."""
    head = checkpoint.head
    return {0: 1, 1: checkpoint.fleet, 2: head.seq, 3: head.digest, 4: checkpoint.at}


def open_checkpoint(data: bytes, roots: Iterable[Root]) -> Checkpoint:
    """Return a checkpoint that a session key of one of these roots has signed.

    Keys that were replaced since count: what they signed then, they signed.

    Raises:
        CodecError: not a checkpoint.
        SignatureError: by none of these roots' keys.
        AudienceError: of another fleet.
    """
    value = open_by_any(Kind.CHECKPOINT, data, roots)
    match value:
        case {0: 1, 1: bytes(fleet), 2: int(seq), 3: bytes(digest), 4: int(at)} if len(value) == 5:
            return Checkpoint(fleet, Head(seq, digest), at)
    raise CodecError("a checkpoint has a fleet, a number, a digest and a time")


def open_by_any(kind: Kind, data: bytes, roots: Iterable[Root]) -> dict[int, Value]:
    """Return what the keys of one of these roots have signed; member 1 is its fleet.

    Raises:
        CodecError: not a document.
        SignatureError: by none of these roots' keys.
        AudienceError: of another fleet.
    """
    for root in roots:
        try:
            value = root.unseal(kind, data).value
        except SignatureError:
            continue
        if value.get(1) != root.fleet:
            raise AudienceError(f"a {kind} of another fleet")
        return value
    raise SignatureError(f"a {kind} that no session key of this fleet has signed")
