"""A scenario in virtual time, from its cast to its outcome: the same seed gives the same run, to the last line."""

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TextIO

from device_sim.agent.events import Note
from device_sim.scenario.cast import Cast, draw_cast
from device_sim.scenario.facts import Facts
from device_sim.scenario.faults import Defect, Mode
from device_sim.scenario.model import REFUSED, CampaignOrder, ReleaseUnderTest, Scenario
from device_sim.scenario.outcome import CampaignOutcome, Moment, Outcome
from device_sim.virtual.campaign import VirtualCampaign
from device_sim.virtual.device import VirtualDevice
from device_sim.virtual.release import VirtualRelease, make_release
from device_sim.virtual.trace import Trace
from device_sim.virtual.world import EPOCH, VirtualWorld
from firmware_store.errors import InvalidInputError, TidegateError
from firmware_store.suit import verify_envelope
from server.domain.campaign import Cause
from server.domain.decide import Decision, Kind
from server.domain.halt import Verdict

EVENT: Final = "virtual run"
"""What the first line of a trace is; it says what it takes to run it again."""

MOMENTS: Final = 240
"""A run's course has so many."""

_TOLD: Final = {Kind.OPEN_WAVE, Kind.PAUSE, Kind.UNPAUSE, Kind.HALT, Kind.COMPLETE, Kind.FINISH}


@dataclass(slots=True)
class _Course:
    """What is seen of one campaign from outside, while it goes on."""

    campaign: VirtualCampaign | None = None
    stopped_at: float | None = None
    stopped_by: str = ""
    sentence: str = ""
    rule: str = ""
    updated_at_stop: int = 0


async def run(scenario: Scenario, *, devices: int | None = None, seed: int = 0, trace: TextIO | None = None) -> Outcome:
    """Play a scenario. ``devices``: how many, unless as many as it says; ``trace``: where to write what happens.

    Raises:
        InvalidInputError: it cannot be played in virtual time.
    """
    put = None if trace is None else trace.write
    return play(draw_cast(scenario, devices=devices, seed=seed), Trace(put))


def play(cast: Cast, trace: Trace) -> Outcome:
    """Play a cast to the end of its scenario. Raises: InvalidInputError: see ``run``."""
    if Mode.VIRTUAL not in cast.scenario.modes:
        raise InvalidInputError(f"{cast.scenario.name} is for the wire: it says so under modes.")
    return _Play(cast, trace).outcome()


class _Play:
    """One run."""

    def __init__(self, cast: Cast, trace: Trace) -> None:
        self._cast = cast
        self._scenario = cast.scenario
        self._trace = trace
        self._courses = {order.release: _Course() for order in cast.scenario.campaigns}
        self._moments: list[Moment] = []
        self._world = VirtualWorld(cast, on_note=self._noted)
        self._facts = Facts(self._world.clock)

    def outcome(self) -> Outcome:
        began = time.monotonic()
        scenario, cast, clock = self._scenario, self._cast, self._world.clock
        self._trace.head(
            event=EVENT,
            scenario={**scenario.model_dump(mode="json"), "modes": sorted(scenario.modes)},
            devices=len(cast),
            seed=cast.seed,
            cast=cast.digest,
        )
        self._world.start()
        for number, order in enumerate(scenario.campaigns):
            clock.at(order.at, partial(self._begin, number, order))
        for number in range(MOMENTS + 1):
            clock.at(scenario.duration * number / MOMENTS, self._look)
        clock.run(scenario.duration)
        return Outcome(
            scenario=scenario.name,
            story=scenario.story,
            mode=Mode.VIRTUAL,
            devices=len(cast),
            seed=cast.seed,
            speed=None,
            campaigns=tuple(self._campaign(order) for order in scenario.campaigns),
            digest=self._trace.digest,
            fleet_s=scenario.duration,
            real_s=time.monotonic() - began,
            course=tuple(self._moments),
        )

    def _begin(self, number: int, order: CampaignOrder) -> None:
        """Upload a release, and start its campaign, as far as the server takes them."""
        course, world = self._courses[order.release], self._world
        release = self._release(number, self._scenario.release(order.release))
        try:
            verify_envelope(release.blobs[release.envelope.digest], world.root)
        except TidegateError as exc:
            course.sentence = str(exc)
            self._trace.write(world.clock.now, "server", REFUSED, {"version": order.release, "sentence": str(exc)})
            return
        world.publish(release)
        course.campaign = VirtualCampaign(
            order,
            release,
            world.server.fleet,
            seed=self._cast.seed,
            begins=EPOCH + world.clock.now,
            on_decision=self._decided,
        )
        world.server.begin(course.campaign)

    def _release(self, number: int, release: ReleaseUnderTest) -> VirtualRelease:
        return make_release(
            self._world.authority,
            version=release.version,
            size_bytes=release.size,
            sequence_number=number + 1,
            hardware=self._scenario.hardware,
            strangers=release.defect is Defect.WRONG_KEY,
            wrong_digest=release.defect is Defect.WRONG_DIGEST,
        )

    # --- what is seen ---

    def _noted(self, device: VirtualDevice, note: Note) -> None:
        facts = {
            "version": note.version,
            "slot": note.slot,
            "reason": note.reason.name.lower() if note.reason else "",
            "detail": note.detail,
        }
        self._trace.write(self._world.clock.now, device.role.id, note.event, facts)
        self._facts.write(device.role.id, note)

    def _decided(self, campaign: VirtualCampaign, decision: Decision, verdict: Verdict) -> None:
        if decision.kind not in _TOLD:
            return
        now = self._world.clock.now
        facts = {"version": campaign.order.release, "sentence": decision.sentence}
        self._trace.write(now, "server", str(decision.kind), facts)
        course = self._courses[campaign.order.release]
        if decision.kind is Kind.UNPAUSE and decision.cause is Cause.GATE and course.stopped_by == "gate":
            course.stopped_at, course.stopped_by, course.sentence = None, "", ""
        stopped_by = _who(decision)
        if stopped_by and (course.stopped_at is None or decision.kind is Kind.HALT):
            course.stopped_at, course.stopped_by, course.sentence = now, stopped_by, decision.sentence
            course.updated_at_stop = len(self._facts.releases[campaign.order.release].rebooted)
            course.rule = f"{verdict.channel}, {verdict.scope}" if stopped_by == "rule" and verdict.channel else ""

    def _look(self) -> None:
        facts = self._facts
        releases = [facts.releases[order.release] for order in self._scenario.campaigns]
        self._moments.append(
            Moment(
                at=self._world.clock.now,
                online=self._world.server.fleet.online_count(),
                updated=len({device for progress in releases for device in progress.rebooted}),
                confirmed=len(facts.confirmed),
                bricked=len({device for progress in releases for device in progress.lost}),
                reverted=sum(end == "reverted" for ends in facts.ends.values() for end in ends.values()),
            )
        )

    def _campaign(self, order: CampaignOrder) -> CampaignOutcome:
        course = self._courses[order.release]
        campaign, end = course.campaign, self._scenario.duration
        if campaign is None:
            return CampaignOutcome(release=order.release, state=REFUSED, sentence=course.sentence)
        reachable = [one.role.id for one in self._world.devices if not one.is_lost and not one.role.is_away(end)]
        counted = self._facts.outcome(order.release, campaign.id, state=campaign.state, reachable=reachable)
        return replace(
            counted,
            stopped_at=course.stopped_at,
            stopped_by=course.stopped_by,
            sentence=course.sentence or campaign.record.sentence,
            rule=course.rule,
            updated_at_stop=counted.updated if course.stopped_at is None else course.updated_at_stop,
            silent=campaign.silent,
        )


def _who(decision: Decision) -> str:
    """Say who has stopped the campaign, if this has."""
    if decision.kind is Kind.HALT or (decision.kind is Kind.PAUSE and decision.cause is Cause.EVIDENCE):
        return "rule"
    return "gate" if decision.kind is Kind.PAUSE and decision.cause is Cause.GATE else ""
