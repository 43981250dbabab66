"""Which part of a representation a request wants: RFC 9110, sections 13 and 14. Pure: header texts in, a part out.

A server may ignore a Range that it does not understand (14.2): what is malformed, or names several ranges, gets the
whole. All validators here are strong, since what is served is named by its digest.
"""

import re
from typing import Final, NamedTuple

from firmware_store.errors import InvalidInputError

_RANGE: Final = re.compile(r"bytes[ \t]*=[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*", re.ASCII)
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')


class Part(NamedTuple):
    """Bytes ``first`` to ``end`` (not included) of something."""

    first: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.first


class RangeNotSatisfiableError(InvalidInputError):
    """A range that begins at or after the end. ``size_bytes`` is that of the whole."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"There are {size_bytes} bytes, and the range has none of them.")
        self.size_bytes = size_bytes


def find_part(size: int, tag: str, *, range_header: str | None, if_range: str | None) -> Part | None:
    """Return the part that is wanted of ``size`` bytes with the strong entity tag ``tag``; None: the whole.

    Raises:
        RangeNotSatisfiableError: none of the range is there.
    """
    if range_header is None or (if_range is not None and if_range.strip() != tag):
        return None  # a date, too, is no validator of ours (RFC 9110 13.1.5)
    match = _RANGE.fullmatch(range_header.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        part = Part(max(0, size - int(suffix)), size)
    else:
        if last and int(last) < int(first):
            return None
        part = Part(int(first), min(size, int(last) + 1) if last else size)
    if part.size <= 0:
        raise RangeNotSatisfiableError(size)
    return part


def is_known(tag: str, if_none_match: str | None) -> bool:
    """Whoever asks has these bytes already (RFC 9110 13.1.2, where weak tags compare as strong ones)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)
