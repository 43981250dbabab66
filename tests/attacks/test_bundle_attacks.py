"""Hostile uploads: each ends in a typed error, and leaves nothing in the store that was not signed and whole."""

import random
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import zstandard

from firmware_store.blobs import BlobStore
from firmware_store.bundle import ReceivedBundle, receive_bundle
from firmware_store.chunks import chunk_image
from firmware_store.codec import encode
from firmware_store.errors import (
    CodecError,
    DigestError,
    ManifestError,
    RevokedError,
    SignatureError,
    TidegateError,
    TooLargeError,
)
from firmware_store.keys import SigningKey
from firmware_store.root import RoleName, Scope
from firmware_store.status import Status
from firmware_store.suit import Component, Fetch, open_envelope
from tests.releases import CLASS_1, RELEASE, ROOT, SIGNERS, STRANGER, envelope, manifest

LIMIT = 1 << 20
NOISE = random.Random(11).randbytes(60_000)
TEXT = b"spring tides follow the full moon. " * 3000


@dataclass(frozen=True)
class Image:
    """The blobs of one component, in the order of a bundle, and what the manifest says of them."""

    component: Component
    root: bytes
    pages: tuple[bytes, ...]
    chunks: tuple[bytes, ...]

    @property
    def parts(self) -> list[bytes]:
        return [self.root, *self.pages, *self.chunks]


def image(name: str, data: bytes) -> Image:
    cut = chunk_image([data])
    chunks = tuple(wire for _, wire in cut)
    index = cut.index()
    return Image(Component(name, index.image_digest, index.image_size, index.fetch), index.root, index.pages, chunks)


def hostile_image(rows: list[Any], chunks: list[bytes], *, size: int, digest: bytes = bytes(32)) -> Image:
    """An image whose index says whatever the author wants, with all digests right."""
    page = encode(rows)
    root = encode([[sha256(page).digest(), len(page), len(rows)]])
    fetch = Fetch(sha256(root).digest(), len(root), len(rows))
    return Image(Component("app", digest, size, fetch), root, (page,), tuple(chunks))


APP, ROOTFS = image("app", NOISE), image("rootfs", TEXT)


def bundle(
    *images: Image, signers: tuple[SigningKey, ...] = RELEASE, body: list[bytes] | None = None, tail: bytes = b""
) -> bytes:
    signed = envelope(manifest(tuple(one.component for one in images), (CLASS_1,)), signers)
    parts = [part for one in images for part in one.parts] if body is None else body
    return b"TGB1" + len(signed).to_bytes(4, "big") + signed + b"".join(parts) + tail


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 5000):
        yield data[at : at + 5000]


async def upload(data: bytes, directory: Path, *, max_bytes: int = LIMIT, root: Any = ROOT) -> ReceivedBundle:
    return await receive_bundle(pieces(data), root=root, store=BlobStore(directory), max_bytes=max_bytes)


async def stored(directory: Path) -> set[bytes]:
    """Every file below the store is a blob that is whole; returns their bytes."""
    store = BlobStore(directory)
    blobs = {await store.get(blob.digest) async for blob in store.stored()}
    assert len(blobs) == sum(path.is_file() for path in directory.rglob("*"))
    return blobs


def swapped(parts: list[bytes], one: int, other: int) -> list[bytes]:
    parts[one], parts[other] = parts[other], parts[one]
    return parts


def flipped(parts: list[bytes], number: int, at: int = 0) -> list[bytes]:
    parts[number] = parts[number][:at] + bytes([parts[number][at] ^ 1]) + parts[number][at + 1 :]
    return parts


async def test_the_builder_of_hostile_bundles_can_make_a_good_one(tmp_path: Path) -> None:
    received = await upload(bundle(APP, ROOTFS), tmp_path)

    assert len(await stored(tmp_path)) == len(received.blobs) == len({*APP.parts, *ROOTFS.parts})


@pytest.mark.parametrize(
    "signers",
    [(), RELEASE[:1], RELEASE[:1] * 2, (RELEASE[0], STRANGER), SIGNERS[RoleName.DIRECTIVE] * 2, SIGNERS[RoleName.ROOT]],
    ids=["nobody", "one of two", "one of two, twice", "a stranger", "the directive key", "the root keys"],
)
async def test_who_owns_the_server_cannot_add_a_byte_without_the_release_keys(
    tmp_path: Path, signers: tuple[SigningKey, ...]
) -> None:
    with pytest.raises(SignatureError):
        await upload(bundle(APP, signers=signers), tmp_path)
    assert await stored(tmp_path) == set()


async def test_a_component_out_of_the_keys_scope_is_refused(tmp_path: Path) -> None:
    release = replace(ROOT.roles[RoleName.RELEASE], scopes=(Scope(("app",), ()),))
    root = replace(ROOT, roles={**ROOT.roles, RoleName.RELEASE: release})

    await upload(bundle(APP), tmp_path / "in", root=root)
    with pytest.raises(SignatureError, match="may not sign component rootfs"):
        await upload(bundle(APP, ROOTFS), tmp_path / "out", root=root)
    assert await stored(tmp_path / "out") == set()


async def test_a_dead_release_key_does_not_count(tmp_path: Path) -> None:
    release = replace(ROOT.roles[RoleName.RELEASE], threshold=1)
    root = replace(
        ROOT,
        roles={**ROOT.roles, RoleName.RELEASE: release},
        dead_kids=frozenset({RELEASE[0].public.kid}),
    )

    with pytest.raises(SignatureError):
        await upload(bundle(APP, signers=RELEASE[:1]), tmp_path, root=root)
    assert await stored(tmp_path) == set()


async def test_a_revoked_bundle_is_not_received(tmp_path: Path) -> None:
    data = bundle(APP)
    digest = open_envelope(data[8 : 8 + int.from_bytes(data[4:8], "big")]).digest
    status = Status(1, ROOT.issued, ROOT.expires, ROOT.fleet, revoked_digests=frozenset({digest}))

    with pytest.raises(RevokedError):
        await receive_bundle(pieces(data), root=ROOT, store=BlobStore(tmp_path), max_bytes=LIMIT, status=status)
    assert await stored(tmp_path) == set()


# APP.parts: root, page, four chunks.
SUBSTITUTIONS: dict[str, Callable[[], list[bytes]]] = {
    "two chunks swapped": lambda: swapped(APP.parts, 3, 4),
    "a chunk of another image": lambda: [*APP.parts[:2], ROOTFS.chunks[0], *APP.parts[3:]],
    "one bit of a chunk flipped": lambda: flipped(APP.parts, 3, 100),
    "one bit of the last chunk flipped": lambda: flipped(APP.parts, 5, -1 % len(APP.chunks[3])),
    "one bit of the index flipped": lambda: flipped(APP.parts, 0),
    "one bit of a page flipped": lambda: flipped(APP.parts, 1, 50),
    "the index of another image": lambda: [ROOTFS.root, *APP.parts[1:]],
    "the page of another image": lambda: [APP.root, *ROOTFS.pages, *APP.parts[2:]],
    "a chunk one byte too long": lambda: [*APP.parts[:3], APP.parts[3] + b"\x00", *APP.parts[4:]],
    "a chunk one byte too short": lambda: [*APP.parts[:3], APP.parts[3][:-1], *APP.parts[4:]],
    "a chunk left out": lambda: [*APP.parts[:3], *APP.parts[4:]],
    "zeros for everything": lambda: [bytes(len(part)) for part in APP.parts],
}


@pytest.mark.parametrize("body", SUBSTITUTIONS.values(), ids=SUBSTITUTIONS.keys())
async def test_a_substituted_byte_is_never_stored(tmp_path: Path, body: Callable[[], list[bytes]]) -> None:
    with pytest.raises((DigestError, CodecError)):
        await upload(bundle(APP, body=body()), tmp_path)
    assert await stored(tmp_path) < set(APP.parts)


async def test_the_images_of_two_components_are_not_accepted_in_each_others_place(tmp_path: Path) -> None:
    with pytest.raises(DigestError):
        await upload(bundle(APP, ROOTFS, body=[*ROOTFS.parts, *APP.parts]), tmp_path)
    assert await stored(tmp_path) == set()


@pytest.mark.parametrize("tail", [b"\x00", APP.chunks[0], b"TGB1"], ids=["a byte", "a chunk", "another bundle"])
async def test_bytes_after_the_end_are_refused(tmp_path: Path, tail: bytes) -> None:
    with pytest.raises(CodecError, match="after the end"):
        await upload(bundle(APP, tail=tail), tmp_path)


async def test_a_bundle_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = bundle(APP)
    body = len(whole) - sum(map(len, APP.parts))

    for end in (0, 3, 4, 7, 8, 9, body - 1, body, body + 1, len(whole) - len(APP.chunks[-1]), len(whole) - 1):
        with pytest.raises(CodecError):
            await upload(whole[:end], tmp_path)
    assert await stored(tmp_path) < set(APP.parts)


async def test_an_endless_upload_ends_at_the_limit(tmp_path: Path) -> None:
    big = image("app", bytes(200 * 16384))
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield bundle(big, body=big.parts[:2])
        while True:
            sent += 50_000
            yield bytes(50_000)

    with pytest.raises((TooLargeError, DigestError)):
        await receive_bundle(endless(), root=ROOT, store=BlobStore(tmp_path), max_bytes=200_000)
    assert sent <= 250_000


async def test_an_endless_tail_is_not_read_to_its_end(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield bundle(APP)
        while True:
            sent += 1
            yield b"\x00"

    with pytest.raises(CodecError, match="after the end"):
        await receive_bundle(endless(), root=ROOT, store=BlobStore(tmp_path), max_bytes=LIMIT)
    assert sent == 1


async def test_pieces_of_no_bytes_are_no_end_and_no_hang(tmp_path: Path) -> None:
    async def hesitant() -> AsyncIterator[bytes]:
        yield b""
        async for piece in pieces(bundle(APP)):
            yield piece
            yield b""

    received = await receive_bundle(hesitant(), root=ROOT, store=BlobStore(tmp_path), max_bytes=LIMIT)

    assert received.verified.manifest.components == (APP.component,)


@pytest.mark.parametrize(
    "head",
    [b"PK\x03\x04" + bytes(100), b"\x1f\x8b\x08\x00" + bytes(100), b"ustar\x00" + b"../../etc/passwd" * 9],
    ids=["zip", "gzip", "tar with a path"],
)
async def test_an_archive_is_no_bundle_and_its_names_are_no_paths(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(CodecError, match="not a Tidegate bundle"):
        await upload(head, tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert await stored(tmp_path / "store") == set()


@pytest.mark.parametrize("size", [0, 65537, 2**31, 2**32 - 1])
async def test_an_envelope_of_an_impossible_length_is_not_waited_for(tmp_path: Path, size: int) -> None:
    with pytest.raises(CodecError, match="not a Tidegate bundle"):
        await upload(b"TGB1" + size.to_bytes(4, "big") + bytes(100_000), tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"\x81" * 5000 + b"\x01", b"\xd8\x6b" * 5000, b"\x9b" + b"\xff" * 8, b"\x5b" + b"\xff" * 7 + b"\x00", b"\xbf\xff"],
    ids=["array bomb", "tag bomb", "2^64 items", "2^64 bytes", "an indefinite map"],
)
async def test_a_cbor_bomb_for_an_envelope_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    start = time.perf_counter()

    with pytest.raises(CodecError):
        await upload(b"TGB1" + len(content).to_bytes(4, "big") + content, tmp_path)
    assert time.perf_counter() - start < 1


D = b"d" * 32


def bomb() -> Image:
    """A chunk of a kilobyte that would unpack to 16 MiB, named by an index that both keys signed."""
    packed = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 24))
    assert len(packed) < 16384
    row = [sha256(packed).digest(), len(packed), D, 16384]
    return hostile_image([row], [packed], size=16384)


async def test_a_decompression_bomb_is_refused_without_memory_for_it(tmp_path: Path) -> None:
    data = bundle(bomb())

    tracemalloc.start()
    with pytest.raises(DigestError, match="promise"):
        await upload(data, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2 << 20


CHUNK = bytes(16384)
WIRE = zstandard.ZstdCompressor().compress(CHUNK)
ROW = [sha256(WIRE).digest(), len(WIRE), sha256(CHUNK).digest(), 16384]
INCONSISTENT: dict[str, tuple[Callable[[], Image], type[TidegateError]]] = {
    "chunks that are not the image": (lambda: hostile_image([ROW], [WIRE], size=16384), DigestError),
    "chunks that are longer than the image": (
        lambda: hostile_image([ROW], [WIRE], size=16383, digest=sha256(CHUNK).digest()),
        DigestError,
    ),
    "a chunk with the wrong raw digest": (
        lambda: hostile_image([[*ROW[:2], D, 16384]], [WIRE], size=16384, digest=sha256(CHUNK).digest()),
        DigestError,
    ),
    "a short chunk in the middle": (
        lambda: hostile_image([[D, 5, D, 9], ROW], [b"12345", WIRE], size=16393),
        ManifestError,
    ),
    "a chunk that grows on the wire": (lambda: hostile_image([[D, 17000, D, 16384]], [b""], size=16384), ManifestError),
    "a page that is no list": (
        lambda: replace(hostile_image([ROW], [WIRE], size=16384), pages=(encode([ROW, ROW]),)),
        DigestError,
    ),
}


@pytest.mark.parametrize(("build", "error"), INCONSISTENT.values(), ids=INCONSISTENT.keys())
async def test_a_signed_release_that_contradicts_itself_is_refused(
    tmp_path: Path, build: Callable[[], Image], error: type[TidegateError]
) -> None:
    with pytest.raises(error):
        await upload(bundle(build()), tmp_path)


async def test_a_blob_that_changes_in_the_store_after_the_check_is_not_handed_out(tmp_path: Path) -> None:
    received = await upload(bundle(APP), tmp_path)
    victim = sha256(APP.chunks[0]).digest()
    name = victim.hex()

    (tmp_path / name[:2] / name[2:4] / name).write_bytes(b"changed between check and use")

    assert victim in received.blobs
    with pytest.raises(DigestError):
        await BlobStore(tmp_path).get(victim)


async def test_after_every_failure_the_same_bundle_can_be_sent_again(tmp_path: Path) -> None:
    with pytest.raises(CodecError):
        await upload(bundle(APP)[:-1], tmp_path)

    await upload(bundle(APP), tmp_path)

    assert await stored(tmp_path) == set(APP.parts)
