"""Components with an image for each slot: the A/B shape of the draft, and no other."""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from firmware_store.blobs import BlobStore
from firmware_store.bundle import build_bundle, read_envelope, receive_bundle, replace_envelope, write_bundle
from firmware_store.chunks import decode_index, decode_page, unpack_chunk
from firmware_store.codec import decode, encode
from firmware_store.errors import CompatibilityError, DigestError, InvalidInputError, ManifestError
from firmware_store.suit import (
    Component,
    Fetch,
    SlotImage,
    build_envelope,
    build_manifest,
    class_id,
    open_envelope,
    read_manifest,
    sign_envelope,
    vendor_id,
    verify_envelope,
)
from tests.releases import (
    APP,
    CLASS_1,
    CLASS_2,
    RELEASE,
    ROOT,
    ROOTFS,
    envelope,
    manifest,
    pack_manifest,
    read_vector,
    unpack_manifest,
)


def image(slot: int, size: int = 40_000) -> SlotImage:
    name = f"app in {slot}".encode()
    return SlotImage(slot, sha256(name).digest(), size, Fetch(sha256(b"index " + name).digest(), 42, -(-size // 16384)))


A, B = image(0), image(1, 20_000)
TWO_SLOTS = Component.of_slots("app", [A, B])
SINGLE, MULTI = manifest((TWO_SLOTS,)), manifest((ROOTFS, TWO_SLOTS), (CLASS_1, CLASS_2))


@pytest.mark.parametrize("components", [(TWO_SLOTS,), (TWO_SLOTS, ROOTFS), (ROOTFS, TWO_SLOTS)], ids=["1", "2", "2'"])
@pytest.mark.parametrize("classes", [(CLASS_1,), (CLASS_1, CLASS_2)], ids=["one class", "two classes"])
def test_a_manifest_with_slots_reads_back(components: tuple[Component, ...], classes: tuple[bytes, ...]) -> None:
    result = read_manifest(manifest(components, classes))

    assert (result.components, result.class_ids) == (components, classes)


@pytest.mark.parametrize("slots", [(0, 7), (3, 5), tuple(range(8))], ids=str)
def test_a_component_may_have_up_to_eight_slots(slots: tuple[int, ...]) -> None:
    component = Component.of_slots("app", [image(slot) for slot in slots])

    assert read_manifest(manifest((component,))).components == (component,)


def test_a_device_asks_for_the_slot_that_it_writes() -> None:
    release = read_manifest(MULTI)

    assert TWO_SLOTS.in_slot(1) == Component("app", B.image_digest, B.image_size, B.fetch)
    assert release.in_slot(0).components == (ROOTFS, Component("app", A.image_digest, A.image_size, A.fetch))
    assert read_manifest(manifest()).in_slot(1) == read_manifest(manifest())
    with pytest.raises(CompatibilityError, match="for slot 2"):
        release.in_slot(2)


def test_the_shared_sequence_is_that_of_example_3_of_the_draft() -> None:
    """Vendor, class, digests and sizes as there; the rest of the example is not of our profile."""
    example = open_envelope(read_vector("draft_example_3")).manifest
    common = decode(decode(example)[3])
    vendor = vendor_id("arm.com")
    digests = (
        "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210",
        "0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff",
    )
    slots = [
        SlotImage(slot, bytes.fromhex(digest), size, Fetch(bytes(32), 42, -(-size // 16384)))
        for slot, (digest, size) in enumerate(zip(digests, (34768, 76834), strict=True))
    ]

    ours = build_manifest(
        sequence_number=3,
        version=(1,),
        vendor_id=vendor,
        class_ids=[bytes.fromhex("1492af1425695e48bf429b2d51f2ab45")],
        components=[Component.of_slots("app", slots)],
    )

    assert decode(decode(ours)[3])[4] == common[4]
    with pytest.raises(ManifestError):
        read_manifest(example)


def test_two_components_of_the_draft_are_not_of_our_profile() -> None:
    """Example 5 checks vendor and class for its first component only; ours does for all of them."""
    with pytest.raises(ManifestError):
        read_manifest(open_envelope(read_vector("draft_example_5")).manifest)


def test_the_commands_of_a_component_with_slots() -> None:
    commands = unpack_manifest(SINGLE)

    def choice(slot: int, parameters: dict[Any, Any]) -> bytes:
        return encode([20, {5: slot}, 5, 5, 20, parameters])

    assert commands[3][4][2:4] == [
        15,
        [choice(one.slot, {3: encode([-16, one.image_digest]), 14: one.image_size}) for one in (A, B)],
    ]
    arguments = [encode({1: one.fetch.index_digest, 2: 42, 3: one.fetch.chunk_count, 4: 1}) for one in (A, B)]
    assert commands[20] == [15, [choice(n, {21: "app", 25: arguments[n]}) for n in (0, 1)], 21, 2, 3, 15]


def test_in_every_sequence_of_several_components_each_chooses_its_own() -> None:
    commands = unpack_manifest(MULTI)

    nested = [*commands[3][4][11], *commands[20][11]]
    assert [decode(one)[:2] for one in nested] == [[12, 1]] * 4
    assert commands[3][4][8:11] == commands[20][8:11] == [12, 1, 15]


def test_the_golden_envelope_with_slots_verifies_and_is_built_again() -> None:
    vector = read_vector("envelope_slots")

    verified = verify_envelope(vector, ROOT)

    assert verified.manifest.components == (ROOTFS, TWO_SLOTS)
    assert open_envelope(vector).blocks[0] == open_envelope(sign_envelope(build_envelope(MULTI), RELEASE[0])).blocks[0]


UNBUILDABLE: dict[str, Component] = {
    "one slot": Component.of_slots("app", [A]),
    "nine slots": Component.of_slots("app", [image(slot) for slot in range(9)]),
    "slot 8": Component.of_slots("app", [A, image(8)]),
    "slot -1": Component.of_slots("app", [image(-1), A]),
    "slots out of order": Component.of_slots("app", [B, A]),
    "a slot twice": Component.of_slots("app", [A, A]),
    "another image beside the slots": replace(APP, slots=(A, B)),
    "an image without bytes": Component.of_slots("app", [A, replace(B, image_size=0)]),
    "chunks that do not fit the size": Component.of_slots("app", [A, replace(B, image_size=99_999)]),
}


@pytest.mark.parametrize("component", UNBUILDABLE.values(), ids=UNBUILDABLE.keys())
def test_slots_that_would_not_be_accepted_are_not_built(component: Component) -> None:
    for components in ((component,), (ROOTFS, component)):
        with pytest.raises(ManifestError):
            manifest(components)


Change = Callable[[list[Any], list[Any]], object]


def slot_choice(slot: Any, parameters: dict[Any, Any], *, select: Any = (), match: Any = (5, 5)) -> bytes:
    return encode([*select, 20, {5: slot}, *match, 20, parameters])


IMAGE_B = {3: encode([-16, B.image_digest]), 14: B.image_size}
FETCH_B = {21: "app", 25: encode({1: B.fetch.index_digest, 2: 42, 3: B.fetch.chunk_count, 4: 1})}

# Each gets the choices of the shared and of the install sequence, and both release keys sign the result.
REFUSED: dict[str, Change] = {
    "no slots at all": lambda shared, _: shared.clear(),
    "one slot": lambda shared, install: (shared.pop(), install.pop()),
    "a slot that is not fetched": lambda shared, install: (shared.append(slot_choice(2, IMAGE_B)), install),
    "other slots in install": lambda _, install: install.__setitem__(1, slot_choice(2, FETCH_B)),
    "no slots in install": lambda _, install: install.clear(),
    "a choice that may find nothing": lambda shared, _: shared.append(None),
    "a choice of no bytes": lambda shared, _: shared.__setitem__(1, b""),
    "the slots in another order": lambda shared, install: (shared.reverse(), install.reverse()),
    "slot true": lambda shared, _: shared.__setitem__(1, slot_choice(True, IMAGE_B)),
    "no condition": lambda shared, _: shared.__setitem__(1, slot_choice(1, IMAGE_B, match=())),
    "another condition": lambda shared, _: shared.__setitem__(1, slot_choice(1, IMAGE_B, match=(3, 15))),
    "a silent condition": lambda shared, _: shared.__setitem__(1, slot_choice(1, IMAGE_B, match=(5, 0))),
    "a component index": lambda shared, _: shared.__setitem__(1, slot_choice(1, IMAGE_B, select=(12, 0))),
    "no image": lambda shared, _: shared.__setitem__(1, encode([20, {5: 1}, 5, 5])),
    "no image size": lambda shared, _: shared.__setitem__(1, slot_choice(1, {3: IMAGE_B[3]})),
    "another class": lambda shared, _: shared.__setitem__(1, slot_choice(1, {2: CLASS_2, **IMAGE_B})),
    "an invoke": lambda shared, _: shared.__setitem__(1, encode([*decode(shared[1]), 23, 2])),
    "a URI that leads elsewhere": lambda _, install: install.__setitem__(1, slot_choice(1, {**FETCH_B, 21: "//x"})),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_signed_slots_outside_of_the_profile_are_refused(change: Change) -> None:
    members = unpack_manifest(SINGLE)
    change(members[3][4][3], members[20][1])
    changed = pack_manifest(members)

    with pytest.raises(ManifestError):
        verify_envelope(envelope(changed), ROOT)
    assert changed != SINGLE


FORMS: dict[str, Callable[[dict[Any, Any]], None]] = {
    "an image beside its slots": lambda members: members[3][4][1].update(IMAGE_B),
    "a size beside its slots": lambda members: members[3][4][1].update({14: B.image_size}),
    "parameters of their own for one image": lambda members: members[3][4].__setitem__(slice(2, 4), [20, IMAGE_B]),
    "plain parameters in install": lambda members: members[20].__setitem__(slice(2), [20, FETCH_B]),
    "slots twice": lambda members: members[3].update({4: [*members[3][4][:4], *members[3][4][2:]]}),
    "slots after the conditions": lambda members: members[3].update(
        {4: [*members[3][4][:2], *members[3][4][4:], *members[3][4][2:4]]}
    ),
}


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS.keys())
def test_one_release_has_one_form(change: Callable[[dict[Any, Any]], None]) -> None:
    members = unpack_manifest(SINGLE)
    change(members)

    with pytest.raises(ManifestError):
        read_manifest(pack_manifest(members))


def test_among_several_components_a_slot_names_its_component() -> None:
    members = unpack_manifest(MULTI)
    members[3][4][11][0] = encode([12, 0, *decode(members[3][4][11][0])[2:]])

    with pytest.raises(ManifestError, match="must select 1"):
        read_manifest(pack_manifest(members))


def test_a_release_with_more_slots_than_an_envelope_holds_is_not_built() -> None:
    many = [Component.of_slots(f"c{n}", [image(slot) for slot in range(8)]) for n in range(32)]
    content = manifest(many)

    assert len(read_manifest(content).components) == 32
    assert build_envelope(content)
    with pytest.raises(ManifestError, match="at most 65536 bytes"):
        build_envelope(content, description="x" * 32_000)


# --- bundles ------------------------------------------------------------------------------------------------------

IMAGES = {0: random.Random(5).randbytes(50_000), 1: random.Random(6).randbytes(70_000)}
TEXT = b"slack water " * 5000


@pytest.fixture
def images(tmp_path: Path) -> Mapping[str, Path | Mapping[int, Path]]:
    for slot, data in IMAGES.items():
        (tmp_path / f"app-{slot}.bin").write_bytes(data)
    (tmp_path / "rootfs.bin").write_bytes(TEXT)
    return {"app": {slot: tmp_path / f"app-{slot}.bin" for slot in (1, 0)}, "rootfs": tmp_path / "rootfs.bin"}


@pytest.fixture
def bundle(tmp_path: Path, images: Mapping[str, Path | Mapping[int, Path]]) -> Path:
    path = tmp_path / "release.tgb"
    build_bundle(path, images=images, vendor="example.com", models=["gauge|r1"], version=(1, 1, 0), sequence_number=7)
    signed = read_envelope(path)
    for key in RELEASE:
        signed = sign_envelope(signed, key)
    replace_envelope(path, signed)
    return path


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 9999):
        yield data[at : at + 9999]


async def test_every_image_of_every_slot_comes_back_from_the_store(bundle: Path, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")

    received = await receive_bundle(pieces(bundle.read_bytes()), root=ROOT, store=store, max_bytes=1 << 20)

    restored: dict[tuple[str, int | None], bytes] = {}
    for component in received.verified.manifest.components:
        for slot, one in component.images().items():
            pages = decode_index(await store.get(one.fetch.index_digest), one.fetch)
            chunks = [chunk for page in pages for chunk in decode_page(await store.get(page.digest), page)]
            raws = [unpack_chunk(chunk, await store.get(chunk.wire_digest)) for chunk in chunks]
            restored[component.name, slot] = b"".join(raws)
    assert restored == {("app", 0): IMAGES[0], ("app", 1): IMAGES[1], ("rootfs", None): TEXT}
    assert received.verified.manifest.class_ids == (class_id(vendor_id("example.com"), "gauge|r1"),)


async def test_the_images_of_two_slots_are_not_accepted_in_each_others_place(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tgb"
    swapped = {"app": {0: tmp_path / "app-1.bin", 1: tmp_path / "app-0.bin"}, "rootfs": tmp_path / "rootfs.bin"}
    build_bundle(other, images=swapped, vendor="example.com", models=["gauge|r1"], version=(1, 1, 0), sequence_number=7)
    body = other.read_bytes()[8 + len(read_envelope(other)) :]
    forged = bundle.read_bytes()[: 8 + len(read_envelope(bundle))] + body

    with pytest.raises(DigestError):
        await receive_bundle(pieces(forged), root=ROOT, store=BlobStore(tmp_path / "blobs"), max_bytes=1 << 20)


def test_a_bundle_is_written_again_for_its_envelope(
    bundle: Path, tmp_path: Path, images: Mapping[str, Path | Mapping[int, Path]]
) -> None:
    write_bundle(tmp_path / "again.tgb", read_envelope(bundle), images)

    assert (tmp_path / "again.tgb").read_bytes() == bundle.read_bytes()
    with pytest.raises(DigestError):
        write_bundle(tmp_path / "x.tgb", read_envelope(bundle), {**images, "app": tmp_path / "app-0.bin"})


def test_a_component_without_images_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        build_bundle(
            tmp_path / "x.tgb", images={"app": {}}, vendor="v.example", models=["m"], version=(1,), sequence_number=1
        )
