"""The current directive of each audience: counters that never fall, bytes that are kept, and their own outbox."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from firmware_store.errors import ConflictError
from server.db.database import Connection, Database
from server.domain.campaign import OFFERING, State
from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.protocol.messages import Counter
from server.protocol.orders import HALTED_MOST, Action, Directive
from server.protocol.topics import Audience, CohortAudience, DeviceAudience

Sign = Callable[[Directive, State | None], Awaitable[bytes]]
"""Makes the signed bytes of a directive whose counter is final. It is told the state of the directive's campaign, as it
is in the transaction that stores the bytes; None where the directive names no campaign. It may refuse, by raising.
"""

SayAgain = Callable[[bytes, State | None], Awaitable[Directive | None]]
"""Makes the order that is to stand in the place of these signed bytes, or None where they may stay."""

HALTED_FOR: Final = timedelta(days=180)
"""For so long every directive names a halted release: a device that slept through the halt still learns of it."""


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

LOCK_CAMPAIGN: Final = "SELECT FROM campaign WHERE id = $1 AND revision = $2 FOR NO KEY UPDATE"

# Campaigns are locked before directives, in the order of their ids, by whoever locks both.
LOCK_STATES: Final = "SELECT id, state FROM campaign WHERE id = ANY($1) ORDER BY id FOR SHARE"

NAMED: Final = "SELECT DISTINCT campaign_id FROM directive WHERE audience = ANY($1) AND campaign_id IS NOT NULL"

STANDING: Final = """
    SELECT audience, campaign_id, body FROM directive WHERE audience = ANY($1) ORDER BY audience FOR UPDATE
"""

# A release that an active campaign offers is not listed, though it was halted before: it was approved again since.
# Few campaigns of a cohort were ever halted; asked for their time at once, the planner reckons with a third of all.
HALTED: Final = """
    WITH ever AS MATERIALIZED (
        SELECT id, bundle_id, halted_at FROM campaign WHERE cohort = $1 AND halted_at IS NOT NULL
    )
    SELECT bundle.manifest_digest
      FROM ever
      JOIN campaign_region AS r ON r.campaign_id = ever.id AND r.region = $2
      JOIN bundle ON bundle.id = ever.bundle_id
     WHERE ever.halted_at > $3
       AND NOT EXISTS (SELECT FROM campaign_region AS other JOIN campaign AS active ON active.id = other.campaign_id
                        WHERE other.cohort = $1 AND other.region = $2 AND other.active
                          AND active.state <> 'rolling_back' AND active.bundle_id = ever.bundle_id)
     GROUP BY bundle.manifest_digest ORDER BY max(ever.halted_at) DESC LIMIT $4
"""

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

# An offer whose campaign ended while nobody could sign: something else should stand there.
OVERDUE: Final = """
    SELECT directive.region, directive.cohort, directive.device_id
      FROM directive JOIN campaign ON campaign.id = directive.campaign_id
     WHERE directive.action = $1 AND campaign.state <> ALL($2)
"""

AUDIENCES: Final = "SELECT region, cohort, device_id FROM directive"

UNPUBLISHED: Final = f"SELECT {_COLUMNS} FROM directive WHERE published_counter < counter"

MARK_PUBLISHED: Final = """
    UPDATE directive SET published_counter = counter WHERE audience = $1 AND epoch = $2 AND counter = $3
"""

REOPEN: Final = "UPDATE directive SET published_counter = 0 WHERE audience = $1"


async def issue(connection: Connection, orders: Sequence[Directive], sign: Sign, *, floor: int) -> None:
    """Number, sign and store ``orders`` inside the caller's transaction, with the releases halted for their audience.

    The counter is max(previous + 1, now in Unix milliseconds, ``floor``), so that a restored database never counts
    backwards: ``floor`` is one more than the highest counter seen in any beat or retained copy.

    Raises:
        ConflictError: an audience is under an order of a higher epoch, or somebody gave it one just now.
        Exception: whatever ``sign`` raises.
    """
    states = await lock_states(connection, [order.campaign for order in orders if order.campaign is not None])
    for order in orders:
        key = audience_key(order.audience)
        row = await connection.fetchrow(LOCK, key)
        previous = 0 if row is None or row["epoch"] < order.counter.epoch else row["counter"]
        counter = max(previous + 1, order.issued * 1000, floor)
        audience = order.audience
        final = replace(
            order,
            counter=Counter(order.counter.epoch, counter),
            halted=await _halted(connection, audience, datetime.fromtimestamp(order.issued, UTC)),
        )
        state = None if final.campaign is None else states.get(final.campaign)
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
            await sign(final, state),
        )
        if stored is None:
            raise ConflictError(f"A newer order for {key} is there already; look at it and try again.")


async def lock_states(connection: Connection, campaigns: Sequence[CampaignId]) -> Mapping[CampaignId, State]:
    """Return the campaigns' states, which stay as they are until the caller's transaction ends."""
    if not campaigns:
        return {}
    rows = await connection.fetch(LOCK_STATES, campaigns)
    return {row["id"]: State(row["state"]) for row in rows}


async def say_again(
    connection: Connection, audiences: Sequence[Audience], decide: SayAgain, sign: Sign, *, floor: int
) -> None:
    """Replace what stands for these audiences, inside the caller's transaction, where ``decide`` says so.

    Raises:
        ConflictError: an audience has come under another campaign just now; try again.
    """
    keys = sorted(map(audience_key, audiences))
    named = [row["campaign_id"] for row in await connection.fetch(NAMED, keys)]
    states = await lock_states(connection, named)
    for row in await connection.fetch(STANDING, keys):
        campaign = row["campaign_id"]
        if campaign is not None and campaign not in states:
            raise ConflictError(f"A newer order for {row['audience']} is there already; look at it and try again.")
        order = await decide(row["body"], None if campaign is None else states[campaign])
        if order is not None:
            await issue(connection, [order], sign, floor=floor)


async def _halted(connection: Connection, audience: Audience, now: datetime) -> tuple[bytes, ...]:
    """Return the newest halted releases, sorted. A device's own order narrows its cohort's, which lists them."""
    if not isinstance(audience, CohortAudience):
        return ()
    rows = await connection.fetch(HALTED, audience.cohort, audience.region, now - HALTED_FOR, HALTED_MOST)
    return tuple(sorted(row["manifest_digest"] for row in rows))


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

    async def issue(self, orders: Sequence[Directive], sign: Sign, *, floor: int) -> None:
        """Issue directives that name no campaign. Raises: see ``issue``."""
        async with self._database.transaction() as connection:
            await issue(connection, orders, sign, floor=floor)

    async def overdue(self) -> list[Audience]:
        """Return the audiences that still stand under the offer of a campaign that was halted, or is over."""
        may_stand = [state.value for state in OFFERING | {State.PAUSED}]
        async with self._database.transaction() as connection:
            return [audience_of(row) for row in await connection.fetch(OVERDUE, Action.OFFER.value, may_stand)]

    async def reissue(self, audiences: Iterable[Audience], decide: SayAgain, sign: Sign, *, floor: int) -> None:
        """Say what holds for these audiences now once more, under a higher counter. Raises: ConflictError."""
        async with self._database.transaction() as connection:
            await say_again(connection, list(audiences), decide, sign, floor=floor)


def audience_of(row: Any) -> Audience:
    """Return whom a row of the table is for."""
    if row["cohort"] is not None:
        return CohortAudience(Region(row["region"]), Cohort(row["cohort"]))
    return DeviceAudience(Region(row["region"]), DeviceId(row["device_id"]))


def _record(row: Any) -> DirectiveRecord:
    return DirectiveRecord(
        audience=audience_of(row),
        counter=Counter(row["epoch"], row["counter"]),
        issued_at=row["issued_at"],
        expires_at=row["expires_at"],
        action=Action(row["action"]),
        campaign=row["campaign_id"],
        ramp_end=row["ramp_end"],
        body=row["body"],
        published=row["published_counter"] >= row["counter"],
    )
