"""The codec under generated values and bytes, with cbor2 as the second opinion."""

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from firmware_store.codec import Tag, Value, decode, encode
from firmware_store.errors import CodecError

integers = st.integers(min_value=-(1 << 64), max_value=(1 << 64) - 1)
keys = integers | st.text(max_size=8) | st.binary(max_size=8)
scalars = keys | st.booleans() | st.none()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=20
).filter(lambda value: _depth(value) <= 12)


def _depth(value: Value) -> int:
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 0


@given(values)
def test_every_value_comes_back_equal(value: Value) -> None:
    assert value == decode(encode(value))


@given(st.integers(min_value=0, max_value=(1 << 64) - 1), scalars)
def test_every_tag_comes_back_equal(number: int, value: Value) -> None:
    assert Tag(number, value) == decode(encode(Tag(number, value)))


@given(values)
def test_cbor2_reads_the_same_value(value: Value) -> None:
    assert value == cbor2.loads(encode(value))


@given(st.binary(max_size=64))
def test_bytes_are_refused_or_are_the_one_encoding_of_their_value(data: bytes) -> None:
    try:
        value = decode(data)
    except CodecError:
        return

    assert data == encode(value)


@given(values, st.data())
def test_a_truncated_encoding_is_refused(value: Value, data: st.DataObject) -> None:
    encoded = encode(value)
    cut = data.draw(st.integers(min_value=0, max_value=len(encoded) - 1))

    try:
        decode(encoded[:cut])
    except CodecError:
        return
    raise AssertionError("a truncated encoding was accepted")
