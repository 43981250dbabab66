"""The only CBOR parser that signed bytes ever meet: RFC 8949 section 4.2.1, and nothing outside of it.

One value has exactly one encoding here, so that two programs can never read different things out of bytes that carry
one good signature: shortest forms only, map keys in bytewise order and distinct, no indefinite lengths, no bytes after
the end. Floats, ``undefined`` and other simple values are not used by any of our documents and are refused.
Map keys are integers, text or byte strings: arrays cannot be keys of a Python dict, and ``True == 1`` would collide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, TypeAlias

from firmware_store.errors import CodecError

MAX_BYTES: Final = 65536
MAX_DEPTH: Final = 12

Key: TypeAlias = int | bytes | str
Value: TypeAlias = "int | bytes | str | bool | Tag | list[Value] | dict[Key, Value] | None"
Encodable: TypeAlias = (
    "int | bytes | str | bool | Tag | Sequence[Encodable] | Mapping[int, Encodable] | Mapping[str, Encodable]"
    " | Mapping[bytes, Encodable] | Mapping[Key, Encodable] | None"
)

# Major types (RFC 8949 section 3.1).
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FALSE, _TRUE, _NULL = 20, 21, 22
_SIMPLE_VALUES: Final[Mapping[int, bool | None]] = {_FALSE: False, _TRUE: True, _NULL: None}
_ARGUMENT_BYTES: Final[Mapping[int, int]] = {24: 1, 25: 2, 26: 4, 27: 8}
_ONE_BYTE: Final = tuple(bytes((byte,)) for byte in range(256))
_ENCODED: Final = itemgetter(0)
_ENDS_EARLY: Final = "the CBOR item ends too early"


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged value; tags are kept as they are, none is ever turned into a date or a class."""

    number: int
    value: "Value"


def encode(value: Encodable) -> bytes:
    """Return the one deterministic encoding.

    Raises:
        CodecError: the value has a type, a size or a depth that ``decode`` would not accept.
    """
    out = bytearray()
    _encode(value, out, MAX_DEPTH)
    return bytes(out)


def decode(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Value:
    """Return the value that ``data`` is the deterministic encoding of.

    Time and memory are bounded by ``len(data)``: a length is compared with the bytes that are left before anything is
    built from it.

    Raises:
        CodecError: anything else, including one byte too many.
    """
    if len(data) > max_bytes:
        raise CodecError(f"{len(data)} bytes of CBOR where at most {max_bytes} are allowed")
    reader = _Reader(data)
    value = reader.read(max_depth)
    if reader.at != len(data):
        raise CodecError(f"{len(data) - reader.at} bytes after the end of the CBOR item")
    return value


def _head(major: int, argument: int) -> bytes:
    first = major << 5
    if argument < 24:
        return _ONE_BYTE[first | argument]
    for info, size in _ARGUMENT_BYTES.items():
        if argument < 1 << (8 * size):
            return _ONE_BYTE[first | info] + argument.to_bytes(size, "big")
    raise CodecError("an integer beyond 64 bits")


def _integer(value: int) -> bytes:
    return _head(_UNSIGNED, int(value)) if value >= 0 else _head(_NEGATIVE, -1 - value)


def _encode(value: object, out: bytearray, depth: int) -> None:
    if isinstance(value, int):
        if isinstance(value, bool):
            out.append(_SIMPLE << 5 | (_TRUE if value else _FALSE))
        else:
            out += _integer(value)
    elif isinstance(value, bytes):
        out += _head(_BYTES, len(value))
        out += value
    elif isinstance(value, str):
        try:
            text = value.encode()
        except UnicodeEncodeError as exc:
            raise CodecError("text with a lone surrogate") from exc
        out += _head(_TEXT, len(text))
        out += text
    elif value is None:
        out.append(_SIMPLE << 5 | _NULL)
    elif depth == 0:
        raise CodecError("nested too deeply")
    elif isinstance(value, Tag):
        if value.number < 0:
            raise CodecError("a negative tag")
        out += _head(_TAG, value.number)
        _encode(value.value, out, depth - 1)
    elif isinstance(value, (dict, Mapping)):
        out += _head(_MAP, len(value))
        # RFC 8949 section 4.2.1: the bytewise order of the encoded keys, which no two keys share.
        for key, member in sorted([(_encode_key(key), member) for key, member in value.items()], key=_ENCODED):
            out += key
            _encode(member, out, depth - 1)
    elif isinstance(value, (list, tuple, Sequence)):
        out += _head(_ARRAY, len(value))
        for item in value:
            _encode(item, out, depth - 1)
    else:
        raise CodecError(f"no encoding for a {type(value).__name__}")


def _encode_key(key: object) -> bytes:
    if isinstance(key, int) and not isinstance(key, bool):
        return _integer(key)
    if not isinstance(key, (str, bytes)):
        raise CodecError(f"a {type(key).__name__} cannot be a map key")
    out = bytearray()
    _encode(key, out, 0)
    return bytes(out)


class _Reader:
    """A cursor over one encoded item."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data
        self._end = len(data)

    def read(self, depth: int) -> Value:
        at = self.at
        if at >= self._end:
            raise CodecError(_ENDS_EARLY)
        first = self._data[at]
        self.at = at + 1
        if first < 24:  # a small unsigned integer, which most items are
            return first
        major, info = first >> 5, first & 0x1F
        argument = info if info < 24 else self._read_argument(major, info)
        if major == _BYTES:
            return self._take(argument)
        if major == _UNSIGNED:
            return argument
        if major == _TEXT:
            return self._read_text(argument)
        if major == _NEGATIVE:
            return -1 - argument
        if major == _SIMPLE:
            if info not in _SIMPLE_VALUES:
                raise CodecError("a float or a simple value other than false, true and null")
            return _SIMPLE_VALUES[info]
        if depth == 0:
            raise CodecError("nested too deeply")
        if major == _TAG:
            return Tag(argument, self.read(depth - 1))
        if major == _ARRAY:
            self._check_left(argument)
            return [self.read(depth - 1) for _ in range(argument)]
        return self._read_map(argument, depth - 1)

    def _read_argument(self, major: int, info: int) -> int:
        size = _ARGUMENT_BYTES.get(info)
        if size is None:
            raise CodecError("an indefinite length or a reserved form")
        argument = int.from_bytes(self._take(size), "big")
        if major != _SIMPLE and argument < (24 if size == 1 else 1 << (4 * size)):
            raise CodecError("an integer or a length that is not in its shortest form")
        return argument

    def _take(self, size: int) -> bytes:
        start, stop = self.at, self.at + size
        if stop > self._end:
            raise CodecError(_ENDS_EARLY)
        self.at = stop
        return self._data[start:stop]

    def _check_left(self, items: int) -> None:
        """Every item takes at least one byte, so that a count above the bytes left is refused before it is used."""
        if items > self._end - self.at:
            raise CodecError(_ENDS_EARLY)

    def _read_text(self, size: int) -> str:
        try:
            return self._take(size).decode("utf-8", "strict")
        except UnicodeDecodeError as exc:
            raise CodecError("text that is not UTF-8") from exc

    def _read_map(self, members: int, depth: int) -> dict[Key, Value]:
        self._check_left(2 * members)
        result: dict[Key, Value] = {}
        previous = b""
        for _ in range(members):
            start = self.at
            key = self.read(0)
            if isinstance(key, bool) or not isinstance(key, (int, str, bytes)):
                raise CodecError("a map key that is not an integer, text or bytes")
            encoded = self._data[start : self.at]
            if encoded <= previous:
                raise CodecError("map keys out of order, or one of them twice")
            previous = encoded
            result[key] = self.read(depth)
        return result
