"""RFC 8949 section 4.2.1, from the examples of its appendix A and from what a hostile author would send."""

import time

import pytest

from firmware_store.codec import MAX_DEPTH, Encodable, Tag, decode, encode
from firmware_store.errors import CodecError

# RFC 8949 appendix A, the rows whose types we use.
APPENDIX_A: list[tuple[str, Encodable]] = [
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("18ff", 255),
    ("190100", 256),
    ("1903e8", 1000),
    ("1a000f4240", 1000000),
    ("1b000000e8d4a51000", 1000000000000),
    ("1bffffffffffffffff", 18446744073709551615),
    ("3bffffffffffffffff", -18446744073709551616),
    ("20", -1),
    ("3863", -100),
    ("3903e7", -1000),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("c11a514b67b0", Tag(1, 1363896240)),
    ("d74401020304", Tag(23, bytes.fromhex("01020304"))),
    ("40", b""),
    ("4401020304", bytes.fromhex("01020304")),
    ("60", ""),
    ("6449455446", "IETF"),
    ("62225c", '"\\'),
    ("62c3bc", "ü"),
    ("63e6b0b4", "水"),
    ("64f0908591", "\U00010151"),
    ("80", []),
    ("83010203", [1, 2, 3]),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", list(range(1, 26))),
    ("a0", {}),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ("826161a161626163", ["a", {"b": "c"}]),
]

REFUSED = {
    "nothing": "",
    "a trailing byte": "0000",
    "0 in two bytes": "1800",
    "23 in two bytes": "1817",
    "255 in three bytes": "1900ff",
    "65535 in five bytes": "1a0000ffff",
    "2^32 - 1 in nine bytes": "1b00000000ffffffff",
    "a length in three bytes that fits two": "59000200" + "00",
    "a text length that is not minimal": "780161",
    "a map length that is not minimal": "b8010000",
    "a tag number that is not minimal": "d80100",
    "indefinite bytes": "5f4101ff",
    "indefinite text": "7f6161ff",
    "an indefinite array": "9f01ff",
    "an indefinite map": "bf0101ff",
    "a lone break": "ff",
    "reserved additional information 28": "1c",
    "reserved additional information 30": "1e",
    "a half float": "f90000",
    "a single float": "fa00000000",
    "a double float": "fb0000000000000000",
    "undefined": "f7",
    "simple value 16": "f0",
    "simple value 255": "f8ff",
    "false in two bytes": "f814",
    "keys out of order": "a203000200",
    "a key twice": "a202000201",
    "keys in length-first order": "a2" + "20" + "00" + "1818" + "00",
    "an array as a key": "a18000",
    "a map as a key": "a1a000",
    "a tag as a key": "a1c10000",
    "true as a key": "a1f500",
    "null as a key": "a1f600",
    "text that is not UTF-8": "61ff",
    "a surrogate in text": "63eda080",
    "an overlong slash": "62c0af",
    "a length without its bytes": "18",
    "bytes that end early": "4401",
    "an array that ends early": "8301",
    "a map without its last value": "a101",
    "a map that ends within a key": "a2010018",
    "a tag without content": "c1",
    "an array of 2^64 - 1 items": "9bffffffffffffffff",
    "bytes of 2^64 - 256": "5bffffffffffffff00",
    "a map of 2^63 members": "bb8000000000000000",
    "a text of 4 GiB": "7affffffff",
}


@pytest.mark.parametrize(("encoded", "value"), APPENDIX_A, ids=[row[0] for row in APPENDIX_A])
def test_the_examples_of_rfc_8949_go_both_ways(encoded: str, value: Encodable) -> None:
    assert encoded == encode(value).hex()
    assert value == decode(bytes.fromhex(encoded))
    assert type(value) is type(decode(bytes.fromhex(encoded)))


@pytest.mark.parametrize("encoded", REFUSED.values(), ids=REFUSED.keys())
def test_everything_that_is_not_the_deterministic_form_is_refused(encoded: str) -> None:
    with pytest.raises(CodecError):
        decode(bytes.fromhex(encoded))


def test_map_keys_are_sorted_by_their_encoded_bytes_and_not_by_length() -> None:
    encoded = encode({"a": 0, "": 1, -1: 0, 24: 0})

    assert bytes.fromhex("a418180020006001616100") == encoded


@pytest.mark.parametrize(
    "value",
    [1.5, 1 << 64, -(1 << 64) - 1, "\ud800", {None: 1}, {True: 1}, {1.5: 1}, {(1,): 1}, Tag(-1, 0), object(), {1, 2}],
    ids=lambda value: "object" if type(value) is object else repr(value),
)
def test_what_could_not_be_decoded_again_is_not_encoded(value: Encodable) -> None:
    with pytest.raises(CodecError):
        encode(value)


def test_nesting_is_allowed_to_the_limit_and_no_further() -> None:
    deepest = b"\x81" * MAX_DEPTH + b"\x01"

    assert deepest == encode(decode(deepest))
    with pytest.raises(CodecError, match="deep"):
        decode(b"\x81" + deepest)


def test_a_value_nested_too_deeply_is_not_encoded() -> None:
    value: Encodable = 1
    for _ in range(MAX_DEPTH + 1):
        value = [value]

    with pytest.raises(CodecError, match="deep"):
        encode(value)


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x01", b"\xc1", b"\xd8\x6b"])
def test_a_depth_bomb_is_refused_at_once(opening: bytes) -> None:
    bomb = opening * 5000 + b"\x01"
    start = time.perf_counter()

    with pytest.raises(CodecError):
        decode(bomb)
    assert time.perf_counter() - start < 0.1


def test_more_bytes_than_allowed_are_refused_before_they_are_read() -> None:
    with pytest.raises(CodecError, match="at most 4"):
        decode(b"\xff" * 5, max_bytes=4)


def test_tuples_and_mappings_encode_like_lists_and_dicts() -> None:
    assert encode([1, [2]]) == encode((1, (2,)))
