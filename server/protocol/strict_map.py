"""Typed access to the integer keys of a signed document that ``firmware_store.codec`` has decoded."""

from collections.abc import Mapping
from typing import Any

from firmware_store.codec import Value
from firmware_store.errors import CodecError


class MapReader:
    """Typed access to a decoded map whose every key must be known."""

    def __init__(self, m: Mapping[int, Value], known: Mapping[int, None]) -> None:
        unknown = [key for key in m if key not in known]
        if unknown:
            raise CodecError(f"Unknown keys in a signed document: {unknown}.")
        self._m: Mapping[int, Any] = m

    def uint(self, key: int) -> int:
        return as_uint(self._m.get(key))

    def integer(self, key: int) -> int:
        value = self._m.get(key)
        if type(value) is not int:
            raise CodecError(f"Key {key} is not an integer.")
        return value

    def bytes(self, key: int, size: int) -> bytes:
        return as_bytes(self._m.get(key), size)

    def text(self, key: int) -> str:
        value = self._m.get(key)
        if type(value) is not str:
            raise CodecError(f"Key {key} is not a text.")
        return value

    def boolean(self, key: int) -> bool:
        value = self._m.get(key)
        if type(value) is not bool:
            raise CodecError(f"Key {key} is not a boolean.")
        return value

    def array(self, key: int, size: int) -> list[Any]:
        value = self._m.get(key)
        if type(value) is not list or len(value) != size:
            raise CodecError(f"Key {key} is not an array of {size}.")
        return value


def as_uint(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise CodecError("Not an unsigned integer where one must be.")
    return value


def as_bytes(value: object, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise CodecError(f"Not {size} bytes where they must be.")
    return value
