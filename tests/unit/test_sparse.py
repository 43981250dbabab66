"""Bundles without what the receiver has: it ends up with the same, byte for byte, and believes nothing more."""

import random
from collections.abc import AsyncIterator, Iterable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_store import sparse
from firmware_store.blobs import BlobStore
from firmware_store.bundle import ReceivedBundle, receive_bundle
from firmware_store.digest_set import DigestSet
from firmware_store.errors import CodecError, ConflictError, SignatureError, TooLargeError
from firmware_store.root import open_root
from firmware_store.sparse import list_blobs, sparse_pieces, sparse_size
from tests.servers import make_bundle
from tests.trust_fleet import shared_folder

DIGESTS = st.binary(min_size=32, max_size=32)
# With a chunk that comes twice, and one that both components have.
ZEROS = bytes(16384)
IMAGES = {"app": random.Random(5).randbytes(50_000) + ZEROS + ZEROS, "rootfs": ZEROS + b"the rest" * 9000}
ROOT = open_root((shared_folder() / "root.cbor").read_bytes(), now=None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), shared_folder(), content=IMAGES)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


async def collect(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def receive(data: bytes, store: BlobStore, **options: Any) -> ReceivedBundle:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 5000):
            yield data[at : at + 5000]

    given = {"root": ROOT, "store": store, "max_bytes": 1 << 20, "known": store} | options
    return await receive_bundle(pieces(), **given)


def contents(bundle: Path) -> dict[bytes, bytes]:
    data = bundle.read_bytes()
    return {blob.digest: data[blob.offset : blob.offset + blob.size] for blob in list_blobs(bundle)}


def test_every_blob_of_a_bundle_is_listed_where_it_is(bundle: Path) -> None:
    blobs = list(list_blobs(bundle))

    assert all(sha256(data).digest() == digest for digest, data in contents(bundle).items())
    assert blobs[-1].offset + blobs[-1].size == bundle.stat().st_size
    assert all(one.offset + one.size == two.offset for one, two in pairwise(blobs))
    assert len(contents(bundle)) < len(blobs)


@settings(max_examples=12)
@given(choice=st.randoms(use_true_random=False), share=st.floats(0, 1))
async def test_whatever_is_left_out_the_same_bundle_arrives(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, choice: random.Random, share: float
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    here = {digest: data for digest, data in contents(bundle).items() if choice.random() < share}
    for digest, data in here.items():
        await store.put(digest, data)
    known = DigestSet.of(here)

    data = await collect(sparse_pieces(bundle, known))
    received = await receive(data, store)

    assert len(data) == sparse_size(bundle, known)
    assert received.blobs == {digest: len(data) for digest, data in contents(bundle).items()}
    assert {blob.digest async for blob in store.stored()} == contents(bundle).keys()


async def test_what_is_left_out_and_not_here_is_said_so(bundle: Path, store: BlobStore) -> None:
    data = await collect(sparse_pieces(bundle, DigestSet.of(list(contents(bundle))[-1:])))

    with pytest.raises(ConflictError, match="not here"):
        await receive(data, store)


async def test_what_is_left_out_and_damaged_here_is_said_so(bundle: Path, store: BlobStore, tmp_path: Path) -> None:
    last, data = list(contents(bundle).items())[-1]
    await store.put(last, data)
    name = last.hex()
    (tmp_path / "blobs" / name[:2] / name[2:4] / name).write_bytes(b"damage")

    with pytest.raises(ConflictError, match="not here"):
        await receive(await collect(sparse_pieces(bundle, DigestSet.of([last]))), store)


async def test_what_is_left_out_counts_for_the_limit(bundle: Path, store: BlobStore) -> None:
    for digest, data in contents(bundle).items():
        await store.put(digest, data)
    data = await collect(sparse_pieces(bundle, DigestSet.of(contents(bundle))))
    assert len(data) < 3000

    with pytest.raises(TooLargeError):
        await receive(data, store, max_bytes=bundle.stat().st_size - 1)


async def test_signatures_count_as_ever(tmp_path: Path, store: BlobStore) -> None:
    unsigned = make_bundle(tmp_path, shared_folder(), signers=())

    with pytest.raises(SignatureError):
        await receive(await collect(sparse_pieces(unsigned, DigestSet.of(contents(unsigned)))), store)


def raw(digests: Iterable[bytes], count: int | None = None) -> bytes:
    data = b"".join(digests)
    return sparse.MAGIC + (len(data) // 32 if count is None else count).to_bytes(4, "big") + data


HEADS = {
    "unsorted": raw([b"b" * 32, b"a" * 32]),
    "twice the same": raw([b"a" * 32, b"a" * 32]),
    "too many": raw([], count=sparse.MOST + 1),
    "fewer than it says": raw([b"a" * 32], count=2),
    "nothing after them": raw([b"a" * 32]),
    "sparse twice": raw([]) + raw([]),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
async def test_a_list_that_is_none_is_refused(store: BlobStore, head: bytes) -> None:
    with pytest.raises(CodecError):
        await receive(head, store)


async def test_a_check_of_a_file_takes_whole_bundles_only(bundle: Path, store: BlobStore) -> None:
    with pytest.raises(CodecError):
        await receive(await collect(sparse_pieces(bundle, DigestSet(b""))), store, known=None)


@given(st.sets(DIGESTS), DIGESTS)
def test_a_digest_set_has_what_was_put_into_it(digests: set[bytes], other: bytes) -> None:
    known = DigestSet.of(digests)

    assert len(known) == len(digests)
    assert all(digest in known for digest in digests)
    assert (other in known) == (other in digests)
    assert DigestSet(known.data).data == known.data
