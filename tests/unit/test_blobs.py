"""The blob store on a real folder: content decides the name, and damage is never handed out."""

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest

from firmware_store.blobs import BlobStore
from firmware_store.errors import DigestError, NotFoundError, StoreUnavailableError

DATA = b"a chunk"
DIGEST = sha256(DATA).digest()


def file_of(directory: Path, digest: bytes = DIGEST) -> Path:
    name = digest.hex()
    return directory / name[:2] / name[2:4] / name


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


async def test_a_blob_comes_back(store: BlobStore) -> None:
    assert await store.put(DIGEST, DATA)

    assert await store.get(DIGEST) == DATA
    assert len(DATA) == await store.size(DIGEST)


async def test_a_blob_that_is_there_is_not_written_again(store: BlobStore, tmp_path: Path) -> None:
    await store.put(DIGEST, DATA)
    before = file_of(tmp_path / "blobs").stat()

    assert not await store.put(DIGEST, DATA)
    assert before.st_mtime_ns == file_of(tmp_path / "blobs").stat().st_mtime_ns


async def test_blobs_outlive_the_store_object(store: BlobStore, tmp_path: Path) -> None:
    await store.put(DIGEST, DATA)

    assert await BlobStore(tmp_path / "blobs").get(DIGEST) == DATA


async def test_bytes_under_a_name_that_is_not_theirs_are_not_written(store: BlobStore) -> None:
    with pytest.raises(DigestError):
        await store.put(bytes(32), DATA)
    assert await store.size(bytes(32)) is None


async def test_a_blob_that_is_not_there_is_not_found(store: BlobStore) -> None:
    with pytest.raises(NotFoundError):
        await store.get(DIGEST)
    assert await store.size(DIGEST) is None


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA + b".", b"A chunk"])
async def test_a_damaged_blob_is_refused_and_put_mends_it(store: BlobStore, tmp_path: Path, damage: bytes) -> None:
    await store.put(DIGEST, DATA)
    file_of(tmp_path / "blobs").write_bytes(damage)

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


async def test_every_blob_is_listed_and_nothing_else(store: BlobStore, tmp_path: Path) -> None:
    blobs = {sha256(data).digest(): data for data in (b"one", b"two", b"three")}
    for digest, data in blobs.items():
        await store.put(digest, data)
    for stray in ("notes.txt", "ab/cd/not-hex", f"ab/cd/{DIGEST.hex()}", "ab/cd/abcd", f"{file_of(Path(), DIGEST)}#1"):
        (tmp_path / "blobs" / stray).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "blobs" / stray).write_bytes(b"")

    assert set(blobs) == {digest async for digest in store.digests()}


async def test_writers_of_one_blob_do_not_disturb_each_other(store: BlobStore, tmp_path: Path) -> None:
    created = await asyncio.gather(*(store.put(DIGEST, DATA) for _ in range(20)))

    assert created.count(True) == 1
    assert await store.get(DIGEST) == DATA
    assert [file_of(tmp_path / "blobs")] == [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


def test_a_store_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StoreUnavailableError):
        BlobStore(tmp_path / "file")


async def test_a_folder_that_is_gone_is_said_so(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_bytes(b"")

    with pytest.raises(StoreUnavailableError):
        await store.put(DIGEST, DATA)
    with pytest.raises(StoreUnavailableError):
        await store.size(DIGEST)
    with pytest.raises(StoreUnavailableError):
        _ = [digest async for digest in store.digests()]
