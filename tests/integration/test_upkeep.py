"""Verifying and clearing the blob store, on a folder and on S3, beside a real database and uploads under way."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import obstore
import pytest

from firmware_store.blobs import YOUNG, BlobStore
from firmware_store.bundle import read_envelope
from firmware_store.errors import InvalidInputError
from server.db.bundles import BundleRepository
from server.db.database import Database
from server.services.bundles import RECEIVE_MOST, Bundles
from server.services.quota import Quota
from server.services.upkeep import GRACE_LEAST, Collection, Upkeep
from tests.records import add_bundle
from tests.s3_peer import S3Peer
from tests.servers import ROOT, Api, ServerProcess, make_bundle
from tests.service_world import World

DAY = timedelta(days=1)
KEPT, STRAY = b"a blob of a bundle", b"a blob of an upload that broke off"

_T = TypeVar("_T")


def digest_of(data: bytes) -> bytes:
    return sha256(data).digest()


async def last(reports: AsyncIterator[_T]) -> _T:
    return [report async for report in reports][-1]


class Shop:
    """A store with a blob that a bundle needs and one that nothing does, on a clock that a test moves."""

    def __init__(self, database: Database, store: BlobStore) -> None:
        self.blobs = store
        self.database = database
        self.passed = timedelta()
        self.upkeep = Upkeep(
            repository=BundleRepository(database), store=store, quota=Quota(store, None), clock=self._clock
        )

    def _clock(self) -> float:
        return time.time() + self.passed.total_seconds()

    async def stock(self) -> None:
        for data in (KEPT, STRAY):
            await self.blobs.put(digest_of(data), data)
        await add_bundle(self.database, blobs={digest_of(KEPT): len(KEPT)})

    async def collect(self, *, dry_run: bool = False, grace: timedelta = DAY) -> Collection:
        return await last(self.upkeep.collect(grace=grace, dry_run=dry_run))

    async def there(self) -> set[bytes]:
        return {await self.blobs.get(blob.digest) async for blob in self.blobs.stored()}


@pytest.fixture(params=["folder", "s3"])
async def shop(request: pytest.FixtureRequest, store: Database, tmp_path: Path) -> Shop:
    if request.param == "folder":
        shop = Shop(store, BlobStore(tmp_path / "blobs"))
    else:
        peer: S3Peer = request.getfixturevalue("s3")
        shop = Shop(store, BlobStore(peer.bucket(peer.url())))
    await shop.stock()
    return shop


async def test_a_store_that_is_whole_is_found_whole(shop: Shop) -> None:
    report = await last(shop.upkeep.verify())

    assert (report.seen, report.total, report.unneeded) == (2, 2, 1)
    assert (report.damaged, report.missing) == ([], [])
    assert report.read_bytes == len(KEPT) + len(STRAY)


async def test_what_is_damaged_or_missing_is_named(shop: Shop, store: Database) -> None:
    lost = b"lost"
    await add_bundle(store, manifest_digest=b"n" * 32, blobs={digest_of(lost): len(lost)})
    name = digest_of(KEPT).hex()
    await obstore.put_async(shop.blobs._store, f"{name[:2]}/{name[2:4]}/{name}", b"A blob of a bundle")

    report = await last(shop.upkeep.verify())

    assert (report.damaged, report.missing) == ([digest_of(KEPT)], [digest_of(lost)])


async def test_only_what_nothing_refers_to_is_cleared_and_only_when_it_is_old(shop: Shop) -> None:
    assert (await shop.collect()).cleared == 0

    shop.passed = DAY + timedelta(minutes=1)
    would = await shop.collect(dry_run=True)
    assert await shop.there() == {KEPT, STRAY}
    did = await shop.collect()

    assert (would.cleared, would.cleared_bytes) == (did.cleared, did.cleared_bytes) == (1, len(STRAY))
    assert await shop.there() == {KEPT}


async def test_no_grace_is_shorter_than_an_upload_takes(shop: Shop) -> None:
    shop.passed = GRACE_LEAST - timedelta(minutes=1)

    assert (await shop.collect(grace=timedelta())).cleared == 0


async def test_an_upload_that_relies_on_an_old_blob_makes_it_young(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {blob.digest: blob.written_at async for blob in shop.blobs.stored()}
    monkeypatch.setattr("firmware_store.blobs.YOUNG", -YOUNG)  # so that what was written just now is old

    async with asyncio.timeout(10):
        while True:
            assert not await shop.blobs.put(digest_of(STRAY), STRAY)
            after = {blob.digest: blob.written_at async for blob in shop.blobs.stored()}
            if after[digest_of(STRAY)] > before[digest_of(STRAY)]:
                break

    assert after[digest_of(KEPT)] == before[digest_of(KEPT)]
    assert not await shop.blobs.delete_old(digest_of(STRAY), after[digest_of(STRAY)])
    assert await shop.blobs.delete_old(digest_of(STRAY), after[digest_of(STRAY)] + timedelta(seconds=1))


async def test_putting_and_clearing_side_by_side_lose_nothing(tmp_path: Path) -> None:
    """However they interleave, what a put has returned for is there: it was young, or written anew."""
    blobs = BlobStore(tmp_path)
    ages = set()
    for number in range(40):
        data = b"%d" % number
        name = digest_of(data).hex()
        await blobs.put(digest_of(data), data)
        os.utime(tmp_path / name[:2] / name[2:4] / name, (0, 0))
        put, clear = blobs.put(digest_of(data), data), blobs.delete_old(digest_of(data), datetime.now(UTC) - DAY)

        said = await asyncio.gather(*((put, clear) if number % 2 else (clear, put)))
        ages.add(said[1] if number % 2 else said[0])

        assert await blobs.get(digest_of(data)) == data

    assert True in ages


# --- through a real server, by its command line ---


def tidegate(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "store", *arguments, "--server", server.url, "--token", server.token]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


async def test_the_command_line_says_what_it_found(server: ServerProcess, admin: Api, tmp_path: Path) -> None:
    path = make_bundle(tmp_path, server.keys)
    assert (await admin.upload(path.read_bytes())).status == 201
    envelope = digest_of(read_envelope(path)).hex()
    file = server.data_dir / "blobs" / envelope[:2] / envelope[2:4] / envelope

    good = tidegate(server, "verify")
    whole = file.read_bytes()
    file.write_bytes(b"?" + whole[1:])
    bad = tidegate(server, "verify")
    file.unlink()
    lost = tidegate(server, "verify")
    file.write_bytes(whole)
    cleared = tidegate(server, "gc", "--dry-run", "--grace-hours", "4")

    assert (good.returncode, good.stderr) == (0, "")
    assert "0 damaged, 0 missing" in good.stdout
    assert (bad.returncode, lost.returncode) == (1, 1)
    assert f"damaged {envelope}" in bad.stdout
    assert f"missing {envelope}" in lost.stdout
    assert cleared.returncode == 0
    assert re.match(r"would clear 0 of \d+ blobs, 0 bytes", cleared.stdout)
    assert tidegate(server, "gc", "--grace-hours", "1").returncode == 1


async def test_an_upload_that_takes_longer_than_blobs_are_kept_for_it_is_broken_off(
    store: Database, tmp_path: Path
) -> None:
    """Garbage collection may have taken its first blobs by then: the bundle would be here, and not whole."""
    world = World(store, tmp_path / "blobs")
    bundles = Bundles(
        repository=BundleRepository(store),
        store=world.blobs,
        authority=world.authority,
        receive_most=timedelta(seconds=0.2),
    )

    async def dribble() -> AsyncIterator[bytes]:
        yield make_bundle(tmp_path, world.keys.folder).read_bytes()[:1000]
        await asyncio.Event().wait()

    with pytest.raises(InvalidInputError, match="there for the next try"):
        await bundles.receive(dribble(), caller="ann")

    assert YOUNG + RECEIVE_MOST <= GRACE_LEAST
