"""Bundles: what a verified envelope says, and which blobs its devices will ask the broker for."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from firmware_store.errors import ConflictError, NotFoundError
from server.db import audit, outbox
from server.db.audit import Entry
from server.db.database import Connection, Database
from server.db.filters import where_bundles
from server.domain.campaign import State
from server.domain.events import Event, EventType
from server.domain.filter import Expression
from server.domain.identity import BUNDLE, BundleId, show


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """One release. ``components`` maps a component's name to its image's size in bytes."""

    id: BundleId
    manifest_digest: bytes
    envelope_digest: bytes
    envelope_bytes: int
    sequence_number: int
    version: str
    vendor_id: bytes
    class_ids: tuple[bytes, ...]
    components: Mapping[str, int]
    size_bytes: int
    signers: tuple[bytes, ...]
    created_by: str
    created_at: datetime


_COLUMNS: Final = """id, manifest_digest, envelope_digest, envelope_bytes, sequence_number, version, vendor_id,
    class_ids, components, size_bytes, signers, created_by, created_at"""

ADD: Final = f"""
    INSERT INTO bundle ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12, $13)
"""

ADD_BLOBS: Final = """
    INSERT INTO bundle_blob (bundle_id, digest, size_bytes)
    SELECT $1, digest, size_bytes FROM unnest($2::bytea[], $3::integer[]) AS blob (digest, size_bytes)
"""

GET: Final = f"SELECT {_COLUMNS} FROM bundle WHERE id = $1"

BY_DIGEST: Final = f"SELECT {_COLUMNS} FROM bundle WHERE manifest_digest = $1"

NEWEST: Final = f"SELECT {_COLUMNS} FROM bundle WHERE ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $1"

# A release that was halted somewhere is no release to go back to.
BEFORE: Final = f"""
    SELECT {_COLUMNS} FROM bundle AS b
     WHERE vendor_id = $1 AND class_ids && $2::bytea[] AND sequence_number < $3
       AND NOT EXISTS (SELECT FROM campaign WHERE campaign.bundle_id = b.id AND campaign.halted_at IS NOT NULL)
     ORDER BY sequence_number DESC LIMIT 1
"""

BLOBS: Final = "SELECT digest, size_bytes FROM bundle_blob WHERE bundle_id = $1"

# In order, as one value: tens of thousands of digests are 32 bytes each, and no row each.
DIGESTS: Final = (
    "SELECT coalesce(string_agg(digest, ''::bytea ORDER BY digest), '') FROM bundle_need WHERE bundle_id = $1"
)

IN_BUNDLES: Final = "SELECT DISTINCT digest FROM bundle_blob"
IN_DELTAS: Final = "SELECT DISTINCT digest FROM delta_blob"

# All that must not be cleared.
REFERENCED: Final = f"{IN_BUNDLES} UNION {IN_DELTAS}"

HOLDING: Final = "SELECT DISTINCT bundle_id FROM bundle_need WHERE digest = $1 ORDER BY bundle_id DESC"

IS_HALTED: Final = """
    SELECT coalesce(bool_or(halted_at IS NOT NULL), false) AND NOT coalesce(bool_or(state = ANY ($2)), false)
      FROM campaign WHERE bundle_id = $1
"""


class BundleRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: BundleRecord, blobs: Mapping[bytes, int]) -> None:
        """Add a bundle with its blobs (digest -> size in bytes).

        Raises:
            ConflictError: the same manifest is there already.
        """
        values = [getattr(record, name.strip()) for name in _COLUMNS.split(",")]
        values[8] = json.dumps(dict(record.components))
        values[7], values[10] = list(record.class_ids), list(record.signers)
        try:
            async with self._database.transaction() as connection:
                await connection.execute(ADD, *values)
                await connection.execute(ADD_BLOBS, record.id, list(blobs), list(blobs.values()))
                entry = _added(record)
                await audit.write(connection, entry)
                told = {**(entry.after or {}), "who": record.created_by}
                await outbox.put(connection, Event(EventType.BUNDLE_ADDED, entry.named, entry.at, told))
        except asyncpg.UniqueViolationError as exc:
            raise ConflictError("This bundle is already here: the same manifest was uploaded before.") from exc

    async def get(self, bundle: BundleId) -> BundleRecord:
        """Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            return await find(connection, bundle)

    async def by_digest(self, manifest_digest: bytes) -> BundleRecord | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(BY_DIGEST, manifest_digest)
        return None if row is None else _record(row)

    async def newest(
        self, limit: int, only: Expression | None = None, *, before: BundleId | None = None
    ) -> list[BundleRecord]:
        """Return the newest that a filter lets through; ``before``: those that follow this one in the list."""
        statement, values = NEWEST, list[Any]()
        if only is not None:
            where, values = where_bundles(only, 3)
            statement = NEWEST.replace("ORDER BY", f"AND {where} ORDER BY")
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(statement, limit, before, *values)]

    async def before(self, bundle: BundleRecord) -> BundleRecord | None:
        """Return the release of the same hardware with the next lower number that was never halted, if one is here."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(BEFORE, bundle.vendor_id, list(bundle.class_ids), bundle.sequence_number)
        return None if row is None else _record(row)

    async def blobs(self, bundle: BundleId) -> dict[bytes, int]:
        """Return the digests and sizes in bytes of everything a device may fetch for this bundle."""
        async with self._database.transaction() as connection:
            return {row["digest"]: row["size_bytes"] for row in await connection.fetch(BLOBS, bundle)}

    async def digests(self, bundle: BundleId) -> bytes:
        """Return the digests of the same, and of deltas to it, 32 bytes each, sorted, as one string of bytes."""
        async with self._database.transaction() as connection:
            digests: bytes = await connection.fetchval(DIGESTS, bundle)
        return digests

    async def referenced(self) -> frozenset[bytes]:
        """Return the digests of all blobs that anything here refers to."""
        async with self._database.transaction() as connection:
            return frozenset([row["digest"] for row in await connection.fetch(REFERENCED)])

    async def holding(self, digest: bytes) -> list[BundleId]:
        """Return the bundles that a blob belongs to, or to a delta to one of its images, the newest first."""
        async with self._database.transaction() as connection:
            return [BundleId(row["bundle_id"]) for row in await connection.fetch(HOLDING, digest)]

    async def is_halted(self, bundle: BundleId, *, unless: Collection[State]) -> bool:
        """Whether a campaign of the bundle was halted, and none is in one of the states ``unless``."""
        async with self._database.transaction() as connection:
            halted: bool = await connection.fetchval(IS_HALTED, bundle, [state.value for state in unless])
        return halted


def _added(record: BundleRecord) -> Entry:
    return Entry(
        "bundle.add",
        show(BUNDLE, record.id),
        record.created_at,
        who=record.created_by,
        after={
            "version": record.version,
            "sequence_number": record.sequence_number,
            "manifest_digest": record.manifest_digest.hex(),
            "signers": [kid.hex() for kid in record.signers],
        },
    )


async def find(connection: Connection, bundle: BundleId) -> BundleRecord:
    """Read a bundle inside the caller's transaction. Raises: NotFoundError."""
    row = await connection.fetchrow(GET, bundle)
    if row is None:
        raise NotFoundError("There is no such bundle.")
    return _record(row)


def _record(row: Any) -> BundleRecord:
    values = dict(row)
    values["components"] = json.loads(values["components"])
    values["class_ids"], values["signers"] = tuple(values["class_ids"]), tuple(values["signers"])
    return BundleRecord(**values)
