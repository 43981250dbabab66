"""Signed documents: enough distinct keys, the right kind, and a payload that is a small map."""

import pytest

from firmware_store.codec import Encodable, Tag, decode, encode
from firmware_store.cose import sign1
from firmware_store.documents import (
    Kind,
    add_signature,
    decode_payload,
    seal,
    seal_payload,
    signed_by,
    split,
    unseal,
)
from firmware_store.errors import CodecError, ConflictError, SignatureError, TooLargeError
from firmware_store.keys import Algorithm, Kid, PublicKey, SigningKey

ALICE = SigningKey.generate(Algorithm.ED25519)
BOB = SigningKey.generate(Algorithm.ESP256)
MALLORY = SigningKey.generate(Algorithm.ED25519)
KEYS: dict[Kid, PublicKey] = {key.public.kid: key.public for key in (ALICE, BOB)}
PAYLOAD: dict[int, Encodable] = {0: 1, 5: [b"campaign", None, True], 23: "last"}


def test_a_document_opens_for_its_kind_and_names_who_signed() -> None:
    opened = unseal(seal(Kind.DIRECTIVE, PAYLOAD, [ALICE, BOB]), Kind.DIRECTIVE, keys=KEYS, threshold=2)

    assert opened.value == PAYLOAD
    assert encode(PAYLOAD) == opened.payload
    assert set(KEYS) == opened.kids


def test_a_document_is_a_payload_and_its_tagged_signatures() -> None:
    sealed = decode(seal(Kind.WELCOME, PAYLOAD, [ALICE]))

    assert isinstance(sealed, list)
    payload, (block,) = sealed
    assert encode(PAYLOAD) == payload
    assert isinstance(block, Tag)
    assert block.number == 18


def test_bytes_that_exist_already_are_signed_as_they_are() -> None:
    payload = encode(PAYLOAD)

    assert payload == unseal(seal_payload(Kind.STATUS, payload, [BOB]), Kind.STATUS, keys=KEYS, threshold=1).payload


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.DIRECTIVE])
def test_a_document_of_one_kind_is_none_of_another(kind: Kind) -> None:
    sealed = seal(kind, PAYLOAD, [ALICE, BOB])

    with pytest.raises(SignatureError, match="where"):
        unseal(sealed, Kind.DIRECTIVE, keys=KEYS, threshold=1)


@pytest.mark.parametrize(
    "signers",
    [[MALLORY], [ALICE], [ALICE, MALLORY], [ALICE, ALICE]],
    ids=["a stranger", "one", "one and a stranger", "one, twice"],
)
def test_fewer_keys_than_the_threshold_do_not_open_it(signers: list[SigningKey]) -> None:
    with pytest.raises(SignatureError, match="where 2 are needed"):
        unseal(seal(Kind.ROOT, PAYLOAD, signers), Kind.ROOT, keys=KEYS, threshold=2)


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_below_one_still_needs_one(threshold: int) -> None:
    with pytest.raises(SignatureError, match="where 1 are needed"):
        unseal(seal(Kind.ROOT, PAYLOAD, [MALLORY]), Kind.ROOT, keys=KEYS, threshold=threshold)


def test_a_strangers_signature_beside_enough_good_ones_changes_nothing() -> None:
    opened = unseal(seal(Kind.ROOT, PAYLOAD, [MALLORY, ALICE, BOB]), Kind.ROOT, keys=KEYS, threshold=2)

    assert set(KEYS) == opened.kids


def test_another_payload_under_the_same_signatures_is_refused() -> None:
    _, blocks = decode(seal(Kind.ROOT, PAYLOAD, [ALICE]))

    with pytest.raises(SignatureError, match="does not hold"):
        unseal(encode([encode({0: 2}), blocks]), Kind.ROOT, keys=KEYS, threshold=1)


BLOCK = decode(sign1(ALICE, encode(PAYLOAD), typ=Kind.ROOT.media_type))


@pytest.mark.parametrize(
    "outer",
    [
        [encode(PAYLOAD), []],
        [encode(PAYLOAD), [BLOCK] * 17],
        [encode(PAYLOAD)],
        [encode(PAYLOAD), [BLOCK], 0],
        [encode(PAYLOAD), BLOCK],
        [PAYLOAD, [BLOCK]],
        [encode(PAYLOAD), [BLOCK, 0]],
        [encode(PAYLOAD), [BLOCK, Tag(98, 0)]],
        [encode(PAYLOAD), [encode(BLOCK)]],
        {0: encode(PAYLOAD)},
        None,
    ],
    ids=[
        "no signature",
        "17 signatures",
        "one element",
        "three elements",
        "signatures not in a list",
        "a payload that is not bytes",
        "an integer as a signature",
        "tag 98",
        "signatures as bytes",
        "a map",
        "null",
    ],
)
def test_another_shape_is_no_document(outer: Encodable) -> None:
    with pytest.raises(CodecError):
        unseal(encode(outer), Kind.ROOT, keys=KEYS, threshold=1)


@pytest.mark.parametrize(
    "payload",
    [
        encode([1]),
        encode({24: 0}),
        encode({-1: 0}),
        encode({"a": 0}),
        b"",
        encode({0: 0}) + b"\x00",
        b"\xa2\x02\x00\x02\x01",
    ],
    ids=["a list", "key 24", "key -1", "a text key", "nothing", "a trailing byte", "a key twice"],
)
def test_a_good_signature_does_not_excuse_the_payload(payload: bytes) -> None:
    with pytest.raises(CodecError):
        unseal(seal_payload(Kind.ROOT, payload, [ALICE]), Kind.ROOT, keys=KEYS, threshold=1)


def test_the_payload_is_not_parsed_before_it_is_verified() -> None:
    with pytest.raises(SignatureError):
        unseal(seal_payload(Kind.ROOT, b"\xff", [MALLORY]), Kind.ROOT, keys=KEYS, threshold=1)


def test_more_bytes_than_the_limit_are_refused() -> None:
    sealed = seal(Kind.ROOT, {0: bytes(17000)}, [ALICE])

    with pytest.raises(CodecError, match="at most"):
        unseal(sealed, Kind.ROOT, keys=KEYS, threshold=1)
    assert len(sealed) > 17000


def test_a_document_can_be_taken_apart_without_trusting_it() -> None:
    payload, blocks = split(seal(Kind.ROOT, PAYLOAD, [ALICE, BOB]))

    assert decode_payload(payload) == PAYLOAD
    assert len(blocks) == 2


# --- documents in the making --------------------------------------------------------------------------------------


def test_a_document_is_signed_one_key_at_a_time_and_opens_once_all_have() -> None:
    document = seal(Kind.ROOT, PAYLOAD, [])

    for count, key in enumerate((ALICE, BOB)):
        assert len(signed_by(document, Kind.ROOT, KEYS)) == count
        with pytest.raises((CodecError, SignatureError)):
            unseal(document, Kind.ROOT, keys=KEYS, threshold=2)
        document = add_signature(document, Kind.ROOT, key)

    assert unseal(document, Kind.ROOT, keys=KEYS, threshold=2).value == PAYLOAD
    assert signed_by(document, Kind.ROOT, KEYS) == set(KEYS)
    assert signed_by(document, Kind.ROOT, {}) == set()


def test_a_key_signs_a_document_once() -> None:
    with pytest.raises(ConflictError, match="already"):
        add_signature(seal(Kind.ROOT, PAYLOAD, [BOB, ALICE]), Kind.ROOT, BOB)


def test_a_damaged_signature_is_not_taken_for_one() -> None:
    payload, blocks = decode(seal(Kind.ROOT, PAYLOAD, [ALICE]))
    damaged = encode([payload, [Tag(18, [*blocks[0].value[:3], bytes(64)])]])

    with pytest.raises(SignatureError, match="does not hold"):
        signed_by(damaged, Kind.ROOT, KEYS)
    with pytest.raises(SignatureError, match="does not hold"):
        add_signature(damaged, Kind.ROOT, ALICE)


def test_there_is_room_for_sixteen_signatures() -> None:
    crowded = seal(Kind.STATUS, PAYLOAD, [MALLORY] * 16)

    with pytest.raises(ConflictError, match="at most 16"):
        add_signature(crowded, Kind.STATUS, ALICE)


def test_nothing_is_signed_that_would_be_too_large_to_open() -> None:
    nearly = seal(Kind.STATUS, {0: bytes(16384 - 100)}, [])

    with pytest.raises(TooLargeError):
        add_signature(nearly, Kind.STATUS, ALICE)
