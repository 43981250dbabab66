"""The simulator's outages: how they are written, and whom they strike."""

import asyncio

import pytest

from device_sim.line import Line
from device_sim.outages import Outage
from firmware_store.errors import InvalidInputError
from server.domain.identity import DeviceId, Region

EU, US = Region("eu"), Region("us")
DEVICES = {DeviceId(f"gw-{number:03}"): EU if number % 3 else US for number in range(90)}


def victims(text: str, *, seed: int = 1) -> set[DeviceId]:
    return set(Outage.parse(text).victims(DEVICES, seed=seed))


@pytest.mark.parametrize(
    ("text", "outage"),
    [
        ("eu:50%:20s:60s", Outage("eu", 0.5, 20, 60)),
        ("eu-north:12.5%:0s:0.5s", Outage("eu-north", 0.125, 0, 0.5)),
        ("eu:100%:@1.2.0:30s", Outage("eu", 1.0, 0, 30, "1.2.0")),
        ("eu:100%:@1.2.0-rc.1+2.5s:30s", Outage("eu", 1.0, 2.5, 30, "1.2.0-rc.1")),
        ("*:100%:20s:1s", Outage("*", 1.0, 20, 1)),
    ],
)
def test_an_outage_is_read(text: str, outage: Outage) -> None:
    assert Outage.parse(text) == outage


@pytest.mark.parametrize(
    "text", ["", "eu:50%:20s", "eu:50:20s:60s", "eu:101%:20s:60s", "eu:50%:20:60", "EU:5%:1s:1s", "eu:5%:1s:0s"]
)
def test_what_is_no_outage_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        Outage.parse(text)


def test_an_outage_strikes_just_the_share_of_its_region() -> None:
    half = victims("eu:50%:1s:1s")

    assert len(half) == 30
    assert {DEVICES[device] for device in half} == {EU}
    assert len(victims("*:100%:1s:1s")) == 90
    assert victims("asia:100%:1s:1s") == set()


def test_a_higher_share_only_adds_devices_and_another_seed_strikes_others() -> None:
    assert victims("eu:20%:1s:1s") < victims("eu:50%:9s:9s")
    assert victims("eu:50%:1s:1s") != victims("eu:50%:1s:1s", seed=2)


async def test_a_line_is_whole_when_it_was_mended_as_often_as_it_was_cut() -> None:
    line = Line()
    line.cut()
    line.cut()
    waiting = asyncio.create_task(line.until_whole())

    line.mend()
    await asyncio.sleep(0)
    assert not waiting.done()

    line.mend()
    async with asyncio.timeout(1):
        await waiting
