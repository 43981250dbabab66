"""A stream of events ends with what let its listener in."""

from collections.abc import AsyncGenerator

import pytest

from firmware_store.errors import AuthenticationError
from server.api.events import _lines
from server.domain.events import Published
from server.services.feed import Quiet


async def heartbeats(number: int) -> AsyncGenerator[Published | Quiet, None]:
    for seq in range(number):
        yield Quiet(seq)


class Door:
    """Lets in so often, and then no more."""

    def __init__(self, often: int) -> None:
        self.left = often

    async def recheck(self) -> None:
        if not self.left:
            raise AuthenticationError("ended")
        self.left -= 1


async def test_whoever_would_not_be_let_in_any_more_hears_no_more() -> None:
    lines = _lines(heartbeats(10), b"fleet", Door(3).recheck, recheck_s=0)
    heard = [await anext(lines) for _ in range(3)]

    assert len(heard) == 3
    with pytest.raises(AuthenticationError):
        await anext(lines)


async def test_it_is_not_asked_more_often_than_that() -> None:
    lines = [line async for line in _lines(heartbeats(10), b"fleet", Door(0).recheck)]

    assert len(lines) == 10
