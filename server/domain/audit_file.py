"""An exported audit (pure): JSON lines that anybody can check without the server.

The first line says what the file is; each line between is a row; the last one has the checkpoint that covers them, and
the roots whose keys may have signed it, from the one that devices pin on. ``before`` and ``after`` are JSON values: the
canonical text of them is what the digests are made of.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from firmware_store.errors import CodecError, InvalidInputError
from firmware_store.root import Root
from server.domain.audit import Fault, Row, Walk, canonical
from server.domain.checkpoint import Checkpoint, open_checkpoint
from server.domain.trust import begin

FORMAT: Final = "tidegate-audit-1"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file turned out to be; ``pinned``: the first root in it, which whoever checks it has to know."""

    rows: int
    fault: Fault | None
    checkpoint: Checkpoint
    pinned: bytes


def first_line(fleet: bytes, now: datetime) -> str:
    return canonical({"format": FORMAT, "fleet": fleet.hex(), "exported_at": now.isoformat()})


def line_of(row: Row) -> str:
    """Return a row as one line; ``members_of`` says what is in it."""
    return json.dumps(members_of(row), ensure_ascii=False)


def members_of(row: Row) -> dict[str, Any]:
    """Return a row as JSON has it: digests in hexadecimal, ``before`` and ``after`` as values."""
    return {
        "seq": row.seq,
        "at": row.at.isoformat(),
        "who": row.who,
        "token": row.token,
        "what": row.what,
        "object": row.named,
        "before": None if row.before is None else json.loads(row.before),
        "after": None if row.after is None else json.loads(row.after),
        "reason": row.reason,
        "request_id": row.request_id,
        "decision": row.decision,
        "evidence": None if row.evidence is None else row.evidence.hex(),
        "previous": row.previous.hex(),
        "digest": row.digest.hex(),
    }


def last_line(checkpoint: bytes, roots: Sequence[bytes]) -> str:
    return canonical({"checkpoint": _text(checkpoint), "roots": [_text(root) for root in roots]})


def check_file(lines: Iterable[str]) -> Checked:
    """Read a whole file; its roots are believed from the first one on.

    Raises:
        InvalidInputError: it is no exported audit, or ends before its last line.
        TrustError: the roots do not follow each other, or none of their keys has signed the checkpoint.
    """
    parsed = _parsed(lines)
    head: Any = next(parsed, {})
    if head.get("format") != FORMAT:
        raise InvalidInputError("This is no exported audit.")
    walk, rows = Walk({}), 0
    for members in parsed:
        if "checkpoint" in members:
            return _concluded(members, walk, rows, parsed)
        walk.take(_row(members, rows + 1))
        rows += 1
    raise InvalidInputError(f"The file ends after row {rows}, without a checkpoint: it is cut off.")


def _concluded(members: Any, walk: Walk, rows: int, rest: Iterator[Any]) -> Checked:
    if next(rest, None) is not None:
        raise InvalidInputError("Something follows the checkpoint.")
    try:
        bodies = [b64decode(text, validate=True) for text in members["roots"]]
        checkpoint = open_checkpoint(b64decode(members["checkpoint"], validate=True), _walked(bodies))
    except (KeyError, TypeError, ValueError, IndexError, CodecError) as exc:
        raise InvalidInputError("The last line of the file is damaged.") from exc
    walk.anchors = {checkpoint.head.seq: checkpoint.head.digest} if checkpoint.head.seq else {}
    fault = walk.end()
    if fault is None and walk.head != checkpoint.head:
        fault = Fault(1, "the rows are not those that the checkpoint is of")
    return Checked(rows, fault, checkpoint, bodies[0])


def _walked(bodies: Sequence[bytes]) -> list[Root]:
    trust = begin(bodies[0])
    roots = [trust.root]
    for body in bodies[1:]:
        trust = trust.next_root(body)
        roots.append(trust.root)
    return roots


def _parsed(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        try:
            members = json.loads(line)
        except ValueError as exc:
            raise InvalidInputError(f"Line {number} is not JSON: the file is damaged, or cut off.") from exc
        if not isinstance(members, dict):
            raise InvalidInputError(f"Line {number} is no row.")
        yield members


def _row(members: Any, number: int) -> Row:
    try:
        return Row(
            seq=int(members["seq"]),
            at=datetime.fromisoformat(members["at"]),
            who=str(members["who"]),
            token=str(members["token"]),
            what=str(members["what"]),
            named=str(members["object"]),
            before=None if members["before"] is None else canonical(members["before"]),
            after=None if members["after"] is None else canonical(members["after"]),
            reason=str(members["reason"]),
            request_id=str(members["request_id"]),
            decision=members["decision"],
            evidence=None if members["evidence"] is None else bytes.fromhex(members["evidence"]),
            previous=bytes.fromhex(members["previous"]),
            digest=bytes.fromhex(members["digest"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidInputError(f"Row {number} of the file is not a row.") from exc


def _text(data: bytes) -> str:
    return b64encode(data).decode()
