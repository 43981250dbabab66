"""The blob store on a real folder and on S3: content decides the name, and damage is never handed out."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import aiohttp
import obstore
import pytest

from firmware_store.blob_places import Bucket, Place
from firmware_store.blobs import BlobStore
from firmware_store.errors import ConfigurationError, DigestError, NotFoundError, StoreUnavailableError
from tests.s3_peer import S3Peer

DATA = b"a chunk"
DIGEST = sha256(DATA).digest()


def path_of(digest: bytes = DIGEST) -> str:
    name = digest.hex()
    return f"{name[:2]}/{name[2:4]}/{name}"


def file_of(directory: Path, digest: bytes = DIGEST) -> Path:
    return directory / path_of(digest)


@pytest.fixture(params=["folder", "s3"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Path | Place]:
    """Opens the same place again and again."""
    if request.param == "folder":
        return lambda: tmp_path / "blobs"
    peer: S3Peer = request.getfixturevalue("s3")
    url = peer.url()
    return lambda: peer.bucket(url)


@pytest.fixture
def store(new_place: Callable[[], Path | Place]) -> BlobStore:
    return BlobStore(new_place())


@pytest.fixture
def folder(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


async def spoil(store: BlobStore, path: str, data: bytes) -> None:
    """Write past the store, as an accident would."""
    await obstore.put_async(store._store, path, data)


async def paths(store: BlobStore) -> list[str]:
    """All that lies there, blob or not."""
    return [entry["path"] async for batch in obstore.list(store._store) for entry in batch]


async def test_a_blob_comes_back(store: BlobStore) -> None:
    assert await store.put(DIGEST, DATA)

    assert await store.get(DIGEST) == DATA
    assert len(DATA) == await store.size(DIGEST)


async def test_a_blob_that_is_there_is_not_written_again(store: BlobStore) -> None:
    await store.put(DIGEST, DATA)
    (before,) = [blob async for blob in store.stored()]

    assert not await store.put(DIGEST, DATA)
    assert [blob async for blob in store.stored()] == [before]


async def test_blobs_outlive_the_store_object(store: BlobStore, new_place: Callable[[], Path | Place]) -> None:
    await store.put(DIGEST, DATA)

    assert await BlobStore(new_place()).get(DIGEST) == DATA


async def test_bytes_under_a_name_that_is_not_theirs_are_not_written(store: BlobStore) -> None:
    with pytest.raises(DigestError):
        await store.put(bytes(32), DATA)
    assert await store.size(bytes(32)) is None


async def test_a_blob_that_is_not_there_is_not_found(store: BlobStore) -> None:
    with pytest.raises(NotFoundError):
        await store.get(DIGEST)
    assert await store.size(DIGEST) is None


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA + b".", b"A chunk"])
async def test_a_damaged_blob_is_refused_and_put_mends_it(store: BlobStore, damage: bytes) -> None:
    await store.put(DIGEST, DATA)
    await spoil(store, path_of(), damage)

    with pytest.raises(DigestError):
        await store.get(DIGEST)
    assert not await store.put(DIGEST, DATA)
    assert await store.get(DIGEST) == DATA


async def test_deleting_twice_is_deleting(store: BlobStore) -> None:
    await store.put(DIGEST, DATA)

    await store.delete(DIGEST)
    await store.delete(DIGEST)

    assert await store.size(DIGEST) is None
    assert await store.put(DIGEST, DATA)


async def test_every_blob_is_listed_and_nothing_else(store: BlobStore) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=2)  # S3 says seconds
    blobs = {sha256(data).digest(): data for data in (b"one", b"two", b"three")}
    for digest, data in blobs.items():
        await store.put(digest, data)
    for stray in ("notes.txt", "ab/cd/not-hex", f"ab/cd/{DIGEST.hex()}", "ab/cd/abcd", f"{path_of()}.part"):
        await spoil(store, stray, b"stray")

    listed = [blob async for blob in store.stored()]

    assert {blob.digest: blob.size for blob in listed} == {digest: len(data) for digest, data in blobs.items()}
    assert all(begun <= blob.written_at <= datetime.now(UTC) for blob in listed)


async def test_writers_of_one_blob_do_not_disturb_each_other(store: BlobStore) -> None:
    created = await asyncio.gather(*(store.put(DIGEST, DATA) for _ in range(20)))

    assert created.count(True) == 1
    assert await store.get(DIGEST) == DATA
    assert await paths(store) == [path_of()]


async def test_a_place_that_is_there_says_nothing(store: BlobStore) -> None:
    await store.check()


# --- a folder ---


def test_a_store_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StoreUnavailableError):
        BlobStore(tmp_path / "file")


async def test_a_folder_that_is_gone_is_said_so(folder: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_bytes(b"")

    for use in (folder.put(DIGEST, DATA), folder.size(DIGEST), folder.check()):
        with pytest.raises(StoreUnavailableError):
            await use
    with pytest.raises(StoreUnavailableError):
        _ = [blob async for blob in folder.stored()]


async def test_a_folder_has_no_door_of_its_own(folder: BlobStore) -> None:
    assert await folder.presign(DIGEST, valid=timedelta(seconds=60)) is None


async def test_a_file_that_was_left_half_written_is_no_blob_and_is_swept(folder: BlobStore, tmp_path: Path) -> None:
    await folder.put(DIGEST, DATA)
    left = file_of(tmp_path / "blobs").with_name(f".{DIGEST.hex()}.{'0' * 16}")
    left.write_bytes(DATA[:3])
    now = datetime.now(UTC)

    assert await folder.sweep(now - timedelta(hours=1)) == 0
    os.utime(left, (0, 0))
    assert await folder.sweep(now - timedelta(hours=1), dry_run=True) == 1
    assert left.exists()
    assert await folder.sweep(now - timedelta(hours=1)) == 1

    assert [blob.digest async for blob in folder.stored()] == [DIGEST]
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [file_of(tmp_path / "blobs")]


# --- a bucket ---


async def test_a_bucket_lets_anybody_in_for_one_request(s3: S3Peer) -> None:
    store = BlobStore(s3.bucket(s3.url()))
    await store.put(DIGEST, DATA)
    get = await store.presign(DIGEST, valid=timedelta(seconds=60))
    head = await store.presign(DIGEST, method="HEAD", valid=timedelta(seconds=60))

    assert get is not None
    assert head is not None
    assert "X-Amz-Expires=60" in get
    async with aiohttp.ClientSession() as session:
        async with session.get(get, headers={"Range": "bytes=2-"}) as response:
            assert (response.status, await response.read()) == (206, DATA[2:])
        async with session.head(head) as response:
            assert (response.status, response.headers["Content-Length"]) == (200, str(len(DATA)))


@pytest.mark.parametrize("url", ["", "/var/blobs", "http://bucket", "s3://", "s3:///prefix", "s3://bucket?x=1"])
def test_a_bucket_has_one_kind_of_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket"):
        Bucket(url)


async def test_a_bucket_that_is_not_there_is_said_so(s3: S3Peer) -> None:
    with pytest.raises(StoreUnavailableError, match="s3://no-such-bucket"):
        await BlobStore(s3.bucket("s3://no-such-bucket")).check()


@asynccontextmanager
async def refusing() -> AsyncIterator[str]:
    """A server that closes every connection."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"


async def test_a_bucket_that_does_not_answer_is_said_so() -> None:
    async with refusing() as endpoint:
        store = BlobStore(S3Peer(endpoint).bucket("s3://firmware"))

        for use in (store.put(DIGEST, DATA), store.get(DIGEST), store.size(DIGEST), store.delete(DIGEST)):
            with pytest.raises(StoreUnavailableError):
                await use
