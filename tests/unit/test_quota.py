"""The blob store's quota, on a real folder: what is there already always fits, and no two share the last room."""

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest

from firmware_store.blobs import BlobStore
from firmware_store.errors import StoreFullError
from server.services.quota import RECOUNT_AFTER_S, Quota


def blob(number: int, size: int = 100) -> tuple[bytes, bytes]:
    data = number.to_bytes(2, "big").ljust(size, b".")
    return sha256(data).digest(), data


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


async def test_without_a_quota_there_is_always_room(store: BlobStore) -> None:
    quota = Quota(store, None)

    assert [await quota.put(*blob(number)) for number in (1, 2, 1)] == [True, True, False]


async def test_what_was_there_before_counts(store: BlobStore) -> None:
    await store.put(*blob(1))
    quota = Quota(store, 250)

    assert await quota.put(*blob(2))
    with pytest.raises(StoreFullError, match="250 bytes"):
        await quota.put(*blob(3))
    assert await store.size(blob(3)[0]) is None


async def test_a_blob_that_is_there_needs_no_room(store: BlobStore) -> None:
    quota = Quota(store, 100)
    await quota.put(*blob(1))

    assert not await quota.put(*blob(1))


async def test_of_many_side_by_side_as_many_get_in_as_fit(store: BlobStore) -> None:
    quota = Quota(store, 1000)

    said = await asyncio.gather(*(quota.put(*blob(number)) for number in range(30)), return_exceptions=True)

    assert said.count(True) == 10
    assert sum(isinstance(one, StoreFullError) for one in said) == 20


async def test_what_others_have_cleared_is_room_again_after_a_while(store: BlobStore) -> None:
    now = 0.0
    quota = Quota(store, 100, clock=lambda: now)
    await quota.put(*blob(1))
    await store.delete(blob(1)[0])

    with pytest.raises(StoreFullError):
        await quota.put(*blob(2))
    now = RECOUNT_AFTER_S

    assert await quota.put(*blob(2))


class SlowStore(BlobStore):
    """Puts end when a test says so."""

    go_on: asyncio.Event | None = None

    async def put(self, digest: bytes, data: bytes) -> bool:
        if self.go_on is not None:
            await self.go_on.wait()
        return await super().put(digest, data)


async def test_what_is_on_its_way_while_the_store_is_counted_is_not_forgotten(tmp_path: Path) -> None:
    now = 0.0
    store = SlowStore(tmp_path / "blobs")
    quota = Quota(store, 300, clock=lambda: now)
    await quota.put(*blob(1))
    store.go_on = asyncio.Event()
    on_its_way = asyncio.create_task(quota.put(*blob(2)))
    await asyncio.sleep(0)
    now = RECOUNT_AFTER_S

    async with asyncio.timeout(10):
        with pytest.raises(StoreFullError):
            await quota.put(*blob(3, size=200))
    store.go_on.set()

    assert await on_its_way
    assert await quota.put(*blob(4))
