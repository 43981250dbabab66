"""Signed bytes under random damage: refused by one of our own errors, or not damaged at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_store.codec import encode
from firmware_store.cose import sign1, verify1
from firmware_store.documents import Kind, seal_payload
from firmware_store.errors import InvalidInputError, TidegateError, TrustError
from firmware_store.keys import Kid
from firmware_store.release_record import open_release_record
from firmware_store.root import RoleName, open_root, read_root
from firmware_store.root_walk import verify_successor
from firmware_store.status import Status, open_status, read_status
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
from server.protocol.orders import read_directive, read_welcome
from tests.releases import RELEASE, ROOT, SIGNERS, envelope, read_vector
from tests.signed_documents import RELEASED, SEALED

ENVELOPE = read_vector("envelope_two_components")
SLOTS = read_vector("envelope_slots")
ROOT_BYTES = read_vector("root")
NEXT_ROOT = SEALED[Kind.ROOT]

CHECKS = {
    "envelope": (ENVELOPE, lambda data: verify_envelope(data, ROOT)),
    "envelope with slots": (SLOTS, lambda data: verify_envelope(data, ROOT)),
    "root": (ROOT_BYTES, lambda data: open_root(data, now=None)),
    "next root": (NEXT_ROOT, lambda data: verify_successor(ROOT, data)),
    "status": (SEALED[Kind.STATUS], lambda data: open_status(ROOT, data)),
    "release record": (
        SEALED[Kind.RELEASE_RECORD],
        lambda data: open_release_record(ROOT, data, manifest_digest=RELEASED.digest),
    ),
    "directive": (SEALED[Kind.DIRECTIVE], lambda data: read_directive(ROOT.unseal(Kind.DIRECTIVE, data).value)),
    "welcome": (SEALED[Kind.WELCOME], lambda data: read_welcome(ROOT.unseal(Kind.WELCOME, data).value)),
}
READERS = {
    Kind.ROOT: lambda data: (read_root(data), open_root(data, now=None)),
    Kind.STATUS: lambda data: (read_status(data), open_status(ROOT, data)),
    Kind.RELEASE_RECORD: lambda data: open_release_record(ROOT, data, manifest_digest=RELEASED.digest),
    Kind.DIRECTIVE: lambda data: read_directive(ROOT.unseal(Kind.DIRECTIVE, data).value),
    Kind.WELCOME: lambda data: read_welcome(ROOT.unseal(Kind.WELCOME, data).value),
}
ROLES = {
    Kind.ROOT: RoleName.ROOT,
    Kind.STATUS: RoleName.STATUS,
    Kind.RELEASE_RECORD: RoleName.RELEASE,
    Kind.DIRECTIVE: RoleName.DIRECTIVE,
    Kind.WELCOME: RoleName.SESSION,
}
SLOW = (ROOT_BYTES, NEXT_ROOT)  # reading these takes 2 ms: seven keys are imported
checks = pytest.mark.parametrize(("data", "check"), CHECKS.values(), ids=CHECKS.keys())


@checks
def test_no_single_flipped_bit_is_accepted(data: bytes, check) -> None:
    """Every bit, except where that would take long: there every 11th must do."""
    for bit in range(0, 8 * len(data), 11 if data in SLOW else 1):
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


@given(st.binary(max_size=200))
def test_well_signed_noise_is_no_document(noise: bytes) -> None:
    """Whoever holds a key and signs garbage gets one of our own errors, at every reader behind a signature."""
    for kind, read in READERS.items():
        with pytest.raises(TidegateError):
            read(seal_payload(kind, noise, SIGNERS[ROLES[kind]]))
        with pytest.raises(TidegateError):
            read(noise)


digests = st.binary(min_size=32, max_size=32)
ids = st.binary(min_size=16, max_size=16)
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True)
kids = st.binary(min_size=16, max_size=16).map(Kid)
seconds = st.integers(0, (1 << 63) - 1)


@given(
    version=st.integers(1, (1 << 63) - 1),
    lifetime=st.tuples(seconds, seconds).filter(lambda pair: pair[0] != pair[1]).map(sorted),
    digest=st.frozensets(digests, max_size=5),
    kid=st.frozensets(kids, max_size=5),
    floors=st.dictionaries(ids, st.integers(0, (1 << 63) - 1), max_size=5),
)
def test_every_status_survives_its_document(version, lifetime, digest, kid, floors) -> None:
    issued, expires = lifetime
    status = Status(version, issued, expires, ROOT.fleet, digest, kid, floors)

    data = seal_payload(Kind.STATUS, encode(status.payload()), SIGNERS[RoleName.STATUS])

    assert open_status(ROOT, data) == status
    assert open_status(ROOT, data, newest=status) == status


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
