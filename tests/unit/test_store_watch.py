"""How ready the blob store is: looked at seldom, by one look at a time, and never for longer than a caller waits."""

import asyncio
from pathlib import Path

import obstore
import pytest

from firmware_store.blobs import BlobStore
from firmware_store.errors import StoreUnavailableError
from server.services.store_watch import EVERY_S, StoreWatch
from tests.s3_peer import S3Peer


class HungStore(BlobStore):
    """A folder on a network that is gone."""

    looks = 0

    async def probe(self) -> None:
        self.looks += 1
        await asyncio.Event().wait()


async def test_a_store_is_looked_at_every_ten_seconds_at_most(tmp_path: Path) -> None:
    now = 0.0
    watch = StoreWatch(BlobStore(tmp_path / "blobs"), clock=lambda: now)
    assert (await watch.state()).is_well
    (tmp_path / "blobs" / "probe").unlink()
    (tmp_path / "blobs").rmdir()

    now = EVERY_S - 0.1
    before = await watch.state()
    now = EVERY_S
    after = await watch.state()

    assert before.is_well
    assert (after.is_well, after.text) == (False, "the folder of the blob store is gone")


async def test_a_store_that_hangs_keeps_nobody_and_is_not_asked_again(tmp_path: Path) -> None:
    now = 0.0
    store = HungStore(tmp_path)
    watch = StoreWatch(store, clock=lambda: now)

    for now in (0.0, 60.0):
        state = await watch.state(patience_s=0.01)

        assert not state.is_well
        assert state.text == f"{tmp_path} has not answered for {now:.0f} s"
    assert store.looks == 1


async def test_a_store_that_takes_nothing_is_told(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    (tmp_path / "blobs" / "probe").mkdir()  # as good as a disk that takes nothing, also for root

    with pytest.raises(StoreUnavailableError):
        await store.probe()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return BlobStore(tmp_path / "blobs")
    peer: S3Peer = request.getfixturevalue("s3")
    return BlobStore(peer.bucket(peer.url()))


async def test_the_probe_is_no_blob_and_is_written_once(store: BlobStore) -> None:
    await store.probe()
    first = await obstore.head_async(store._store, "probe")
    await store.probe()

    assert await obstore.head_async(store._store, "probe") == first
    assert [blob async for blob in store.stored()] == []


async def test_a_probe_that_was_damaged_is_made_anew(store: BlobStore) -> None:
    await obstore.put_async(store._store, "probe", b"?")

    await store.probe()

    assert bytes(await (await obstore.get_async(store._store, "probe")).bytes_async()) == b"tidegate"
