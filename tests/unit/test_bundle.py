"""Bundles: built from files, signed, received byte by byte into a real blob store."""

import random
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from firmware_store.blobs import BlobStore
from firmware_store.bundle import (
    ReceivedBundle,
    build_bundle,
    bundle_pieces,
    read_envelope,
    receive_bundle,
    replace_envelope,
    verify_bundle,
    write_bundle,
)
from firmware_store.chunks import decode_index, decode_page, unpack_chunk
from firmware_store.errors import (
    CodecError,
    ConfigurationError,
    DigestError,
    InvalidInputError,
    ManifestError,
    SignatureError,
    StoreUnavailableError,
    TooLargeError,
)
from firmware_store.keys import load_key
from firmware_store.root import RoleName, Root, init_dev_keys, key_file, open_root
from firmware_store.suit import ChunkProfile, open_envelope, sever_text, sign_envelope

NOISE = random.Random(3).randbytes(100_000)
TEXT = b"slack water, then the ebb. " * 9000
LIMIT = 10_000_000


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    init_dev_keys(directory, fleet=None, now=1_800_000_000)
    return directory


@pytest.fixture(scope="module")
def root(keys: Path) -> Root:
    return open_root((keys / "root.cbor").read_bytes(), now=None)


@pytest.fixture
def images(tmp_path: Path) -> Mapping[str, Path]:
    for name, data in (("app", NOISE), ("rootfs", TEXT)):
        (tmp_path / f"{name}.bin").write_bytes(data)
    return {name: tmp_path / f"{name}.bin" for name in ("app", "rootfs")}


def build(path: Path, images: Mapping[str, Path], profiles: Mapping[str, ChunkProfile] | None = None) -> Path:
    build_bundle(
        path,
        images=images,
        profiles=profiles,
        vendor="example.com",
        models=["gauge|r1", "gauge|r2"],
        version=(1, 1, 0),
        sequence_number=7,
        description="quieter at slack water",
    )
    return path


def sign(path: Path, keys: Path) -> Path:
    envelope = read_envelope(path)
    for number in (1, 2):
        envelope = sign_envelope(envelope, load_key(key_file(keys, RoleName.RELEASE, number), None))
    replace_envelope(path, envelope)
    return path


@pytest.fixture
def bundle(tmp_path: Path, images: Mapping[str, Path], keys: Path) -> Path:
    return sign(build(tmp_path / "release.tgb", images), keys)


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def receive(data: bytes, root: Root, store: BlobStore, *, piece: int = 60_000) -> ReceivedBundle:
    return await receive_bundle(pieces(data, piece), root=root, store=store, max_bytes=LIMIT)


async def test_the_images_come_back_from_the_store(bundle: Path, root: Root, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")

    received = await receive(bundle.read_bytes(), root, store)

    restored = {}
    for component in received.verified.manifest.components:
        pages = decode_index(await store.get(component.fetch.index_digest), component.fetch)
        chunks = [chunk for page in pages for chunk in decode_page(await store.get(page.digest), page)]
        raws = [unpack_chunk(chunk, await store.get(chunk.wire_digest)) for chunk in chunks]
        restored[component.name] = b"".join(raws)
    assert restored == {"app": NOISE, "rootfs": TEXT}
    assert received.blobs == {blob.digest: blob.size async for blob in store.stored()}
    assert received.verified.description == "quieter at slack water"
    assert received.envelope == read_envelope(bundle)


@pytest.mark.parametrize("piece", [1, 7, 4096, 10_000_000])
async def test_a_bundle_may_arrive_in_pieces_of_any_size(bundle: Path, root: Root, tmp_path: Path, piece: int) -> None:
    data = bundle.read_bytes()

    received = await receive(data, root, BlobStore(tmp_path / "blobs"), piece=piece)

    assert received == await verify_bundle(bundle, root)


async def test_sending_a_bundle_twice_changes_nothing(bundle: Path, root: Root, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")

    assert await receive(bundle.read_bytes(), root, store) == await receive(bundle.read_bytes(), root, store)


class CountingStore:
    """A store that knows how many bytes were new to it."""

    def __init__(self, directory: Path) -> None:
        self.store = BlobStore(directory)
        self.new_bytes = 0

    async def put(self, digest: bytes, data: bytes) -> bool:
        is_new = await self.store.put(digest, data)
        self.new_bytes += len(data) * is_new
        return is_new


@pytest.mark.parametrize(
    ("profile", "change", "share"),
    [
        (ChunkProfile.FIXED, lambda image: image[:50_000] + b"!" + image[50_001:], 0.1),
        (ChunkProfile.FIXED_4K, lambda image: image[:50_000] + b"!" + image[50_001:], 0.05),
        (ChunkProfile.CDC, lambda image: b"one more byte in front" + image, 0.15),
    ],
    ids=["fixed, a byte changed", "fixed-4k, a byte changed", "cdc, bytes inserted"],
)
async def test_what_two_releases_share_is_stored_once(
    tmp_path: Path,
    root: Root,
    keys: Path,
    profile: ChunkProfile,
    change: Callable[[bytes], bytes],
    share: float,
) -> None:
    store, image, path = CountingStore(tmp_path / "blobs"), random.Random(9).randbytes(1_000_000), tmp_path / "app.bin"
    received = []
    for content in (image, change(image)):
        path.write_bytes(content)
        bundle = sign(build(tmp_path / "release.tgb", {"app": path}, {"app": profile}), keys)
        store.new_bytes = 0
        pieces = bundle_pieces(bundle)
        received.append(await receive_bundle(pieces, root=root, store=store, max_bytes=LIMIT))

    first, second = (one.blobs for one in received)
    assert store.new_bytes == sum(size for digest, size in second.items() if digest not in first)
    assert store.new_bytes < share * sum(second.values())
    assert {blob.digest async for blob in store.store.stored()} == {*first, *second}


def test_the_parts_of_a_bundle_are_cut_as_each_is_to_be(tmp_path: Path, images: Mapping[str, Path]) -> None:
    bundle = build(tmp_path / "mixed.tgb", images, {"rootfs": ChunkProfile.CDC})

    write_bundle(tmp_path / "again.tgb", read_envelope(bundle), images)

    components = open_envelope(read_envelope(bundle)).read()[0].components
    assert [each.fetch.profile for each in components] == [ChunkProfile.FIXED, ChunkProfile.CDC]
    assert (tmp_path / "again.tgb").read_bytes() == bundle.read_bytes()


async def test_a_file_can_be_streamed_for_an_upload(bundle: Path) -> None:
    assert bundle.read_bytes() == b"".join([piece async for piece in bundle_pieces(bundle)])


async def test_an_unsigned_bundle_is_refused_before_an_image_byte_is_read(
    tmp_path: Path, images: Mapping[str, Path], root: Root
) -> None:
    path = build(tmp_path / "unsigned.tgb", images)
    head = 8 + len(read_envelope(path))
    asked = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal asked
        data = path.read_bytes()
        yield data[:head]
        asked += 1
        yield data[head:]

    with pytest.raises(SignatureError):
        await receive_bundle(counted(), root=root, store=BlobStore(tmp_path / "blobs"), max_bytes=LIMIT)
    assert asked == 0


async def test_the_limit_holds_before_the_end(bundle: Path, root: Root, tmp_path: Path) -> None:
    data = bundle.read_bytes()

    with pytest.raises(TooLargeError) as refused:
        await receive_bundle(
            pieces(data, 1000), root=root, store=BlobStore(tmp_path / "blobs"), max_bytes=len(data) - 1
        )
    assert refused.value.limit_bytes == len(data) - 1


async def test_a_store_that_does_not_answer_ends_the_upload(bundle: Path, root: Root, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_bytes(b"")

    with pytest.raises(StoreUnavailableError):
        await receive(bundle.read_bytes(), root, store)


async def test_receiving_holds_a_small_part_of_a_large_image(tmp_path: Path, keys: Path, root: Root) -> None:
    (tmp_path / "large.bin").write_bytes(random.Random(1).randbytes(24 << 20))
    path = sign(build(tmp_path / "large.tgb", {"rootfs": tmp_path / "large.bin"}), keys)

    tracemalloc.start()
    received = await verify_bundle(path, root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(received.blobs) > 1500
    assert peak < 6 << 20


def test_building_leaves_one_file_and_builds_the_same_twice(tmp_path: Path, images: Mapping[str, Path]) -> None:
    first = build(tmp_path / "one.tgb", images).read_bytes()

    assert first == build(tmp_path / "one.tgb", images).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.bin", "one.tgb", "rootfs.bin"]


def test_a_bundle_can_be_written_for_an_envelope_that_exists(
    tmp_path: Path, bundle: Path, images: Mapping[str, Path]
) -> None:
    write_bundle(tmp_path / "again.tgb", read_envelope(bundle), images)

    assert bundle.read_bytes() == (tmp_path / "again.tgb").read_bytes()


def test_an_image_that_has_changed_since_is_not_written(
    tmp_path: Path, bundle: Path, images: Mapping[str, Path]
) -> None:
    images["app"].write_bytes(NOISE[:-1])

    with pytest.raises(DigestError):
        write_bundle(tmp_path / "again.tgb", read_envelope(bundle), images)
    assert not (tmp_path / "again.tgb").exists()


def test_a_bundle_holds_exactly_the_components_of_its_manifest(
    tmp_path: Path, bundle: Path, images: Mapping[str, Path]
) -> None:
    with pytest.raises(InvalidInputError):
        write_bundle(tmp_path / "again.tgb", read_envelope(bundle), {"app": images["app"]})


def test_the_description_can_be_severed_in_the_file(bundle: Path) -> None:
    before = bundle.read_bytes()

    replace_envelope(bundle, sever_text(read_envelope(bundle)))

    after = bundle.read_bytes()
    assert sever_text(read_envelope(bundle)) == read_envelope(bundle)
    assert len(after) < len(before)
    assert after[-1000:] == before[-1000:]


def test_an_envelope_for_another_manifest_does_not_get_into_a_bundle(
    tmp_path: Path, bundle: Path, images: Mapping[str, Path]
) -> None:
    other = build(tmp_path / "other.tgb", {"app": images["app"]})
    before = bundle.read_bytes()

    with pytest.raises(InvalidInputError):
        replace_envelope(bundle, read_envelope(other))
    assert before == bundle.read_bytes()


def test_names_and_folders_that_cannot_be_used_are_said_so(tmp_path: Path, images: Mapping[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        build(tmp_path / "b.tgb", {"app": tmp_path / "absent"})
    with pytest.raises(ConfigurationError, match="cannot read"):
        build(tmp_path / "b.tgb", {"app": tmp_path})
    with pytest.raises(ConfigurationError, match="cannot write"):
        build(tmp_path / "absent" / "b.tgb", images)
    (tmp_path / "folder.tgb").mkdir()
    with pytest.raises(ConfigurationError, match="cannot write"):
        build(tmp_path / "folder.tgb", images)
    with pytest.raises(ManifestError):
        build(tmp_path / "b.tgb", {"../app": images["app"]})
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ManifestError, match="at least one byte"):
        build(tmp_path / "b.tgb", {"app": tmp_path / "empty"})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"app.bin", "rootfs.bin", "empty", "folder.tgb"}


NO_BUNDLES = [b"", b"TGB1", b"TGB2\0\0\0\x01a", b"TGB1\0\0\0\0", b"TGB1\0\x01\0\x01", b"TGB1\0\0\0\x02a"]


@pytest.mark.parametrize("data", NO_BUNDLES)
def test_a_file_that_is_no_bundle_has_no_envelope(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)

    with pytest.raises(CodecError):
        read_envelope(tmp_path / "file")


def test_the_first_blob_follows_the_envelope_and_is_the_one_it_names(bundle: Path) -> None:
    data, envelope = bundle.read_bytes(), read_envelope(bundle)
    fetch = open_envelope(envelope).read()[0].components[0].fetch

    index = data[8 + len(envelope) :][: fetch.index_size]

    assert fetch.index_digest == sha256(index).digest()
