"""Releases whose parts are all genuine, or all signed, and do not belong together: nothing of them is ever booted.

The signatures are good throughout. What stops these is that every byte is bound to the manifest, and that the manifest
is bound to the directive.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_sim.agent.events import Activate
from firmware_store.suit import Component, _join, class_id, open_envelope, read_manifest, vendor_id
from server.domain.execution import State
from server.protocol.reasons import Reason
from tests.agent_world import HARDWARE, VENDOR, Bundle, World, chunk, chunk_digests, dev_keys, make_bundle, picture
from tests.releases import envelope, manifest, pack_manifest, unpack_manifest

NEW, OTHER = make_bundle(5, "1.5.0"), make_bundle(6, "1.6.0")


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.connect()
    return world


def assert_nothing_installed(world: World) -> None:
    assert not world.did(Activate)
    assert world.booted == "a"
    assert world.slot_states()["a"] == "confirmed"
    assert world.slot_states()["b"] in {"empty", "installing", "unbootable"}


def test_the_envelope_of_one_release_with_the_chunks_of_another(world: World) -> None:
    mixed = dict(NEW.blobs)
    mixed.update(zip(chunk_digests(NEW), (OTHER.blobs[digest] for digest in chunk_digests(OTHER)), strict=False))

    world.offer(replace(NEW, blobs=mixed))
    world.pass_time(20)

    assert world.outcome == (State.FAILED, Reason.CHUNK_MISMATCH)
    assert_nothing_installed(world)


def test_the_index_of_one_component_in_the_place_of_another(world: World) -> None:
    app, rootfs = read_manifest(open_envelope(NEW.envelope).manifest).components
    mixed = {**NEW.blobs, app.fetch.index_digest: NEW.blobs[rootfs.fetch.index_digest]}

    world.offer(replace(NEW, blobs=mixed))
    world.pass_time(20)

    assert world.outcome == (State.FAILED, Reason.CHUNK_MISMATCH)
    assert_nothing_installed(world)


def test_the_manifest_of_one_release_under_the_envelope_of_another(world: World) -> None:
    """The directive names a digest and an envelope: both are signed, and they are not of one release."""
    world.offer(replace(NEW, manifest_digest=OTHER.manifest_digest))
    world.pass_time(20)

    assert world.outcome == (State.REJECTED, Reason.DIGEST_MISMATCH)
    assert_nothing_installed(world)


def test_the_signatures_of_one_release_on_the_manifest_of_another(world: World) -> None:
    theirs, ours = open_envelope(OTHER.envelope), open_envelope(NEW.envelope)
    grafted = _join(replace(theirs, blocks=ours.blocks))

    world.offer(replace(as_bundle(grafted, OTHER.blobs), sequence_number=6))
    world.pass_time(20)

    assert world.outcome == (State.REJECTED, Reason.BAD_SIGNATURE)
    assert_nothing_installed(world)


def test_a_release_of_half_of_the_components(tmp_path: Path) -> None:
    """All components or none: what a release leaves out would run beside what it was never tested with."""
    world = World(tmp_path, components=frozenset({"app", "rootfs"}))
    world.connect()

    world.offer(make_bundle(5, "1.5.0", sizes=(("app", 40_000),)))
    world.pass_time(20)

    assert world.outcome == (State.REJECTED, Reason.UNKNOWN_COMPONENT)
    assert_nothing_installed(world)


# --- sizes that some other reader has stumbled over -------------------------------------------------------------------

SIZES: dict[str, Callable[[int], int]] = {
    "of 0 bytes": lambda _: 0,
    "of 2^31 bytes": lambda _: 1 << 31,
    "of 2^32 + 1 bytes": lambda _: (1 << 32) + 1,
    "larger by 2^32": lambda size: size + (1 << 32),
    "one byte longer": lambda size: size + 1,
    "one byte shorter": lambda size: size - 1,
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_a_signed_image(world: World, size: Callable[[int], int]) -> None:
    """With good signatures, and the chunks of 40,000 bytes: a size that is cut to 32 bits would be believed."""
    world.offer(lying_bundle(size))
    world.pass_time(100)

    assert world.last.state in {State.REJECTED, State.FAILED}
    assert world.last.reason in {Reason.BAD_MANIFEST, Reason.CHUNK_MISMATCH, Reason.STORAGE_FULL}
    assert_nothing_installed(world)


def lying_bundle(size: Callable[[int], int]) -> Bundle:
    """A release whose two signers have signed a size that is not the image's."""
    blobs: dict[bytes, bytes] = {}
    component = Component("app", *chunk(picture(5, 40_000), blobs))
    vendor = vendor_id(VENDOR)
    members = unpack_manifest(manifest((component,), (class_id(vendor, HARDWARE),), vendor=vendor))
    members[3][4] = [lying(argument, size) for argument in members[3][4]]
    return as_bundle(envelope(pack_manifest(members), dev_keys().release), blobs)


def lying(argument: Any, size: Callable[[int], int]) -> Any:
    """Parameter 14 is the size of an image."""
    return {**argument, 14: size(argument[14])} if isinstance(argument, dict) and 14 in argument else argument


def as_bundle(signed: bytes, blobs: dict[bytes, bytes]) -> Bundle:
    return Bundle(signed, open_envelope(signed).digest, 7, {**blobs, hashlib.sha256(signed).digest(): signed}, {})
