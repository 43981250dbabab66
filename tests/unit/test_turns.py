"""Long loops give others their turn, and short ones do not."""

import asyncio

from server.services.turns import SLICE, others_turn, slices


async def turns_of_another(count: int) -> tuple[int, list[int]]:
    """How often somebody else had a turn while so many were looked at, and what was seen."""
    turns, seen = 0, list[int]()

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(another())
    for some in slices(range(count)):
        seen += some
        await others_turn(some)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return turns, seen


async def test_after_each_full_slice_others_have_their_turn() -> None:
    turns, seen = await turns_of_another(10 * SLICE)

    assert turns == 10
    assert seen == list(range(10 * SLICE))


async def test_what_fits_into_one_slice_is_done_at_once() -> None:
    assert await turns_of_another(SLICE - 1) == (0, list(range(SLICE - 1)))


async def test_what_comes_or_goes_between_two_slices_changes_nothing() -> None:
    devices = dict.fromkeys(range(3 * SLICE))
    seen = 0
    for some in slices(devices):
        seen += len(some)
        devices.pop(0, None)
        devices[-seen] = None

    assert seen == 3 * SLICE
