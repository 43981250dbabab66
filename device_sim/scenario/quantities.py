"""Quantities: ``90s``, ``5%``, ``2MiB``, ``256KiB/s`` as people write them; in code seconds, 0..1 and bytes."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

_SECONDS: Final = MappingProxyType({"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0})
_BYTES: Final = MappingProxyType({"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30})
_NUMBER: Final = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"

LONGEST_S: Final = 366 * _SECONDS["d"]
LARGEST_BYTES: Final = 1 << 40


def _reader(units: Mapping[str, float], ending: str, example: str) -> tuple[Callable[[object], object], str]:
    pattern = rf"^({_NUMBER})({'|'.join(units)}){ending}$"
    compiled = re.compile(pattern.replace("^", "").replace("$", r"\Z"), re.ASCII)

    def read(value: object) -> object:
        """Return the number that a text says; a number stays as it is, which lets a model read its own dump."""
        if not isinstance(value, str):
            return value
        found = compiled.match(value)
        if found is None:
            raise ValueError(f"{value!r} is not such as {example}")
        return float(found[1]) * units[found[2]]

    return read, pattern


_read_duration, _DURATION = _reader(_SECONDS, "", "300ms, 90s, 15m, 6h or 7d")
_read_share, _SHARE = _reader(MappingProxyType({"%": 0.01}), "", "5% or 0.5%")
_read_size, _SIZE = _reader(_BYTES, "", "512B, 64KiB or 2MiB")
_read_rate, _RATE = _reader(_BYTES, "/s", "32KiB/s or 1MiB/s")


def _schema(pattern: str, what: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "description": what})


Seconds = Annotated[
    float,
    BeforeValidator(_read_duration),
    Field(ge=0, le=LONGEST_S, allow_inf_nan=False),
    _schema(_DURATION, "a time: 300ms, 90s, 15m, 6h, 7d"),
]
"""Seconds of the fleet's time."""

Share = Annotated[
    float,
    BeforeValidator(_read_share),
    Field(ge=0, le=1, allow_inf_nan=False),
    _schema(_SHARE, "a share: 5%"),
]
"""0..1."""

Size = Annotated[
    int,
    BeforeValidator(lambda value: _whole(_read_size(value))),
    Field(ge=1, le=LARGEST_BYTES),
    _schema(_SIZE, "a size: 512B, 64KiB, 2MiB"),
]
"""Bytes."""

Rate = Annotated[
    float,
    BeforeValidator(_read_rate),
    Field(gt=0, le=LARGEST_BYTES, allow_inf_nan=False),
    _schema(_RATE, "bytes a second: 32KiB/s"),
]
"""Bytes per second."""


def _whole(value: object) -> object:
    return round(value) if isinstance(value, float) else value
