"""The chain of the audit (pure): what a row's digest is made of, and which row is the first that does not fit.

The digest of a row is SHA-256 over the digest of the row before it and the row's own members, encoded as one
deterministic CBOR array (RFC 8949 4.2.1), its number among them. So an edit shows in the row itself, a row that is
missing or in another place in the one that follows it. That rows were cut off the end shows only against a head that
was kept elsewhere: see ``server.domain.checkpoint``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from firmware_store.codec import Encodable, encode

FIRST_PREVIOUS: Final = bytes(32)
"""What stands for the digest of the row before the first."""

_FORMAT: Final = "tidegate-audit-1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of a chain: its number, 0 where there is none, and its digest."""

    seq: int = 0
    digest: bytes = FIRST_PREVIOUS


@dataclass(frozen=True, slots=True)
class Row:
    """One row; a row that is in no table yet has no number and no digests.

    ``before`` and ``after`` are JSON texts, None where there is nothing to say. ``decision`` is the number of the
    decision of whose evidence ``evidence`` is the digest.
    """

    at: datetime
    who: str
    token: str
    what: str
    named: str
    before: str | None
    after: str | None
    reason: str
    request_id: str
    decision: int | None
    evidence: bytes | None
    seq: int = 0
    previous: bytes = b""
    digest: bytes = b""

    @property
    def head(self) -> Head:
        """Return the chain's head as long as nothing follows this row."""
        return Head(self.seq, self.digest)


@dataclass(frozen=True, slots=True)
class Fault:
    """The first row that does not fit, and why."""

    seq: int
    why: str


def canonical(members: Mapping[str, object]) -> str:
    """Return the one JSON text of some members."""
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def chained(head: Head, row: Row) -> Row:
    """Return the row as the one that follows ``head``; its own number and digests do not count."""
    placed = replace(row, seq=head.seq + 1, previous=head.digest)
    return replace(placed, digest=digest_of(placed))


def digest_of(row: Row) -> bytes:
    """Return the digest that a row should have, by its members and what it says of the row before."""
    members: list[Encodable] = [
        _FORMAT,
        row.previous,
        row.seq,
        (row.at - _EPOCH) // _MICROSECOND,
        row.who,
        row.token,
        row.what,
        row.named,
        row.before,
        row.after,
        row.reason,
        row.request_id,
        row.decision,
        row.evidence,
    ]
    return sha256(encode(members)).digest()


@dataclass(slots=True)
class Walk:
    """A chain that is looked through from its first row on; ``anchors``: digests of rows that were kept elsewhere."""

    anchors: Mapping[int, bytes]
    head: Head = Head()
    fault: Fault | None = None
    _anchored: int = 0

    def take(self, row: Row) -> None:
        """Look at the next row; once a fault was found nothing more is looked at."""
        if self.fault is not None:
            return
        self.fault = _fault_after(self.head, row)
        if self.fault is None and self.anchors.get(row.seq, row.digest) != row.digest:
            first = self._anchored + 1
            self.fault = Fault(first, f"from here to row {row.seq} the chain was written anew: its digest was another")
        if self.fault is None:
            self.head = row.head
            if row.seq in self.anchors:
                self._anchored = row.seq

    def end(self) -> Fault | None:
        """Return the first fault, once all rows were taken: rows that the anchors know of are missing at the end."""
        last = max(self.anchors, default=0)
        if self.fault is None and last > self.head.seq:
            missing = self.head.seq + 1
            self.fault = Fault(missing, f"the table ends before it, and once went on to row {last} at least")
        return self.fault


def _fault_after(head: Head, row: Row) -> Fault | None:
    """Return what is wrong with the row that comes next in the table; None if it follows ``head`` as it should."""
    if row.seq > head.seq + 1:
        return Fault(head.seq + 1, f"it is missing: row {row.seq} comes after row {head.seq}")
    if row.seq <= head.seq:
        return Fault(row.seq, "its number is below 1, or there twice")
    if digest_of(row) != row.digest:
        return Fault(row.seq, "it is not what it was when it was written")
    if row.previous != head.digest:
        return Fault(
            row.seq, f"it was not written after row {head.seq} as that is now" if head.seq else "it was not the first"
        )
    return None
