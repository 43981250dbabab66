"""What is left of every change: the audit and the events, put together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from server.db.audit import AuditRepository
from server.db.database import Database
from server.db.outbox import OutboxRepository
from server.services.audit import Audit
from server.services.authority import Authority
from server.services.feed import Feed


@dataclass(frozen=True, slots=True)
class Trail:
    """Both, and the outbox that events are put into."""

    audit: Audit
    feed: Feed
    outbox: OutboxRepository


def make_trail(
    database: Database,
    *,
    authority: Authority,
    roots: Callable[[], Mapping[int, bytes]],
    data_dir: Path,
    events_days: int,
) -> Trail:
    """Return them; the audit's head is kept in ``data_dir``."""
    outbox = OutboxRepository(database)
    audit = Audit(
        repository=AuditRepository(database),
        authority=authority,
        roots=roots,
        folder=data_dir / "audit",
        tell=outbox.put,
    )
    return Trail(audit, Feed(outbox, kept=timedelta(days=events_days)), outbox)
