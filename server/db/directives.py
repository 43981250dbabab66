"""The current directive of each audience: counters that never fall, bytes that are kept, and their own outbox."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from server.db.database import Connection, Database
from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.protocol.messages import Counter
from server.protocol.orders import Action, Directive
from server.protocol.topics import Audience, CohortAudience, DeviceAudience

Sign = Callable[[Directive], bytes]
"""Makes the signed bytes of a directive whose counter is final."""


@dataclass(frozen=True, slots=True)
class DirectiveRecord:
    """What an audience is under now; ``ramp_end`` (Unix seconds) is where the published line stops rising."""

    audience: Audience
    counter: Counter
    issued_at: datetime
    expires_at: datetime
    action: Action
    campaign: CampaignId | None
    ramp_end: int
    body: bytes
    published: bool


_COLUMNS: Final = """audience, region, cohort, device_id, epoch, counter, issued_at, expires_at, action, campaign_id,
    ramp_end, body, published_counter"""

LOCK: Final = "SELECT epoch, counter FROM directive WHERE audience = $1 FOR UPDATE"

ISSUE: Final = """
    INSERT INTO directive (audience, region, cohort, device_id, epoch, counter, issued_at, expires_at, action,
                           campaign_id, ramp_end, body)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (audience) DO UPDATE
       SET epoch = excluded.epoch, counter = excluded.counter, issued_at = excluded.issued_at,
           expires_at = excluded.expires_at, action = excluded.action, campaign_id = excluded.campaign_id,
           ramp_end = excluded.ramp_end, body = excluded.body
     WHERE (directive.epoch, directive.counter) < (excluded.epoch, excluded.counter)
    RETURNING counter
"""

ALL: Final = f"SELECT {_COLUMNS} FROM directive"

UNPUBLISHED: Final = f"SELECT {_COLUMNS} FROM directive WHERE published_counter < counter"

MARK_PUBLISHED: Final = """
    UPDATE directive SET published_counter = $2 WHERE audience = $1 AND published_counter < $2
"""

REOPEN: Final = "UPDATE directive SET published_counter = 0 WHERE audience = $1"


async def issue(connection: Connection, orders: Sequence[Directive], sign: Sign, *, floor: int) -> None:
    """Number, sign and store ``orders`` inside the caller's transaction.

    The counter is max(previous + 1, now in Unix milliseconds, ``floor``), so that a restored database never counts
    backwards: ``floor`` is one more than the highest counter seen in any beat or retained copy.
    """
    for order in orders:
        key = audience_key(order.audience)
        row = await connection.fetchrow(LOCK, key)
        previous = 0 if row is None or row["epoch"] < order.counter.epoch else row["counter"]
        counter = max(previous + 1, order.issued * 1000, floor)
        final = replace(order, counter=Counter(order.counter.epoch, counter))
        audience = order.audience
        await connection.execute(
            ISSUE,
            key,
            audience.region,
            audience.cohort if isinstance(audience, CohortAudience) else None,
            audience.device if isinstance(audience, DeviceAudience) else None,
            final.counter.epoch,
            counter,
            datetime.fromtimestamp(final.issued, UTC),
            datetime.fromtimestamp(final.expires, UTC),
            final.action.value,
            final.campaign,
            0 if final.ramp is None else final.ramp.t1,
            sign(final),
        )


def audience_key(audience: Audience) -> str:
    """Return the text that names an audience in the table."""
    if isinstance(audience, CohortAudience):
        return f"{audience.region}/cohort/{audience.cohort}"
    return f"{audience.region}/device/{audience.device}"


class DirectiveRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[DirectiveRecord]:
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(ALL)]

    async def unpublished(self) -> list[DirectiveRecord]:
        """Return what the broker has not acknowledged yet: the outbox."""
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(UNPUBLISHED)]

    async def mark_published(self, record: DirectiveRecord) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(MARK_PUBLISHED, audience_key(record.audience), record.counter.counter)

    async def reopen(self, audience: Audience) -> None:
        """Put the audience's directive back into the outbox: the broker does not hold what it should."""
        async with self._database.transaction() as connection:
            await connection.execute(REOPEN, audience_key(audience))

    async def renew(self, orders: Sequence[Directive], sign: Sign, *, floor: int) -> None:
        """Issue directives that change nothing but time: a ramp's next stretch, or a later expiry."""
        async with self._database.transaction() as connection:
            await issue(connection, orders, sign, floor=floor)


def _record(row: Any) -> DirectiveRecord:
    audience: Audience
    if row["cohort"] is not None:
        audience = CohortAudience(Region(row["region"]), Cohort(row["cohort"]))
    else:
        audience = DeviceAudience(Region(row["region"]), DeviceId(row["device_id"]))
    return DirectiveRecord(
        audience=audience,
        counter=Counter(row["epoch"], row["counter"]),
        issued_at=row["issued_at"],
        expires_at=row["expires_at"],
        action=Action(row["action"]),
        campaign=row["campaign_id"],
        ramp_end=row["ramp_end"],
        body=row["body"],
        published=row["published_counter"] >= row["counter"],
    )
