"""What each broker retains of blobs, and should: so that a start, a crash or another broker's store changes nothing.

``migrations/0014_add_published_blobs.sql`` says what the states mean.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from server.db.database import Database
from server.domain.campaign import JUDGED
from server.domain.identity import BundleId, CampaignId

BROKER: Final = "default"
"""The one broker of today."""


class BlobState(StrEnum):
    """Values are what is stored."""

    WANTED = "wanted"
    PUBLISHED = "published"
    SPARE = "spare"
    WITHDRAWING = "withdrawing"
    WITHDRAWN = "withdrawn"


AT_BROKER: Final = frozenset({BlobState.WANTED, BlobState.PUBLISHED, BlobState.SPARE})
"""What counts against the budget; what is being withdrawn is gone before anything else is published."""


@dataclass(frozen=True, slots=True)
class WantedBlob:
    """One to be published; ``at``: since when."""

    digest: bytes
    size_bytes: int
    at: datetime


class Amount(NamedTuple):
    blobs: int
    size_bytes: int


class Progress(NamedTuple):
    """What a bundle's devices cannot do without, and how much of it is at the broker."""

    needed: Amount
    published: Amount


class Room(NamedTuple):
    """Bytes: of one bundle, of what other campaigns need, and of the bundle without what it shares with them."""

    own: int
    taken: int
    added: int


NEEDED: Final = "SELECT DISTINCT bundle_id FROM campaign WHERE state = ANY($1) AND transport = 'mqtt'"

# What is at the broker still, and was not needed any more, is needed again.
WANT: Final = """
    INSERT INTO published_blob AS known (broker, digest, size_bytes, state, at)
    SELECT DISTINCT ON (digest) $1, digest, size_bytes, 'wanted', $3::timestamptz
      FROM bundle_need WHERE bundle_id = ANY($2) AND (is_essential OR $4)
    ON CONFLICT (broker, digest) DO UPDATE
       SET state = CASE known.state WHEN 'spare' THEN 'published' ELSE 'wanted' END, at = excluded.at
     WHERE known.state IN ('spare', 'withdrawing', 'withdrawn')
"""

# Of what was not published yet, nobody knows whether it got there.
RELEASE: Final = """
    UPDATE published_blob AS known
       SET state = CASE state WHEN 'published' THEN 'spare' ELSE 'withdrawing' END, at = $3
     WHERE broker = $1 AND state IN ('wanted', 'published')
       AND NOT EXISTS (SELECT FROM bundle_need
                        WHERE digest = known.digest AND bundle_id = ANY($2) AND (is_essential OR $4))
"""

WITHDRAW_HALTED: Final = """
    UPDATE published_blob SET state = 'withdrawing', at = $2
     WHERE broker = $1 AND state = 'spare'
       AND digest IN (SELECT digest FROM bundle_need
                       WHERE bundle_id IN (SELECT bundle_id FROM campaign WHERE halted_at IS NOT NULL))
"""

WITHDRAW_OLD: Final = """
    UPDATE published_blob SET state = 'withdrawing', at = $2 WHERE broker = $1 AND state = 'spare' AND at <= $3
"""

# The longest unneeded first, as many as it takes for what is left to fit.
WITHDRAW_EXCESS: Final = """
    UPDATE published_blob SET state = 'withdrawing', at = $2
     WHERE broker = $1
       AND digest IN (SELECT digest
                        FROM (SELECT digest, sum(size_bytes) OVER (ORDER BY at, digest) - size_bytes AS before
                                FROM published_blob WHERE broker = $1 AND state = 'spare') AS oldest
                       WHERE before < (SELECT coalesce(sum(size_bytes), 0) - $3 FROM published_blob
                                        WHERE broker = $1 AND state = ANY($4)))
"""

FORGET: Final = "DELETE FROM published_blob WHERE broker = $1 AND state = 'withdrawn' AND at < $2"

WANTED: Final = """
    SELECT digest, size_bytes, at FROM published_blob
     WHERE broker = $1 AND state = 'wanted' AND (at, digest) > ($2, $3) ORDER BY at, digest LIMIT $4
"""

WITHDRAWING: Final = """
    SELECT digest FROM published_blob WHERE broker = $1 AND state = 'withdrawing' ORDER BY at, digest LIMIT $2
"""

NOTE_PUBLISHED: Final = """
    UPDATE published_blob SET state = 'published', at = $3
     WHERE broker = $1 AND digest = ANY($2) AND state = 'wanted'
"""

NOTE_WITHDRAWN: Final = """
    UPDATE published_blob SET state = 'withdrawn'
     WHERE broker = $1 AND digest = ANY($2) AND state = 'withdrawing'
"""

WITHDRAW_AGAIN: Final = "UPDATE published_blob SET state = 'withdrawing' WHERE broker = $1 AND state = 'withdrawn'"

WANT_AGAIN: Final = """
    UPDATE published_blob SET state = CASE state WHEN 'published' THEN 'wanted' ELSE 'withdrawing' END, at = $2
     WHERE broker = $1 AND state IN ('published', 'spare', 'withdrawn')
"""

# The newest are what a broker loses that was killed, and any others tell of one that has lost its store.
NEWEST: Final = """
    SELECT digest FROM published_blob WHERE broker = $1 AND state = 'published' ORDER BY at DESC, digest DESC LIMIT $2
"""

ANY_FROM: Final = """
    SELECT digest FROM published_blob
     WHERE broker = $1 AND digest >= $2 AND state = 'published' ORDER BY digest LIMIT $3
"""

COMPLETE: Final = """
    SELECT bundle_id FROM unnest($2::uuid[]) AS bundle (bundle_id)
     WHERE NOT EXISTS (SELECT FROM bundle_need AS need
                         LEFT JOIN published_blob AS known ON known.broker = $1 AND known.digest = need.digest
                        WHERE need.bundle_id = bundle.bundle_id AND is_essential
                          AND known.state IS DISTINCT FROM 'published')
"""

PROGRESS: Final = """
    SELECT count(*) AS blobs, coalesce(sum(need.size_bytes), 0)::bigint AS size_bytes,
           count(*) FILTER (WHERE known.state IN ('published', 'spare')) AS published_blobs,
           coalesce(sum(need.size_bytes) FILTER (WHERE known.state IN ('published', 'spare')), 0)::bigint
               AS published_bytes
      FROM bundle_need AS need
      LEFT JOIN published_blob AS known ON known.broker = $1 AND known.digest = need.digest
     WHERE need.bundle_id = $2 AND is_essential
"""

ROOM: Final = """
    WITH other AS (SELECT DISTINCT digest, size_bytes FROM bundle_need
                    WHERE is_essential
                      AND bundle_id IN (SELECT bundle_id FROM campaign
                                         WHERE state = ANY($1) AND transport = 'mqtt' AND id <> ALL($2))),
         own AS (SELECT DISTINCT digest, size_bytes FROM bundle_need WHERE is_essential AND bundle_id = $3)
    SELECT (SELECT coalesce(sum(size_bytes), 0) FROM own)::bigint AS own,
           (SELECT coalesce(sum(size_bytes), 0) FROM other)::bigint AS taken,
           (SELECT coalesce(sum(size_bytes), 0) FROM own WHERE digest NOT IN (SELECT digest FROM other))::bigint
               AS added
"""

WHOLE: Final = """
    SELECT coalesce(sum(size_bytes), 0)::bigint
      FROM (SELECT DISTINCT digest, size_bytes FROM bundle_need WHERE bundle_id = ANY($1)) AS need
"""

TOTALS: Final = """
    SELECT state, count(*) AS blobs, sum(size_bytes)::bigint AS size_bytes
      FROM published_blob WHERE broker = $1 GROUP BY state
"""


class PublishedRepository:
    """One method, one transaction; all of one broker."""

    def __init__(self, database: Database, broker: str = BROKER) -> None:
        self._database = database
        self._broker = broker

    async def plan(self, *, now: datetime, budget_bytes: int, spare_before: datetime, forget_before: datetime) -> None:
        """Make the states those that follow from the campaigns as they are.

        What is not essential is wanted where all of it fits the budget. ``spare_before``: what nobody has needed since
        then is withdrawn; ``forget_before``: what was withdrawn before then is taken to be gone for good.
        """
        async with self._database.transaction() as connection:
            needed = [row["bundle_id"] for row in await connection.fetch(NEEDED, sorted(JUDGED))]
            is_roomy = await connection.fetchval(WHOLE, needed) <= budget_bytes
            await connection.execute(WANT, self._broker, needed, now, is_roomy)
            await connection.execute(RELEASE, self._broker, needed, now, is_roomy)
            await connection.execute(WITHDRAW_HALTED, self._broker, now)
            await connection.execute(WITHDRAW_OLD, self._broker, now, spare_before)
            await connection.execute(WITHDRAW_EXCESS, self._broker, now, budget_bytes, sorted(AT_BROKER))
            await connection.execute(FORGET, self._broker, forget_before)

    async def wanted(self, *, after: WantedBlob, limit: int) -> list[WantedBlob]:
        """Return what is to be published, the longest wanted first."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(WANTED, self._broker, after.at, after.digest, limit)
        return [WantedBlob(row["digest"], row["size_bytes"], row["at"]) for row in rows]

    async def withdrawing(self, limit: int) -> list[bytes]:
        """Return digests of what is to be withdrawn, the first one first."""
        async with self._database.transaction() as connection:
            return [row["digest"] for row in await connection.fetch(WITHDRAWING, self._broker, limit)]

    async def note_published(self, digests: Collection[bytes], *, now: datetime) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(NOTE_PUBLISHED, self._broker, list(digests), now)

    async def note_withdrawn(self, digests: Collection[bytes]) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(NOTE_WITHDRAWN, self._broker, list(digests))

    async def withdraw_again(self) -> None:
        """The broker may have been restarted: what was withdrawn is withdrawn once more."""
        async with self._database.transaction() as connection:
            await connection.execute(WITHDRAW_AGAIN, self._broker)

    async def want_again(self, *, now: datetime) -> None:
        """The broker has lost its store: what was published is wanted, and all else is withdrawn once more."""
        async with self._database.transaction() as connection:
            await connection.execute(WANT_AGAIN, self._broker, now)

    async def sample(self, each: int, *, start: bytes) -> frozenset[bytes]:
        """Return digests of what should be there: so many of the newest, and so many from the digest ``start`` on."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(NEWEST, self._broker, each)
            rows += await connection.fetch(ANY_FROM, self._broker, start, each)
        return frozenset(row["digest"] for row in rows)

    async def complete(self, bundles: Sequence[BundleId]) -> frozenset[BundleId]:
        """Return those of the bundles of which everything essential is at the broker."""
        async with self._database.transaction() as connection:
            return frozenset(row["bundle_id"] for row in await connection.fetch(COMPLETE, self._broker, bundles))

    async def progress(self, bundle: BundleId) -> Progress:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(PROGRESS, self._broker, bundle)
        assert row is not None
        return Progress(Amount(row["blobs"], row["size_bytes"]), Amount(row["published_blobs"], row["published_bytes"]))

    async def room(self, bundle: BundleId, *, beside: Collection[CampaignId]) -> Room:
        """Return what a bundle would take at the broker; campaigns in ``beside`` count as ones that are not there."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(ROOM, sorted(JUDGED), list(beside), bundle)
        assert row is not None
        return Room(**dict(row))

    async def totals(self) -> dict[BlobState, Amount]:
        """Return how much there is in each state."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(TOTALS, self._broker)
        found = {BlobState(row["state"]): Amount(row["blobs"], row["size_bytes"]) for row in rows}
        return {state: found.get(state, Amount(0, 0)) for state in BlobState}
