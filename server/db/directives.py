"""The current directive of each audience: counters that never fall, bytes that are kept, and their own outbox."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from firmware_store.errors import ConflictError
from server.db.database import Connection, Database
from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.protocol.messages import Counter
from server.protocol.orders import Action, Directive
from server.protocol.topics import Audience, CohortAudience, DeviceAudience

Sign = Callable[[Directive], bytes]
"""Makes the signed bytes of a directive whose counter is final."""

Read = Callable[[bytes], Directive]
"""Reads a directive from its signed bytes."""


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

LOCK: Final = "SELECT epoch, counter, body FROM directive WHERE audience = $1 FOR UPDATE"

LOCK_CAMPAIGN: Final = "SELECT FROM campaign WHERE id = $1 AND revision = $2 FOR NO KEY UPDATE"

ISSUE: Final = """
    INSERT INTO directive (audience, region, cohort, device_id, epoch, counter, issued_at, expires_at, action,
                           campaign_id, ramp_end, body)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (audience) DO UPDATE
       SET epoch = excluded.epoch, counter = excluded.counter, issued_at = excluded.issued_at,
           expires_at = excluded.expires_at, action = excluded.action, campaign_id = excluded.campaign_id,
           ramp_end = excluded.ramp_end, body = excluded.body, published_counter = 0
     WHERE (directive.epoch, directive.counter) < (excluded.epoch, excluded.counter)
    RETURNING counter
"""

ALL: Final = f"SELECT {_COLUMNS} FROM directive"

UNPUBLISHED: Final = f"SELECT {_COLUMNS} FROM directive WHERE published_counter < counter"

MARK_PUBLISHED: Final = """
    UPDATE directive SET published_counter = counter WHERE audience = $1 AND epoch = $2 AND counter = $3
"""

REOPEN: Final = "UPDATE directive SET published_counter = 0 WHERE audience = $1"


async def issue(connection: Connection, orders: Sequence[Directive], sign: Sign, *, floor: int) -> None:
    """Number, sign and store ``orders`` inside the caller's transaction.

    The counter is max(previous + 1, now in Unix milliseconds, ``floor``), so that a restored database never counts
    backwards: ``floor`` is one more than the highest counter seen in any beat or retained copy.

    Raises:
        ConflictError: an audience is under an order of a higher epoch, or somebody gave it one just now.
    """
    for order in orders:
        key = audience_key(order.audience)
        row = await connection.fetchrow(LOCK, key)
        previous = 0 if row is None or row["epoch"] < order.counter.epoch else row["counter"]
        counter = max(previous + 1, order.issued * 1000, floor)
        final = replace(order, counter=Counter(order.counter.epoch, counter))
        audience = order.audience
        stored = await connection.fetchval(
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
        if stored is None:
            raise ConflictError(f"A newer order for {key} is there already; look at it and try again.")


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
            await connection.execute(
                MARK_PUBLISHED, audience_key(record.audience), record.counter.epoch, record.counter.counter
            )

    async def reopen(self, audience: Audience) -> None:
        """Put the audience's directive back into the outbox: the broker does not hold what it should."""
        async with self._database.transaction() as connection:
            await connection.execute(REOPEN, audience_key(audience))

    async def renew(
        self, orders: Sequence[Directive], sign: Sign, *, floor: int, campaign: CampaignId, revision: int
    ) -> bool:
        """Issue directives that change nothing but time: a ramp's next stretch, or a later expiry.

        False, and nothing is issued, if the campaign is no longer what the caller has read: a renewed offer must not
        follow a halt.
        """
        async with self._database.transaction() as connection:
            if await connection.fetchrow(LOCK_CAMPAIGN, campaign, revision) is None:
                return False
            await issue(connection, orders, sign, floor=floor)
            return True

    async def reissue(self, audiences: Iterable[Audience], read: Read, sign: Sign, *, floor: int) -> None:
        """Say what holds for these audiences now once more, under a higher counter."""
        async with self._database.transaction() as connection:
            for audience in audiences:
                row = await connection.fetchrow(LOCK, audience_key(audience))
                if row is not None:
                    await issue(connection, [read(row["body"])], sign, floor=floor)


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
