"""Typed reads of decoded CBOR: the codec says that the bytes are well formed, these that they are what is expected.

Each function takes ``what``, the name of the member as its specification spells it, and raises CodecError.
"""

from collections.abc import Collection
from typing import Final

from firmware_store.codec import Key, Value
from firmware_store.errors import CodecError

MAX_INT: Final = (1 << 63) - 1  # fits the signed 64-bit integers of databases and of C


def as_int(value: object, what: str, *, least: int = 0, most: int = MAX_INT) -> int:
    """Return an integer within ``least`` and ``most``; ``true`` is none, although Python thinks so."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise CodecError(f"{what} must be an integer from {least} to {most}")
    return value


def as_bytes(value: object, what: str, *, size: int | None = None) -> bytes:
    """Return a byte string, of exactly ``size`` bytes where that is given."""
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise CodecError(f"{what} must be {'a byte string' if size is None else f'{size} bytes'}")
    return value


def as_text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise CodecError(f"{what} must be text")
    return value


def as_bool(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise CodecError(f"{what} must be true or false")
    return value


def as_list(value: object, what: str, *, least: int = 0, most: int = MAX_INT) -> list[Value]:
    """Return an array of ``least`` to ``most`` items."""
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise CodecError(f"{what} must be an array of {least} to {most} items")
    return value


def as_map(
    value: object, what: str, *, labels: Collection[Key] | None = None, optional: Collection[Key] = ()
) -> dict[Key, Value]:
    """Return a map that has all ``labels``, and otherwise ``optional`` ones only; None: any labels at all."""
    if not isinstance(value, dict):
        raise CodecError(f"{what} must be a map")
    if labels is not None:
        missing = [label for label in labels if label not in value]
        unknown = [label for label in value if label not in labels and label not in optional]
        if missing or unknown:
            raise CodecError(f"{what} lacks {missing} and must not have {unknown}")
    return value
