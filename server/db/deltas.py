"""Deltas: which images campaigns would like them between, which were made, and whether devices can fetch them.

``migrations/0017_add_deltas.sql`` says what the states mean.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from server.db.database import Database
from server.db.published import BROKER
from server.domain.campaign import State
from server.domain.identity import BundleId, CampaignId
from server.protocol.sources import DeltaOffer


class Wish(NamedTuple):
    """A campaign would like a delta for a component; ``devices`` of it may run the source, an image of a bundle."""

    component: int
    component_name: str
    source_bundle: BundleId
    source_digest: bytes
    target_digest: bytes
    devices: int


@dataclass(frozen=True, slots=True)
class MissingDelta:
    """One to be made: between images of two bundles that are here."""

    campaign: CampaignId
    codec: str
    source_bundle: BundleId
    target_bundle: BundleId
    source_digest: bytes
    target_digest: bytes


@dataclass(frozen=True, slots=True)
class CampaignDelta:
    """What has become of a wish. ``codec`` is empty until something was made or found useless, ``offer`` None too.

    ``is_there``: everything of it is where the campaign's devices fetch first.
    """

    campaign: CampaignId
    component_name: str
    source_version: str
    devices: int
    codec: str
    why: str
    otherwise_bytes: int
    offer: DeltaOffer | None
    is_there: bool


HAS_WISHES: Final = "SELECT EXISTS (SELECT FROM campaign_delta WHERE campaign_id = $1)"

WISH: Final = """
    INSERT INTO campaign_delta
           (campaign_id, component, component_name, source_bundle, source_digest, target_digest, devices)
    SELECT $1, component, component_name, source_bundle, source_digest, target_digest, devices
      FROM unnest($2::smallint[], $3::text[], $4::uuid[], $5::bytea[], $6::bytea[], $7::integer[])
        AS wish (component, component_name, source_bundle, source_digest, target_digest, devices)
    ON CONFLICT DO NOTHING
"""

TOUCH: Final = """
    UPDATE delta SET wanted_at = $2
      FROM campaign_delta AS wish
     WHERE wish.campaign_id = $1
       AND delta.source_digest = wish.source_digest AND delta.target_digest = wish.target_digest
"""

MISSING: Final = """
    SELECT wish.campaign_id AS campaign, codec, wish.source_bundle, campaign.bundle_id AS target_bundle,
           wish.source_digest, wish.target_digest
      FROM campaign_delta AS wish
      JOIN campaign ON campaign.id = wish.campaign_id
     CROSS JOIN unnest($2::text[]) WITH ORDINALITY AS known (codec, rank)
     WHERE wish.campaign_id = ANY($1)
       AND NOT EXISTS (SELECT FROM delta
                        WHERE source_digest = wish.source_digest AND target_digest = wish.target_digest
                          AND delta.codec = known.codec)
     ORDER BY campaign.run_at, campaign.id, known.rank, wish.devices DESC, wish.component, wish.source_digest
"""

ADD: Final = """
    INSERT INTO delta (source_digest, target_digest, codec, state, why, otherwise_bytes, wire_bytes, index_digest,
                       index_size, chunk_count, wanted_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    ON CONFLICT DO NOTHING RETURNING id
"""

ADD_BLOBS: Final = """
    INSERT INTO delta_blob (delta_id, digest, size_bytes)
    SELECT $1, digest, size_bytes FROM unnest($2::bytea[], $3::integer[]) AS blob (digest, size_bytes)
"""

OF_CAMPAIGNS: Final = """
    SELECT wish.campaign_id, wish.component, wish.component_name, wish.source_digest, wish.target_digest, wish.devices,
           source.version AS source_version, delta.codec, delta.state, delta.why, delta.otherwise_bytes,
           delta.wire_bytes, delta.index_digest, delta.index_size, delta.chunk_count,
           delta.state = 'made' AND (campaign.transport = 'http' OR NOT EXISTS (
               SELECT FROM delta_blob AS blob
                 LEFT JOIN published_blob AS known ON known.broker = $2 AND known.digest = blob.digest
                WHERE blob.delta_id = delta.id AND known.state IS DISTINCT FROM 'published')) AS is_there
      FROM campaign_delta AS wish
      JOIN campaign ON campaign.id = wish.campaign_id
      JOIN bundle AS source ON source.id = wish.source_bundle
      LEFT JOIN delta ON delta.source_digest = wish.source_digest AND delta.target_digest = wish.target_digest
     WHERE wish.campaign_id = ANY($1)
     ORDER BY wish.devices DESC, wish.component, wish.source_digest, delta.wire_bytes, delta.codec
"""

FORGET: Final = """
    DELETE FROM delta
     WHERE wanted_at < $1
       AND NOT EXISTS (SELECT FROM campaign_delta AS wish JOIN campaign ON campaign.id = wish.campaign_id
                        WHERE wish.source_digest = delta.source_digest AND wish.target_digest = delta.target_digest
                          AND campaign.state = ANY($2))
    RETURNING id
"""

TOTALS: Final = """
    SELECT count(*) FILTER (WHERE state = 'made') AS made, count(*) FILTER (WHERE state = 'useless') AS useless,
           coalesce(sum(wire_bytes), 0)::bigint AS wire_bytes
      FROM delta
"""


class Totals(NamedTuple):
    """How many deltas are kept, how many were not worth it, and the bytes of the former."""

    made: int
    useless: int
    wire_bytes: int


class DeltaRepository:
    """One method, one transaction."""

    def __init__(self, database: Database, broker: str = BROKER) -> None:
        self._database = database
        self._broker = broker

    async def has_wishes(self, campaign: CampaignId) -> bool:
        async with self._database.transaction() as connection:
            return bool(await connection.fetchval(HAS_WISHES, campaign))

    async def wish(self, campaign: CampaignId, wishes: Sequence[Wish], *, now: datetime) -> None:
        """Note what a campaign would like; what there is of it already is kept for longer."""
        columns = [list(column) for column in zip(*wishes, strict=True)]
        async with self._database.transaction() as connection:
            if columns:
                await connection.execute(WISH, campaign, *columns)
            await connection.execute(TOUCH, campaign, now)

    async def missing(self, campaigns: Collection[CampaignId], codecs: Sequence[str]) -> list[MissingDelta]:
        """Return what is to be made, first for the campaign that began first, from what most of its devices run."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(MISSING, list(campaigns), list(codecs))
        return [MissingDelta(**dict(row)) for row in rows]

    async def add(
        self, delta: MissingDelta, offer: DeltaOffer, blobs: Mapping[bytes, int], *, otherwise_bytes: int, now: datetime
    ) -> None:
        """Note one that was made, with its blobs (digest -> size in bytes), which are in the store already."""
        numbers = (otherwise_bytes, offer.wire_bytes, offer.index_digest, offer.index_size, offer.chunk_count)
        async with self._database.transaction() as connection:
            key = (delta.source_digest, delta.target_digest, delta.codec)
            added = await connection.fetchval(ADD, *key, "made", "", *numbers, now)
            if added is not None:
                await connection.execute(ADD_BLOBS, added, list(blobs), list(blobs.values()))

    async def add_useless(self, delta: MissingDelta, why: str, *, otherwise_bytes: int, now: datetime) -> None:
        """Note one that is not worth it, or that cannot be made, so that it is not tried again."""
        key = (delta.source_digest, delta.target_digest, delta.codec)
        async with self._database.transaction() as connection:
            await connection.execute(ADD, *key, "useless", why, otherwise_bytes, None, None, None, None, now)

    async def of_campaigns(self, campaigns: Collection[CampaignId]) -> list[CampaignDelta]:
        """Return what has become of the campaigns' wishes, those of most devices first."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(OF_CAMPAIGNS, list(campaigns), self._broker)
        return [
            CampaignDelta(
                campaign=CampaignId(row["campaign_id"]),
                component_name=row["component_name"],
                source_version=row["source_version"],
                devices=row["devices"],
                codec=row["codec"] or "",
                why=row["why"] or "",
                otherwise_bytes=row["otherwise_bytes"] or 0,
                offer=DeltaOffer(
                    row["component"],
                    row["codec"],
                    row["source_digest"],
                    row["target_digest"],
                    row["wire_bytes"],
                    row["index_digest"],
                    row["index_size"],
                    row["chunk_count"],
                )
                if row["state"] == "made"
                else None,
                is_there=bool(row["is_there"]),
            )
            for row in rows
        ]

    async def forget(self, *, wanted_before: datetime, unless: Collection[State]) -> int:
        """Forget deltas that nobody has wanted since then, and no campaign in these states does; returns how many.

        Their blobs stay in the store until its garbage is collected.
        """
        async with self._database.transaction() as connection:
            return len(await connection.fetch(FORGET, wanted_before, [state.value for state in unless]))

    async def totals(self) -> Totals:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(TOTALS)
        assert row is not None
        return Totals(**dict(row))
