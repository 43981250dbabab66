"""Members that may be one of several things, such as a policy or the name of one.

Pydantic puts the tag of what it took a value for into the place of each error. A tag is no member, and is left out of
what people are told.
"""

from collections.abc import Sequence
from typing import Final

_MARK: Final = "~choice "


def choice(tag: str) -> str:
    """Return the tag of one of several things, as ``pydantic.Tag`` takes it."""
    return _MARK + tag


def members_of(place: Sequence[int | str]) -> list[str]:
    """Return the members and numbers that lead to a place, without tags."""
    return [str(part) for part in place if not str(part).startswith(_MARK)]
