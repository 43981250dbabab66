"""What each switch means for a device in each state: one test a cell, by a real broker, to a real agent.

The table is the one of ``docs/protocol.md``. A test brings a device into a state, gives the order, waits until the
device has taken it in, then gives the device all that it would need to go on, and looks at what has become of it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import pytest

from server.domain.execution import State
from server.domain.gate import FULL, Ramp, height
from server.domain.identity import DeviceId, Region
from server.embedded import EmbeddedBroker
from server.protocol.orders import Action
from server.protocol.reasons import Reason
from server.protocol.topics import CohortAudience
from tests.agent_world import CAMPAIGN, OTHER_CAMPAIGN, Bundle, make_bundle
from tests.lab_devices import Lab
from tests.lab_server import LabServer

OLD, NEW, NEWER = "1.0.0", "1.1.0", "1.2.0"
BUNDLE = make_bundle(1, NEW)
CHUNK = 1 << 14
NEXT = make_bundle(2, NEWER)
RECEIVED = {
    Action.HOLD: "hold_received",
    Action.HALT: "halt_received",
    Action.ROLLBACK: "rollback_received",
    Action.NONE: "none_received",
    Action.OFFER: "offered",
}


class At(StrEnum):
    """Where a device is when the order comes."""

    NOT_DUE = "not due"
    DUE = "due, not started"
    DOWNLOADING = "downloading"
    WRITTEN = "written, not booted"
    TRIAL = "on trial"
    CONFIRMED = "confirmed"


class End(NamedTuple):
    """What has become of it: its last report, the release that runs, and the state of slot b."""

    state: State | None
    reason: Reason
    runs: str
    slot_b: str


UNTOUCHED = End(None, Reason.NONE, OLD, "empty")
STILL_DUE = End(State.DUE, Reason.LATE, OLD, "empty")
RUNS = End(State.CONFIRMED, Reason.NONE, NEW, "confirmed")

CELLS: dict[tuple[At, Action], End] = {
    (At.NOT_DUE, Action.HOLD): UNTOUCHED,
    (At.NOT_DUE, Action.HALT): UNTOUCHED,
    (At.NOT_DUE, Action.ROLLBACK): UNTOUCHED,
    (At.NOT_DUE, Action.NONE): UNTOUCHED,
    (At.DUE, Action.HOLD): STILL_DUE,
    (At.DUE, Action.HALT): STILL_DUE,
    (At.DUE, Action.ROLLBACK): STILL_DUE,
    (At.DUE, Action.NONE): STILL_DUE,
    (At.DOWNLOADING, Action.HOLD): End(State.INSTALLING, Reason.NONE, OLD, "bootable"),
    (At.DOWNLOADING, Action.HALT): End(State.CANCELLED, Reason.HALTED, OLD, "installing"),
    (At.DOWNLOADING, Action.ROLLBACK): End(State.CANCELLED, Reason.ROLLED_BACK, OLD, "installing"),
    (At.DOWNLOADING, Action.NONE): End(State.CANCELLED, Reason.CAMPAIGN_ENDED, OLD, "installing"),
    (At.WRITTEN, Action.HOLD): End(State.REBOOTING, Reason.NONE, OLD, "bootable"),
    (At.WRITTEN, Action.HALT): End(State.CANCELLED, Reason.HALTED, OLD, "unbootable"),
    (At.WRITTEN, Action.ROLLBACK): End(State.CANCELLED, Reason.ROLLED_BACK, OLD, "unbootable"),
    (At.WRITTEN, Action.NONE): End(State.CANCELLED, Reason.CAMPAIGN_ENDED, OLD, "unbootable"),
    (At.TRIAL, Action.HOLD): RUNS,
    (At.TRIAL, Action.HALT): End(State.ROLLED_BACK, Reason.HALTED, OLD, "unbootable"),
    (At.TRIAL, Action.ROLLBACK): End(State.ROLLED_BACK, Reason.ROLLED_BACK, OLD, "unbootable"),
    (At.TRIAL, Action.NONE): RUNS,
    (At.CONFIRMED, Action.HOLD): RUNS,
    (At.CONFIRMED, Action.HALT): RUNS,
    (At.CONFIRMED, Action.ROLLBACK): End(State.ROLLED_BACK, Reason.ROLLED_BACK, OLD, "unbootable"),
    (At.CONFIRMED, Action.NONE): RUNS,
}


@dataclass
class Bench:
    """One device, its ledger, and the server that a test plays."""

    lab: Lab
    server: "SwitchServer"
    device: DeviceId

    @property
    def last(self) -> tuple[State | None, Reason]:
        reports = self.server.reports[self.device]
        newest = max(reports, key=lambda report: report.sequence, default=None)
        return (None, Reason.NONE) if newest is None else (newest.state, newest.reason)

    @property
    def end(self) -> End:
        return End(*self.last, self.lab.booted_version(self.device), self.lab.slot_state(self.device, "b"))

    @property
    def first_chunk(self) -> bytes:
        path = self.lab.directory / self.device / "slots" / "b" / "app.img"
        return path.read_bytes()[:CHUNK] if path.exists() else b""

    async def until(self, state: State) -> None:
        await self.server.until(lambda: self.last[0] is state)

    async def bring(self, at: At) -> None:
        """Offer the release, and see to it that the device comes so far and no further."""
        server, ramp = self.server, {}
        if at is At.NOT_DUE:
            ramp = {"ramp": Ramp(0, 0, 0, height(CAMPAIGN, self.device))}
        elif at is At.DUE:
            ramp = {"ramp": Ramp.flat(FULL)}  # it hides since when, so that the device waits to be admitted
        elif at is At.WRITTEN:
            server.unanswered = {State.REBOOTING}
        await server.hold_blobs(BUNDLE)
        if at is At.DOWNLOADING:
            await server.withhold(BUNDLE)
        server.greets_trials = at is not At.TRIAL
        await server.direct(Action.OFFER, BUNDLE, **ramp)
        if at is At.NOT_DUE:
            await self.lab.until_fact(self.device, "offered")
            await server.until_beats(self.device)
        else:
            await self.until(_REACHED[at])
        if at is At.DOWNLOADING:
            await _until(lambda: self.first_chunk == BUNDLE.images["app"][:CHUNK])

    async def order(self, action: Action, bundle: Bundle = BUNDLE, **changes: object) -> None:
        """Give an order, and wait until the device has taken it in."""
        heard = self.lab.facts(self.device).count(RECEIVED[action])
        await self.server.direct(action, None if action is Action.NONE else bundle, **changes)
        await self.lab.until_fact(self.device, RECEIVED[action], times=heard + 1)

    async def let_go_on(self) -> None:
        """Give the device all that it needs: chunks, acknowledgements, a welcome, an admit."""
        server = self.server
        server.unanswered = set()
        server.greets_trials = True
        await server.hold_blobs(BUNDLE)
        for report in server.reports[self.device][-1:]:
            server.acknowledge(self.device, report.sequence)
        server.admit(self.device)

    async def settle(self, expected: End) -> None:
        """Wait for what is expected, and a while longer for what is not."""
        await _until(lambda: self.end == expected)
        await self.server.until_beats(self.device)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


_REACHED = {
    At.DUE: State.DUE,
    At.DOWNLOADING: State.DOWNLOADING,
    At.WRITTEN: State.REBOOTING,
    At.TRIAL: State.TRIAL,
    At.CONFIRMED: State.CONFIRMED,
}


class SwitchServer(LabServer):
    """Admits nobody by itself, and can leave a device on trial unwelcome, so that it stays there."""

    def __init__(self, broker: EmbeddedBroker, region: Region) -> None:
        super().__init__(broker, region)
        self.heartbeat_s = 1
        self.admits = False
        self.greets_trials = True

    def greet(self, device: DeviceId) -> None:
        hello = self.hellos[device][-1]
        on_trial = any(slot.name == hello.booted and slot.state == "trial" for slot in hello.slots)
        if self.greets_trials or not on_trial:
            super().greet(device)


@pytest.fixture
async def bench(
    broker: EmbeddedBroker, region: Region, tmp_path: Path, new_device_id: Callable[[], DeviceId]
) -> AsyncIterator[Bench]:
    lab, device = Lab(broker, region, tmp_path), new_device_id()
    async with SwitchServer(broker, region) as server:
        yield Bench(lab, server, device)


def test_the_table_has_every_cell() -> None:
    assert set(CELLS) == {(at, action) for at in At for action in set(Action) - {Action.OFFER}}


@pytest.mark.parametrize(("at", "action"), CELLS, ids=lambda one: one.name.lower())
async def test_a_device_obeys_the_switch(bench: Bench, at: At, action: Action) -> None:
    async with bench.lab.fleet(bench.device):
        await bench.bring(at)
        await bench.order(action)
        await bench.let_go_on()
        await bench.settle(CELLS[at, action])

    assert bench.end == CELLS[at, action]


@pytest.mark.parametrize("at", At)
async def test_what_is_only_offered_goes_on_to_its_end(bench: Bench, at: At) -> None:
    """The counter-proof: what lets these tests end otherwise is the order, and nothing that they withhold."""
    async with bench.lab.fleet(bench.device):
        await bench.bring(at)
        if at is At.NOT_DUE:
            await bench.server.direct(Action.OFFER, BUNDLE)
        await bench.let_go_on()
        await bench.settle(RUNS)


async def test_a_halt_that_keeps_trials_lets_one_finish(bench: Bench) -> None:
    async with bench.lab.fleet(bench.device):
        await bench.bring(At.TRIAL)
        await bench.order(Action.HALT, keep_on_halt=True, halted=(BUNDLE.manifest_digest,))
        await bench.let_go_on()
        await bench.settle(RUNS)


@pytest.mark.parametrize("at", [At.DOWNLOADING, At.WRITTEN])
async def test_a_halt_that_keeps_trials_keeps_nothing_else(bench: Bench, at: At) -> None:
    async with bench.lab.fleet(bench.device):
        await bench.bring(at)
        await bench.order(Action.HALT, keep_on_halt=True)
        await bench.let_go_on()
        await bench.settle(CELLS[at, Action.HALT])


async def test_a_stopped_download_keeps_the_chunks_that_it_has(bench: Bench) -> None:
    async with bench.lab.fleet(bench.device):
        await bench.bring(At.DOWNLOADING)
        await bench.order(Action.HALT)
        await bench.until(State.CANCELLED)

    assert bench.first_chunk == BUNDLE.images["app"][:CHUNK]


async def test_a_device_that_has_no_way_back_says_so_and_stays(bench: Bench) -> None:
    async with bench.lab.fleet(bench.device):
        await bench.bring(At.CONFIRMED)
        await bench.server.offer(NEXT, campaign=OTHER_CAMPAIGN)
        await bench.server.until(
            lambda: any(
                (report.campaign, report.state) == (OTHER_CAMPAIGN, State.CONFIRMED)
                for report in bench.server.reports[bench.device]
            )
        )
        (bench.lab.directory / bench.device / "slots" / "b" / "app.img").write_bytes(b"damaged")

        await bench.order(Action.ROLLBACK, NEXT, campaign=OTHER_CAMPAIGN)
        await bench.server.until(lambda: bench.last == (State.CONFIRMED, Reason.NO_WAY_BACK))
        await bench.server.until_beats(bench.device)

    assert bench.lab.booted_version(bench.device) == NEWER
    assert "no_way_back" in bench.lab.facts(bench.device)


async def test_a_held_device_goes_on_when_it_is_offered_anew(bench: Bench) -> None:
    async with bench.lab.fleet(bench.device):
        await bench.bring(At.WRITTEN)
        await bench.order(Action.HOLD)
        await bench.let_go_on()
        await bench.settle(CELLS[At.WRITTEN, Action.HOLD])

        await bench.order(Action.OFFER)
        await bench.settle(RUNS)


# --- slept through ---

SLEPT = {
    At.DOWNLOADING: End(State.CANCELLED, Reason.HALTED, OLD, "installing"),
    At.WRITTEN: End(State.CANCELLED, Reason.HALTED, OLD, "unbootable"),
    At.TRIAL: End(State.ROLLED_BACK, Reason.HALTED, OLD, "unbootable"),
}
LATER = Ramp(0, 0, 0, 0)  # the newer campaign is not for this device yet


@pytest.mark.parametrize("at", SLEPT)
async def test_a_device_that_was_away_during_a_halt_obeys_it_when_it_comes_back(bench: Bench, at: At) -> None:
    async with bench.lab.fleet(bench.device):
        await bench.bring(at)
    await bench.server.direct(Action.HALT, BUNDLE)
    await bench.let_go_on()

    async with bench.lab.fleet(bench.device):
        await bench.settle(SLEPT[at])


@pytest.mark.parametrize("at", SLEPT)
async def test_so_does_one_that_comes_back_when_a_newer_offer_is_in_the_halts_place(bench: Bench, at: At) -> None:
    async with bench.lab.fleet(bench.device):
        await bench.bring(at)
    await bench.server.direct(Action.HALT, BUNDLE)
    await bench.server.direct(Action.OFFER, NEXT, campaign=OTHER_CAMPAIGN, ramp=LATER, halted=(BUNDLE.manifest_digest,))
    await bench.let_go_on()

    async with bench.lab.fleet(bench.device):
        await bench.settle(SLEPT[at])


@pytest.mark.parametrize("at", [At.DOWNLOADING, At.WRITTEN])
async def test_a_newer_offer_ends_the_old_one_even_when_nobody_remembers_the_halt(bench: Bench, at: At) -> None:
    async with bench.lab.fleet(bench.device):
        await bench.bring(at)
    await bench.server.direct(Action.HALT, BUNDLE)
    await bench.server.direct(Action.OFFER, NEXT, campaign=OTHER_CAMPAIGN, ramp=LATER)
    await bench.let_go_on()

    async with bench.lab.fleet(bench.device):
        await bench.settle(CELLS[at, Action.NONE])


# --- a broker that was restored from an old copy ---


@pytest.mark.parametrize("at", [At.NOT_DUE, At.DUE, At.WRITTEN])
async def test_an_old_offer_of_a_restored_broker_starts_nothing_that_was_halted(bench: Bench, at: At) -> None:
    """The device was away during the halt, and holds that very offer: only the welcome knows better."""
    topic = bench.server.topics.directive(CohortAudience(bench.lab.region, bench.server.cohort))
    async with bench.lab.fleet(bench.device):
        await bench.bring(at)
    before = bench.end
    old = await bench.server.direct(Action.OFFER, BUNDLE)
    halt = await bench.server.direct(Action.HALT, BUNDLE)
    await bench.server.retain(topic, old)
    await bench.let_go_on()

    async with bench.lab.fleet(bench.device):
        await bench.server.until(lambda: bench.server.beats[bench.device] > 0)
        await bench.let_go_on()
        await bench.server.until_beats(bench.device, 3)
        assert bench.end.runs == OLD
        assert bench.end.slot_b == before.slot_b

        await bench.server.retain(topic, halt)  # the server repairs what is retained
        await bench.lab.until_fact(bench.device, "halt_received")
        await bench.settle(CELLS[at, Action.HALT])


async def test_an_old_offer_after_the_halt_is_a_replay(bench: Bench) -> None:
    topic = bench.server.topics.directive(CohortAudience(bench.lab.region, bench.server.cohort))
    async with bench.lab.fleet(bench.device):
        await bench.bring(At.NOT_DUE)
        old = await bench.server.direct(Action.OFFER, BUNDLE, ramp=LATER)
        await bench.order(Action.HALT)
        await bench.server.retain(topic, old)
        await bench.let_go_on()
        await bench.server.until_beats(bench.device)

        assert bench.end == UNTOUCHED
        assert "replayed" in bench.lab.refusals(bench.device)
