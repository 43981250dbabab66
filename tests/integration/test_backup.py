"""Backups of a real database and a real store: brought back, altered, cut, and where they must not go."""

import re
import shutil
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from firmware_store.blobs import BlobStore
from firmware_store.errors import ConfigurationError, ConflictError, CorruptBackupError, SchemaError
from server.db.audit import AuditRepository
from server.db.database import Database
from server.db.load import JUMP
from server.db.migrate import apply_migrations, check_schema
from server.db.pool import close_pool, open_pool
from server.db.restored import EVENTS_LEFT_OUT, RestoreRepository
from server.db.snapshot_tables import LEFT_OUT
from server.domain.audit import Walk
from server.domain.campaign import Cause, State
from server.domain.identity import Region
from server.domain.plan import Plan, Policy, Wave
from server.domain.restore_note import RESTORE, note_in
from server.protocol.messages import Counter
from server.protocol.orders import Action
from server.protocol.topics import CohortAudience
from server.services.backup.archive import reading
from server.services.backup.making import Made, make_backup
from server.services.backup.manifest import BLOBS, read_manifest
from server.services.backup.restoring import restore_backup
from server.services.recall import read_grounds
from tests.records import MAIN
from tests.s3_peer import S3Peer
from tests.service_world import World

EU = Region("eu")
PLAN = Plan(waves=(Wave(ratio=1, ramp_s=3600),))


class Site:
    """A server's database and store, with a campaign that runs; ``other_url`` is where a backup goes."""

    def __init__(self, url: str, world: World, folder: Path, other_url: str) -> None:
        self.url, self.world, self.folder, self.other_url = url, world, folder, other_url
        self.store = world.blobs
        self.other_store = BlobStore(folder / "other")

    async def back_up(self, name: str = "backup", **options: Any) -> Made:
        return await make_backup(self.url, self.store, self.folder / name, **options)

    async def bring_back(self, name: str = "backup", **options: Any) -> Any:
        return await restore_backup(
            self.folder / name, self.other_url, self.other_store, read_grounds(self.world.keys.folder), **options
        )


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    pool = await open_pool(url)
    try:
        yield Database(pool)
    finally:
        await close_pool(pool)


async def read(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def has_tables(url: str) -> bool:
    return bool(await read(url, "SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"))


@pytest.fixture
async def site(database: str, empty_database: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(database) as store:
        world = World(store, tmp_path / "blobs")
        await world.populate(4, EU)
        await world.start(await world.add_release(), PLAN, Policy(), EU)
        await world.live(5)
        yield Site(database, world, tmp_path, empty_database)


@pytest.mark.parametrize("name", ["backup", "backup.zip"])
async def test_what_was_backed_up_comes_back(site: Site, name: str) -> None:
    made = await site.back_up(name)

    done = await site.bring_back(name, sha256=made.sha256)

    await check_schema(site.other_url)
    for table in ("device", "bundle", "bundle_blob", "execution", "execution_event", "token", "campaign_region"):
        order = f"SELECT * FROM {table} ORDER BY 1, 2"
        if table != "campaign_region":
            assert await read(site.other_url, order) == await read(site.url, order), table
    assert done.manifest.rows == made.manifest.rows > 10
    blobs = [blob.digest async for blob in site.other_store.stored()]
    referenced = await read(site.url, "SELECT DISTINCT digest FROM bundle_blob")
    assert made.manifest.blobs.missing == []
    assert len(blobs) == made.manifest.blobs.count == len(referenced)


async def test_secrets_stay_where_they_are_and_numbers_that_others_know_are_not_given_again(site: Site) -> None:
    async with opened(site.url) as store, store.transaction() as connection:
        await connection.execute("INSERT INTO ticket_secret (fleet, secret) VALUES ($1, $2)", b"f" * 16, b"s" * 32)

    made = await site.back_up()
    await site.bring_back()

    assert {table.name for table in made.manifest.tables}.isdisjoint(LEFT_OUT)
    assert await read(site.other_url, "SELECT * FROM ticket_secret") == []
    last = (await read(site.url, "SELECT last_value FROM decision_id_seq"))[0][0]
    head = "SELECT seq FROM outbox_head"
    assert (await read(site.other_url, head))[0][0] >= (await read(site.url, head))[0][0] + EVENTS_LEFT_OUT
    assert await read(site.other_url, "SELECT nextval('decision_id_seq')") >= [(last + JUMP,)]


@pytest.mark.parametrize("name", ["backup", "backup.zip"])
async def test_a_backup_that_was_cut_or_altered_is_refused_before_anything_is_changed(site: Site, name: str) -> None:
    await site.back_up(name)
    whole = site.folder / "whole"
    spoiled = site.folder / name
    shutil.move(spoiled, whole)

    for spoil in spoilers(whole):
        spoil(spoiled)
        with pytest.raises((CorruptBackupError, ConfigurationError)):
            await site.bring_back(name)
        shutil.rmtree(spoiled) if spoiled.is_dir() else spoiled.unlink()

    assert not await has_tables(site.other_url)
    assert [blob async for blob in site.other_store.stored()] == []


def spoilers(whole: Path) -> list[Callable[[Path], None]]:
    """Every way to cut, flip, lengthen and lose a part; of a file, to flip each part and to cut it."""
    found: list[Callable[[Path], None]] = []

    def changed(change: Callable[[bytes], bytes], part: str | None) -> Callable[[Path], None]:
        def spoil(path: Path) -> None:
            if part is None:
                path.write_bytes(change(whole.read_bytes()))
            else:
                shutil.copytree(whole, path)
                (path / part).write_bytes(change((path / part).read_bytes()))

        return spoil

    def without(part: str) -> Callable[[Path], None]:
        def spoil(path: Path) -> None:
            shutil.copytree(whole, path)
            (path / part).unlink()

        return spoil

    def flipped(at: int) -> Callable[[bytes], bytes]:
        return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    if whole.is_file():
        with zipfile.ZipFile(whole) as file:
            middles = [middle_of(whole.read_bytes(), info) for info in file.infolist() if info.file_size]
        found = [changed(flipped(at), None) for at in middles]
        return [*found, changed(lambda data: data[: len(data) // 2], None)]
    for part in sorted(path.name for path in whole.iterdir()):
        size = (whole / part).stat().st_size
        found.append(without(part))
        if part.endswith(".json"):
            found.append(changed(lambda data: data.replace(b'"rows": 4', b'"rows": 5'), part))
            found.append(changed(lambda data: data[:-20], part))
            continue
        found.append(changed(lambda data: data + b"x", part))
        found.extend(changed(flipped(at), part) for at in {size // 2, size - 1} if size)
        if size:
            found.append(changed(lambda data: data[:-1], part))
    return found


def middle_of(data: bytes, info: zipfile.ZipInfo) -> int:
    """Where the middle of a part is in its file: what lies between parts is read by nobody."""
    names = data[info.header_offset + 26 : info.header_offset + 30]
    lengths = int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
    return info.header_offset + 30 + lengths + info.file_size // 2


async def test_what_is_no_backup_or_another_one_is_refused(site: Site) -> None:
    await site.back_up()
    folder = site.folder / "backup"
    manifest, seal = folder / "manifest.json", folder / "manifest.sha256"

    with pytest.raises(CorruptBackupError, match="altered"):
        await site.bring_back(sha256="0" * 64)
    with pytest.raises(ConfigurationError, match="There is no backup"):
        await site.bring_back("nowhere")
    with pytest.raises(ConflictError, match="not overwritten"):
        await site.back_up()
    last = (await read(site.url, "SELECT max(version) FROM schema_migration"))[0][0]
    manifest.write_text(manifest.read_text().replace(f'"version": {last}', f'"version": {last + 1}'))
    seal.write_text(f"{sha256(manifest.read_bytes()).hexdigest()}\n")
    with pytest.raises(SchemaError, match="not one of this release's"):
        await site.bring_back()
    seal.unlink()  # as while it is being written
    with pytest.raises(CorruptBackupError, match="not whole"):
        await site.bring_back()

    assert not await has_tables(site.other_url)


async def test_a_database_in_use_is_left_alone_unless_it_is_to_be_replaced_and_nobody_works_with_it(site: Site) -> None:
    await site.back_up()
    await apply_migrations(site.other_url)
    await read(
        site.other_url,
        "INSERT INTO device (id, region, cohort, member_since, created_at) VALUES "
        "('mine', 'eu', 'main', now(), now()) RETURNING id",
    )

    with pytest.raises(ConflictError, match="--replace"):
        await site.bring_back()
    assert await read(site.other_url, "SELECT id FROM device") == [("mine",)]
    await read(site.other_url, "UPDATE lease SET holder = 'node', until = now() + interval '1 minute' RETURNING 1")
    with pytest.raises(ConflictError, match="stop it"):
        await site.bring_back(replace=True)
    await read(site.other_url, "UPDATE lease SET until = now() RETURNING 1")
    await site.bring_back(replace=True)

    assert await read(site.other_url, "SELECT count(*) FROM device") == [(4,)]
    assert await read(site.other_url, "SELECT generation > 1000000 FROM lease") == [(True,)]


async def test_a_database_of_somebody_else_is_left_alone(site: Site) -> None:
    await site.back_up()
    await read(site.other_url, "CREATE TABLE theirs (id int)")

    with pytest.raises(SchemaError, match="not Tidegate's"):
        await site.bring_back(replace=True)

    assert await read(site.other_url, "SELECT * FROM theirs") == []


async def test_a_backup_of_an_older_release_is_brought_up_to_date(site: Site, tmp_path: Path) -> None:
    older = tmp_path / "migrations"
    older.mkdir()
    for file in resources.files("migrations").iterdir():
        if re.match("00(0[1-9]|1[0-5])_", file.name):
            (older / file.name).write_bytes(file.read_bytes())
    await apply_migrations(site.other_url, older)
    await read(
        site.other_url,
        "INSERT INTO device (id, region, cohort, member_since, created_at) VALUES "
        "('old', 'eu', 'main', now(), now()) RETURNING id",
    )
    await make_backup(site.other_url, site.store, tmp_path / "old")

    await site.bring_back("old", replace=True)

    await check_schema(site.other_url)
    assert await read(site.other_url, "SELECT id FROM device") == [("old",)]


async def test_blobs_that_are_missing_are_named_and_do_not_keep_a_backup_from_being_made(site: Site) -> None:
    (lost,) = (await read(site.url, "SELECT digest FROM bundle_blob ORDER BY digest LIMIT 1"))[0]
    await site.store.delete(lost)

    made = await site.back_up()
    done = await site.bring_back()

    assert made.manifest.blobs.missing == [lost.hex()] == list(done.missing)


async def test_without_the_bytes_of_blobs_the_store_must_have_them(site: Site) -> None:
    made = await site.back_up(with_blobs=False)

    empty = await site.bring_back()
    site.other_store = site.store
    there = await site.bring_back(replace=True)

    with reading(site.folder / "backup") as reader, reader.part(BLOBS) as file:
        assert file.read() == b""
        assert read_manifest(reader) == made.manifest
    assert len(empty.missing) == made.manifest.blobs.count > 0
    assert there.missing == ()


# --- what happened after the backup ---


async def test_what_was_running_stands_still_until_a_person_resumes_it(site: Site) -> None:
    await site.back_up()
    (campaign,) = await site.world.repository.in_states(frozenset({State.RUNNING}))
    await site.world.campaigns.halt(campaign.id, caller="ann", reason="it bricks")

    done = await site.bring_back()

    assert done.campaigns == ("spring",)
    async with opened(site.other_url) as store:
        world = World(store, site.folder / "other")
        back = await world.campaign(campaign.id)
        assert (back.state, back.causes) == (State.PAUSED, {Cause.RESTORED})
        assert "was halted or ended since" in back.sentence
        assert [record.kind for record in await world.repository.decisions(campaign.id, 1)] == ["restore"]
        rows = [row for batch in [batch async for batch in AuditRepository(store).batches()] for row in batch]
        told = next(row for row in rows if row.what == RESTORE)
        assert [row.what for row in rows[told.seq :]] == ["campaign.restore"]
        note = note_in(told, [site.world.keys.root])
        assert note is not None
        assert note.kept == rows[told.seq - 2].head
        walk = Walk({rows[-1].seq: rows[-1].digest})
        for row in rows:
            walk.take(row)
        assert walk.end() is None
        await world.live(120)
        assert (await world.campaign(campaign.id)).state is State.PAUSED
        assert world.due(campaign.id, EU) == []

        await world.publish()
        await world.campaigns.resume(campaign.id, caller="ann", reason="it was a drill")

        assert (await world.campaign(campaign.id)).state is State.RUNNING


async def test_a_change_of_many_devices_that_was_under_way_has_failed(site: Site) -> None:
    await read(
        site.url,
        "INSERT INTO operation (id, filter, change, reason, created_by, created_at, total) "
        "VALUES (gen_random_uuid(), '', '{}', '', 'ann', now(), 1) RETURNING 1",
    )
    await site.back_up()
    await site.bring_back()

    ((state, why),) = await read(site.other_url, "SELECT state, errors->0->>1 FROM operation")
    assert state == "failed"
    assert "restored" in why


async def test_no_order_of_then_is_said_again_and_every_new_one_is_newer(site: Site) -> None:
    """The broker has what was said after the backup; what the database has is older than all of it."""
    audience = CohortAudience(EU, MAIN)
    offered = site.world.order(EU)
    assert offered is not None
    await site.back_up()
    (campaign,) = await site.world.repository.in_states(frozenset({State.RUNNING}))
    await site.world.campaigns.halt(campaign.id, caller="ann", reason="it bricks")
    halt = site.world.order(EU)
    assert halt is not None
    await site.bring_back()

    async with opened(site.other_url) as store:
        for retained in (dict(site.world.shelf.retained), {}):
            world = World(store, site.folder / "other")
            world.shelf.retained |= retained
            floor = await RestoreRepository(store).counter_floor()
            assert floor is not None
            await world.directives.load()
            world.directives.heed_restore(floor)
            before = len(world.shelf.published)

            await world.directives.flush()
            assert world.directives.counter(audience) < floor or not world.shelf.published[before:]
            await world.directives.repair(world.retained_directives(), now=world.now)
            order = world.order(EU)

            assert order is not None
            assert order.action is Action.HOLD
            assert offered.counter < halt.counter < order.counter
            assert not order.counter < floor


async def test_an_order_that_nobody_here_knows_is_ended(site: Site) -> None:
    """A campaign in a region of its own that began after the backup: devices would go on to follow its offer."""
    await site.back_up()
    us = Region("us")
    await site.world.populate(2, us)
    await site.world.start(await site.world.add_release(2), PLAN, Policy(), us)
    await site.world.live(30)
    offer = site.world.order(us)
    assert offer is not None
    assert offer.action is Action.OFFER
    await site.bring_back()

    async with opened(site.other_url) as store:
        world = World(store, site.folder / "other")
        world.shelf.retained |= site.world.shelf.retained
        await world.directives.load()
        floor = await RestoreRepository(store).counter_floor()
        assert floor is not None
        world.directives.heed_restore(floor)

        await world.directives.repair(world.retained_directives(), now=world.now)
        order = world.order(us)

    assert order is not None
    assert (order.action, order.campaign) == (Action.NONE, None)
    assert offer.counter < order.counter


async def test_a_clock_that_is_behind_counts_on_from_the_backup(site: Site) -> None:
    far = 4_000_000_000_000
    await read(site.url, f"UPDATE directive SET counter = {far}, published_counter = {far} RETURNING 1")
    await site.back_up()
    await site.bring_back()

    async with opened(site.other_url) as store:
        floor = await RestoreRepository(store).counter_floor()

    assert floor is not None
    assert Counter(floor.epoch, far) < floor


async def test_a_rollback_under_way_comes_back_halted(site: Site) -> None:
    (campaign,) = await site.world.repository.in_states(frozenset({State.RUNNING}))
    await read(site.url, "UPDATE campaign SET state = 'rolling_back', rolling_since = now() RETURNING 1")
    await site.back_up()
    await site.bring_back()

    async with opened(site.other_url) as store:
        back = await World(store, site.folder / "other").campaign(campaign.id)

    assert (back.state, back.causes) == (State.HALTED, frozenset())
    assert back.halted_at is not None
    assert await read(site.other_url, "SELECT bool_or(active) FROM campaign_region") == [(False,)]


async def test_blobs_go_from_a_bucket_into_another_one(site: Site, s3: S3Peer) -> None:
    bucket, other = BlobStore(s3.bucket(s3.url())), BlobStore(s3.bucket(s3.url()))
    referenced = [digest for (digest,) in await read(site.url, "SELECT DISTINCT digest FROM bundle_blob")]
    for digest in referenced:
        await bucket.put(digest, await site.store.get(digest))

    made = await make_backup(site.url, bucket, site.folder / "backup.zip")
    site.other_store = other
    done = await site.bring_back("backup.zip", sha256=made.sha256)

    assert [await other.get(digest) for digest in referenced] == [await site.store.get(digest) for digest in referenced]
    assert done.missing == ()
