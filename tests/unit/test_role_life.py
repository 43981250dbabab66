"""What befalls a device of a cast: each effect and each fault that acts on the whole device does what it says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from device_sim.agent.boot_environment import SlotInfo, SlotState
from device_sim.agent.events import Note
from device_sim.agent.slots import Installation, Release
from device_sim.scenario.cast import draw_cast
from device_sim.scenario.model import Scenario
from device_sim.wire.fleet_clock import FleetClock
from device_sim.wire.memory_files import Pool
from device_sim.wire.role_life import RoleLife
from firmware_store.errors import TidegateError

SPEED = 20_000.0
WAIT_S = 5.0


class Device:
    """Notes what its life does to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.at: list[float] = []
        self.clock = FleetClock(SPEED)
        self.news = asyncio.Event()

    def reset(self) -> None:
        self._note("reset")

    def die(self) -> None:
        self._note("die")

    def _note(self, what: str) -> None:
        self.done.append(what)
        self.at.append(self.clock.now)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self.news.clear()
                await self.news.wait()


class Slots:
    """A platform on trial with 1.1.0, whose confirmations take."""

    def __init__(self) -> None:
        self.confirmed = False

    def slots(self) -> tuple[SlotInfo, ...]:
        return (SlotInfo("a", SlotState.CONFIRMED, 0, "1.0.0"), SlotInfo("b", SlotState.TRIAL, 1, "1.1.0"))

    def booted(self) -> str:
        return "b"

    def install(self, release: Release) -> Installation:
        raise AssertionError(release)

    def activate(self, slot: str) -> None:
        raise AssertionError(slot)

    def confirm(self) -> None:
        self.confirmed = True

    def revert(self, slot: str, *, verify: bool = False) -> None:
        raise AssertionError(slot, verify)


@pytest.fixture
async def device() -> Device:
    return Device()


@pytest.fixture
async def lives(device: Device) -> AsyncIterator[Callable[..., RoleLife]]:
    made: list[RoleLife] = []

    def make(*, effects: list[dict[str, Any]] | None = None, faults: list[dict[str, Any]] | None = None) -> RoleLife:
        scenario = Scenario.model_validate(
            {
                "name": "small",
                "story": "A scenario for these tests.",
                "duration": "7d",
                "fleet": [{"share": "100%", "region": "eu", "hardware": "rev-b"}],
                "releases": [{"version": "1.1.0", "effects": effects or []}],
                "campaigns": [{"release": "1.1.0"}],
                "faults": faults or [],
            }
        )
        (role,) = draw_cast(scenario, devices=1, seed=1).roles
        life = RoleLife(role, device, device.clock, seed=1, pool=Pool())
        made.append(life)
        device.clock.begin()
        life.begin()
        return life

    yield make
    for life in made:
        life.stop()


def boot(life: RoleLife, version: str = "1.1.0") -> None:
    life.noted(Note("booted", version=version))


def is_whole(life: RoleLife) -> bool:
    return life.line.is_whole


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_brick_never_returns_with_the_release_and_with_others_it_does(lives: Any) -> None:
    life = lives(effects=[{"fault": "brick"}])

    assert not life.returns_with("1.1.0")
    assert life.returns_with("1.0.0")


async def test_a_late_brick_dies_after_its_time(lives: Any, device: Device) -> None:
    life = lives(effects=[{"fault": "brick", "after": "1h"}])
    boot(life)
    await device.until(lambda: device.done == ["die"])

    assert life.returns_with("1.1.0")
    assert device.at[0] >= 3600


async def test_a_release_that_hangs_costs_the_watchdogs_time(lives: Any) -> None:
    life = lives(effects=[{"fault": "hang", "watchdog": "10m"}])

    assert not life.boots(SlotInfo("b", SlotState.TRIAL, 1, "1.1.0"))
    assert life.boots(SlotInfo("a", SlotState.CONFIRMED, 0, "1.0.0"))
    assert life.without_power_s(came_up=False) == 600 / SPEED


async def test_a_boot_loop_restarts_the_device_after_each_boot(lives: Any, device: Device) -> None:
    life = lives(effects=[{"fault": "boot-loop"}])
    for times in (1, 2):
        boot(life)
        await device.until(lambda times=times: len(device.done) == times)

    assert device.done == ["reset", "reset"]


async def test_without_network_the_line_is_cut_until_the_old_release_runs(lives: Any) -> None:
    life = lives(effects=[{"fault": "no-network"}])
    boot(life)
    cut = not is_whole(life)
    boot(life, "1.0.0")

    assert cut
    assert is_whole(life)


async def test_an_app_dies_some_time_after_the_boot_unless_the_device_went_back(lives: Any, device: Device) -> None:
    life = lives(effects=[{"fault": "app-dies", "after": "4h"}])
    boot(life)
    boot(life, "1.0.0")
    await device.clock.until(5 * 3600)
    survived = device.done == []
    boot(life)
    await device.until(lambda: device.done == ["die"])

    assert survived


async def test_a_release_that_never_confirms_stays_on_trial(lives: Any) -> None:
    platform, other = Slots(), Slots()
    with pytest.raises(TidegateError):
        lives(effects=[{"fault": "never-confirms"}]).slots(platform).confirm()
    lives().slots(other).confirm()

    assert (platform.confirmed, other.confirmed) == (False, True)


async def test_an_unhealthy_release_says_so(lives: Any) -> None:
    life = lives(effects=[{"fault": "unhealthy"}])

    assert not life.is_healthy("1.1.0")
    assert life.is_healthy("1.0.0")


async def test_a_release_that_crashes_restarts_the_device_again_and_again(lives: Any, device: Device) -> None:
    life = lives(effects=[{"fault": "crash-rate", "per_hour": 60}])
    for times in (1, 2, 3):
        boot(life)
        await device.until(lambda times=times: len(device.done) == times)

    assert set(device.done) == {"reset"}


async def test_a_release_that_flaps_loses_its_line_and_finds_it(lives: Any) -> None:
    life = lives(effects=[{"fault": "flapping", "every": "30m", "off": "30m"}])
    boot(life)
    for _ in range(2):
        await until(lambda: not is_whole(life))
        await until(lambda: is_whole(life))


async def test_an_outage_cuts_the_line_and_mends_it(lives: Any, device: Device) -> None:
    life = lives(faults=[{"fault": "regional-outage", "at": "1h", "for": "1h"}])
    before = is_whole(life)
    await until(lambda: not is_whole(life))
    cut_at = device.clock.now
    await until(lambda: is_whole(life))

    assert before
    assert cut_at >= 3600
    assert device.clock.now >= 7200


async def test_a_power_cut_comes_at_its_time_and_lasts(lives: Any, device: Device) -> None:
    life = lives(faults=[{"fault": "power-cut", "at": "2h", "for": "10m"}])
    await device.until(lambda: device.done == ["reset"])

    assert device.at[0] >= 7200
    assert life.without_power_s(came_up=True) == 600 / SPEED
    assert life.without_power_s(came_up=True) < 300 / SPEED  # the next reboot is an ordinary one


@pytest.mark.parametrize(
    ("state", "event"), [("downloading", "started"), ("installing", "written"), ("trial", "trial")]
)
async def test_a_power_cut_in_a_state_comes_once(lives: Any, device: Device, state: str, event: str) -> None:
    life = lives(faults=[{"fault": "power-cut", "during": state}])
    for _ in range(2):
        life.noted(Note(event, version="1.1.0"))

    assert device.done == ["reset"]


async def test_a_power_cut_while_confirming_comes_before_it_is_stored(lives: Any, device: Device) -> None:
    platform = Slots()
    life = lives(faults=[{"fault": "power-cut", "during": "confirming"}])
    with pytest.raises(TidegateError):
        life.slots(platform).confirm()
    confirmed = platform.confirmed
    life.slots(platform).confirm()  # in the next boot

    assert device.done == ["reset"]
    assert (confirmed, platform.confirmed) == (False, True)


async def test_a_power_cut_at_a_step_comes_at_that_step(lives: Any, device: Device) -> None:
    slots = lives(faults=[{"fault": "power-cut", "step": 2}]).slots(Slots())
    slots.confirm()
    after_one = list(device.done)
    with pytest.raises(TidegateError):
        slots.confirm()

    assert (after_one, device.done) == ([], ["reset"])


async def test_a_liar_lies_once_it_has_tried_the_release(lives: Any) -> None:
    life = lives(effects=[{"fault": "lies"}])
    before = life.tongue.lies
    life.noted(Note("rebooting", version="1.1.0"))

    assert (before, life.tongue.lies) == (False, True)
