"""A campaign and what is known of its devices, at one moment: what a decision is made on (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from server.domain.campaign import Cause, State
from server.domain.consent import Answer, Awaited, Consent
from server.domain.gate import Ramp
from server.domain.halt import Verdict
from server.domain.identity import Region
from server.domain.paced import Line, Startable
from server.domain.plan import Plan, Policy, Wave


@dataclass(frozen=True, slots=True)
class RegionView:
    """One region of a campaign, counted. ``reached``: eligible devices that are due and have been online since.

    ``waiting`` of them have not started (``starting`` of these are about to, the others wait to be admitted),
    ``in_flight`` have started and are not over, ``confirmed``, ``failed`` (explicitly) and ``silent`` are; ``excess``
    silent ones their neighbours' rate does not explain. ``candidates`` are the eligible devices, online or not, and
    those of which nothing is known before their first hello; ``targeted`` of them are due once the level is at its
    target, and ``targeted_online`` of those are eligible and online. ``startable`` are the eligible ones above the
    level that are online; ``admitted`` late ones were let in lately (see ``Line``).
    """

    region: Region
    ramp: Ramp
    planned: Ramp
    eligible: int = 0
    eligible_online: int = 0
    candidates: int = 0
    targeted: int = 0
    targeted_online: int = 0
    reached: int = 0
    waiting: int = 0
    starting: int = 0
    in_flight: int = 0
    confirmed: int = 0
    failed: int = 0
    judged: int = 0
    silent: int = 0
    excess: float = 0.0
    controls: int = 0
    control_silent: int = 0
    startable: Startable = field(default_factory=Startable.nobody)
    admitted: int = 0

    @property
    def target(self) -> int:
        """The level that the wave is for."""
        return self.planned.l1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A campaign and what is known of its devices, at one moment. Times in Unix seconds.

    ``verdict`` is the halt rule's; its regions are in the order of ``regions``. ``advanced``: the wave that a person
    has let through; ``answer``: the last of the open wave's webhook. ``awaits`` and ``sentence``: whose word the
    campaign says that it waits for, and how. ``device_bytes``: what one device fetches, at most; 0: not known.
    """

    state: State
    causes: frozenset[Cause]
    plan: Plan
    policy: Policy
    regions: Sequence[RegionView]
    started_at: float
    verdict: Verdict = field(default_factory=Verdict)
    starting_in_classes: Sequence[int] = ()
    wave: int | None = None
    blobs_ready: bool = True
    watching_since: float | None = None
    advanced: int | None = None
    awaits: Awaited = Awaited.NOBODY
    sentence: str = ""
    answer: Answer | None = None
    device_bytes: int = 0

    @property
    def starts_per_s(self) -> float:
        """How many devices of a region may start each second."""
        return self.policy.starts_per_s(self.device_bytes)

    @property
    def lines(self) -> list[Line]:
        """The levels of the regions, in their order."""
        return [
            Line(view.region, view.ramp, view.planned, view.starting, view.in_flight, view.startable, view.admitted)
            for view in self.regions
        ]

    @property
    def current(self) -> Wave | None:
        """The open wave, if one is."""
        return None if self.wave is None else self.plan.waves[self.wave]

    @property
    def number(self) -> int:
        """The open wave's, counted from 1."""
        assert self.wave is not None
        return self.wave + 1

    @property
    def consent(self) -> Consent | None:
        """What the open wave wants beyond numbers, if one is open."""
        if self.wave is None:
            return None
        gate = self.plan.waves[self.wave].gate
        again_s = None if gate.webhook is None else gate.webhook_s
        return Consent(self.wave, gate.manual, again_s, self.advanced, self.answer)


def regions_of(wave: Wave, campaign_regions: Sequence[Region]) -> tuple[Region, ...]:
    """Return the regions a wave raises: those it names, or all of the campaign's."""
    return wave.regions or tuple(campaign_regions)
