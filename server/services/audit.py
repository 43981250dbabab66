"""The audit as a whole: looking it through, giving it out, and keeping its head where the database cannot reach it.

The head is signed and written to the data folder a second after each change, and once an hour to a list beside it that
only grows. Rows that a database's owner removes or writes anew no longer fit what was signed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from firmware_store.errors import (
    CodecError,
    ConfigurationError,
    SignerUnavailableError,
    StoreUnavailableError,
    TrustError,
)
from firmware_store.private_files import replace_file
from firmware_store.root import Root
from server.db.audit import AuditRepository, Entry, Wanted
from server.domain.audit import Fault, Head, Row, Walk
from server.domain.audit_file import first_line, last_line, line_of
from server.domain.checkpoint import Checkpoint, open_checkpoint
from server.domain.events import Event, EventType
from server.domain.restore_note import RestoreNote, note_in
from server.domain.trust import begin
from server.services.authority import Authority
from server.services.upkeep import Progress

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
SLOW_LOOK_S: Final = 30.0
"""Where another program signs, which directives may be waiting for."""

HISTORY_S: Final = 3600.0
"""So often a checkpoint is kept for good: some 3 MB a year."""


@dataclass(slots=True)
class Verification(Progress):
    """``first_bad`` is None where every row is as it was written; so many signed ``checkpoints`` were looked at.

    ``restores``: a sentence for each backup that the chain goes on from.
    """

    first_bad: int | None = None
    why: str = ""
    head_digest: str = ""
    checkpoints: int = 0
    newest_checkpoint: int = 0
    restores: list[str] = field(default_factory=list)


class Checkpoints:
    """The folder in which they are kept: ``newest``, and ``history`` with one a line, in hexadecimal."""

    def __init__(self, folder: Path) -> None:
        self._newest = folder / "newest"
        self._history = folder / "history"

    def read(self, roots: Iterable[Root]) -> list[Checkpoint]:
        """Return them all, the newest last. Raises: ConfigurationError: one cannot be read, or is not ours."""
        roots = list(roots)
        try:
            lines = self._history.read_text().splitlines() if self._history.exists() else []
            lines += self._newest.read_text().splitlines() if self._newest.exists() else []
            return [open_checkpoint(bytes.fromhex(line), roots) for line in lines]
        except (OSError, ValueError, CodecError, TrustError) as exc:
            raise ConfigurationError(f"A checkpoint of the audit in {self._newest.parent} is not good: {exc}.") from exc

    def replace_newest(self, signed: bytes) -> None:
        """Raises: ConfigurationError: it cannot be written."""
        try:
            self._newest.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigurationError(f"cannot write {self._newest.parent}: {exc.strerror}") from exc
        replace_file(self._newest, signed.hex().encode() + b"\n")

    def keep_newest(self) -> None:
        """Add the newest to the history. Raises: ConfigurationError: it cannot be written."""
        try:
            if self._newest.exists():
                with self._history.open("a") as file:
                    file.write(self._newest.read_text())
        except OSError as exc:
            raise ConfigurationError(f"cannot write {self._history}: {exc.strerror}") from exc


class Audit:
    """``roots``: the bodies of all known roots, by version."""

    def __init__(
        self,
        *,
        repository: AuditRepository,
        authority: Authority,
        roots: Callable[[], Mapping[int, bytes]],
        folder: Path,
        tell: Callable[[Event], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._authority = authority
        self._roots = roots
        self._checkpoints = Checkpoints(folder)
        self._tell = tell
        self._clock = clock
        self._last: Checkpoint | None = None
        self._kept_at = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def note(self, what: str, named: str, *, caller: str, after: Mapping[str, object]) -> None:
        """Write down something that is no change of the database, such as what becomes of blobs."""
        await self._repository.add(Entry(what, named, self._now(), who=caller, after=after))

    async def page(self, wanted: Wanted, *, before: int, limit: int) -> list[Row]:
        return await self._repository.page(wanted, before=before, limit=limit)

    # --- looking it through ---

    async def verify(self) -> AsyncIterator[Verification]:
        """Yield the report again and again while it grows; the last one is complete.

        Raises:
            StoreUnavailableError: the database does not answer.
            ConfigurationError: a checkpoint in the data folder is not good.
        """
        notes, unsigned = await self._restores()
        known = await self._known(notes)
        head = await self._repository.head()
        walk = Walk(_anchors(head) | _anchors(*(one.head for one in known)))  # what was signed counts more
        report = Verification(total=head.seq, checkpoints=len(known))
        report.newest_checkpoint = max((one.head.seq for one in known), default=0)
        yield report
        async for batch in self._repository.batches():
            for row in batch:
                walk.take(row)
            report.seen += len(batch)
            yield report
            if walk.fault is not None:
                break
        fault = await self._with_evidence(_first(walk.end(), unsigned))
        if fault is not None:
            report.first_bad, report.why = fault.seq, fault.why
            await self._alarm(fault)
        report.restores = [note.sentence for note in notes]
        report.head_digest = walk.head.digest.hex()
        yield report

    async def _alarm(self, fault: Fault) -> None:
        log.error("audit_altered", row=fault.seq, why=fault.why)
        told = {"row": fault.seq, "sentence": f"Row {fault.seq} of the audit: {fault.why}."}
        await self._tell(Event(EventType.AUDIT_ALTERED, "audit", self._now(), told))

    async def _with_evidence(self, fault: Fault | None) -> Fault | None:
        other = await self._repository.other_evidence()
        return _first(
            fault, None if other is None else Fault(other, "its decision does not say any more what it said then")
        )

    async def _restores(self) -> tuple[list[RestoreNote], Fault | None]:
        """Return what the rows of restores say, and the first of them that nobody has signed for."""
        notes, fault, roots = [], None, self._walked()
        for row in await self._repository.of_restores():
            if (note := note_in(row, roots)) is not None:
                notes.append(note)
            else:
                fault = _first(fault, Fault(row.seq, "it tells of a restore, and no session key has signed for that"))
        return notes, fault

    async def _known(self, notes: Iterable[RestoreNote]) -> list[Checkpoint]:
        """Return the checkpoints, the newest last, but for those of rows that a restore has given up."""
        known = await asyncio.to_thread(self._checkpoints.read, self._walked())
        return [one for one in known if not any(note.explains(one) for note in notes)]

    # --- giving it out ---

    async def export(self) -> AsyncIterator[bytes]:
        """Yield the lines of an exported audit; see ``server.domain.audit_file``.

        Raises:
            StoreUnavailableError, ConfigurationError: see ``verify``.
            TrustError: a row is not what it was: nothing more is signed for.
            SignerUnavailableError: nobody signs.
        """
        notes, unsigned = await self._restores()
        walk = Walk(_anchors(*(one.head for one in await self._known(notes))))
        yield _line(first_line(self._authority.root.fleet, self._now()))
        async for batch in self._repository.batches():
            for row in batch:
                walk.take(row)
            yield b"".join(_line(line_of(row)) for row in batch)
        if (fault := _first(walk.end(), unsigned)) is not None:
            raise TrustError(f"The audit was altered, so its end is not signed: row {fault.seq}: {fault.why}.")
        signed = await self._authority.sign_checkpoint(self._checkpoint(walk.head))
        yield _line(last_line(signed, [body for _, body in sorted(self._roots().items())]))

    # --- keeping its head ---

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            await self._try()
            await asyncio.sleep(SLOW_LOOK_S if self._authority.mandate.session.blocks else LOOK_S)

    async def end(self) -> None:
        """Keep the head of what was changed last."""
        await self._try()

    async def checkpoint(self) -> None:
        """Sign the head and keep it, if rows have come.

        Raises:
            StoreUnavailableError: the database does not answer. SignerUnavailableError: nobody signs.
            ConfigurationError: a checkpoint in the folder is not good, or cannot be written.
        """
        async with self._one_at_a_time:
            if self._last is None:
                notes, _ = await self._restores()
                known = await self._known(notes)
                self._last = known[-1] if known else self._checkpoint(Head())
            head = await self._repository.head()
            if head == self._last.head:
                return
            altered = not await self._repository.has(self._last.head)
            if altered:
                await self._alarm(Fault(self._last.head.seq, "it is not what was signed"))
            if altered or self._clock() - self._kept_at >= HISTORY_S:
                await asyncio.to_thread(self._checkpoints.keep_newest)
                self._kept_at = self._clock()
            new = self._checkpoint(head)
            signed = await self._authority.sign_checkpoint(new)
            await asyncio.to_thread(self._checkpoints.replace_newest, signed)
            self._last = new

    async def _try(self) -> None:
        try:
            await self.checkpoint()
        except (StoreUnavailableError, SignerUnavailableError, ConfigurationError) as exc:
            log.warning("audit_not_checkpointed", reason=str(exc))

    def _checkpoint(self, head: Head) -> Checkpoint:
        return Checkpoint(self._authority.root.fleet, head, int(self._clock()))

    def _walked(self) -> list[Root]:
        """Return the known roots, the newest first; each was verified when it came."""
        return [begin(body).root for _, body in sorted(self._roots().items(), reverse=True)]

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _anchors(*heads: Head) -> dict[int, bytes]:
    return {head.seq: head.digest for head in heads if head.seq}


def _first(one: Fault | None, other: Fault | None) -> Fault | None:
    """Return the fault that comes first in the chain."""
    return min((fault for fault in (one, other) if fault is not None), key=lambda fault: fault.seq, default=None)


def _line(text: str) -> bytes:
    return text.encode() + b"\n"
