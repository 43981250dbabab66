"""Signed bytes under random damage: refused by one of our own errors, or not damaged at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_store.codec import encode
from firmware_store.cose import sign1, verify1
from firmware_store.documents import Kind
from firmware_store.errors import InvalidInputError, TidegateError, TrustError
from firmware_store.root import open_root
from firmware_store.suit import (
    Component,
    Fetch,
    SlotImage,
    build_envelope,
    build_manifest,
    format_version,
    open_envelope,
    parse_version,
    read_manifest,
    verify_envelope,
)
from firmware_store.suit_values import CHUNK_BYTES, MAX_IMAGE_BYTES, MAX_SLOTS
from tests.releases import RELEASE, ROOT, envelope, read_vector

ENVELOPE = read_vector("envelope_two_components")
ROOT_BYTES = read_vector("root")
DIRECTIVE = read_vector("directive")

CHECKS = {
    "envelope": (ENVELOPE, lambda data: verify_envelope(data, ROOT)),
    "root": (ROOT_BYTES, lambda data: open_root(data, now=None)),
    "directive": (DIRECTIVE, lambda data: ROOT.unseal(Kind.DIRECTIVE, data)),
}
checks = pytest.mark.parametrize(("data", "check"), CHECKS.values(), ids=CHECKS.keys())


@checks
def test_no_single_flipped_bit_is_accepted(data: bytes, check) -> None:
    """Every bit, except in the root: reading that takes 2 ms, seven keys are imported, so that every 11th must do."""
    for bit in range(0, 8 * len(data), 11 if data is ROOT_BYTES else 1):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8

        with pytest.raises((TrustError, InvalidInputError)):
            check(bytes(damaged))


@checks
def test_no_truncation_is_accepted(data: bytes, check) -> None:
    for end in range(len(data)):
        with pytest.raises((TrustError, InvalidInputError)):
            check(data[:end])


@checks
@given(random=st.data())
@settings(max_examples=50)
def test_no_splice_is_accepted(data: bytes, check, random: st.DataObject) -> None:
    start = random.draw(st.integers(0, len(data)))
    end = random.draw(st.integers(start, len(data)))
    spliced = data[:start] + random.draw(st.binary(max_size=40)) + data[end:]

    if spliced == data:
        check(spliced)
    else:
        with pytest.raises((TrustError, InvalidInputError)):
            check(spliced)


@given(st.binary(max_size=200))
def test_signed_noise_is_refused_by_our_own_errors(noise: bytes) -> None:
    with pytest.raises(TidegateError):
        verify_envelope(envelope(noise), ROOT)
    with pytest.raises(TidegateError):
        open_envelope(noise)
    with pytest.raises(TidegateError):
        read_manifest(noise)


digests = st.binary(min_size=32, max_size=32)
ids = st.binary(min_size=16, max_size=16)
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True)
versions = st.lists(st.integers(0, 999_999_999), min_size=1, max_size=4).map(tuple)


@st.composite
def components(draw: st.DrawFn) -> Component:
    def image() -> tuple[bytes, int, Fetch]:
        size = draw(st.integers(1, MAX_IMAGE_BYTES))
        return draw(digests), size, Fetch(draw(digests), draw(st.integers(1, 65536)), -(-size // CHUNK_BYTES))

    slots = draw(st.sets(st.integers(0, MAX_SLOTS - 1), max_size=3))
    if len(slots) < 2:
        return Component(draw(names), *image())
    return Component.of_slots(draw(names), [SlotImage(slot, *image()) for slot in sorted(slots)])


@given(
    st.lists(components(), min_size=1, max_size=5, unique_by=lambda component: component.name),
    st.lists(ids, min_size=1, max_size=5, unique=True),
    ids,
    versions,
    st.integers(1, (1 << 63) - 1),
    st.none() | st.text(max_size=50),
)
def test_every_release_reads_back_as_it_was_meant(parts, classes, vendor, version, number, description) -> None:
    content = build_manifest(
        sequence_number=number, version=version, vendor_id=vendor, class_ids=classes, components=parts
    )

    manifest, text = open_envelope(build_envelope(content, description=description)).read()

    assert (manifest.components, manifest.class_ids) == (tuple(parts), tuple(classes))
    assert (manifest.vendor_id, manifest.version, manifest.sequence_number) == (vendor, version, number)
    assert text == description


@given(versions, st.none() | st.tuples(st.sampled_from([-1, -2, -3]), st.none() | st.integers(0, 999_999_999)))
def test_every_version_survives_its_text(numbers: tuple[int, ...], stage) -> None:
    version = numbers if stage is None else (*numbers, *(part for part in stage if part is not None))

    assert version == parse_version(format_version(version))


@given(st.binary(max_size=300), st.sampled_from(RELEASE))
def test_a_signature_is_for_its_payload_alone(payload: bytes, key) -> None:
    block = sign1(key, payload, typ=None)
    keys = {key.public.kid: key.public}

    assert key.public.kid == verify1(block, payload, keys, typ=None)
    with pytest.raises(TrustError):
        verify1(block, payload + encode(0), keys, typ=None)
