"""A delta is made in a process of its own, which ends with what it was for."""

import asyncio
import random
from pathlib import Path

import psutil
import pytest

from firmware_store.deltas import Codec
from firmware_store.errors import DeltaError
from server.services.delta_process import make_apart


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    data = random.Random(3).randbytes(30_000_000)
    source.write_bytes(data)
    target.write_bytes(data[::-1])
    return source, target


async def test_a_process_that_cannot_make_it_says_why(tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="No such file"):
        await make_apart(Codec.ZSTD, tmp_path / "nothing", tmp_path / "nothing", tmp_path / "out")


async def test_who_stops_waiting_ends_the_process(images: tuple[Path, Path], tmp_path: Path) -> None:
    making = asyncio.create_task(make_apart(Codec.ZSTD, *images, tmp_path / "out"))
    children: list[psutil.Process] = []
    while not children:
        await asyncio.sleep(0)
        assert not making.done()
        children = [one for one in psutil.Process().children() if "server.services.delta_process" in one.cmdline()]

    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making

    assert not children[0].is_running()
