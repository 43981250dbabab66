"""What came of a campaign in a run with sockets: the server's word, and what really happened on the devices (pure)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from device_sim.scenario.cast import Cast
from device_sim.scenario.facts import Facts
from device_sim.scenario.faults import Defect
from device_sim.scenario.model import REFUSED
from device_sim.scenario.outcome import CampaignOutcome
from server.domain.campaign import Cause, State
from server.domain.identity import CampaignId, DeviceId

_STOPPED_BY: Final[Mapping[str, str]] = MappingProxyType(
    {
        Cause.EVIDENCE: "rule",
        Cause.BRAKE_BUDGET: "rule",
        Cause.GATE: "gate",
        Cause.TRUST: "trust",
        Cause.OPERATOR: "person",
    }
)
"""Who has stopped a campaign until a person looks, by the cause of its pause; other causes pass by themselves."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The server's view of a campaign, and its decisions, the newest first; ``began_at``: Unix seconds of time zero."""

    view: Mapping[str, Any]
    decisions: Sequence[Mapping[str, Any]]
    began_at: float
    speed: float

    @property
    def summary(self) -> str:
        """Its state, and why it is in it, if the server says so."""
        sentence = self.view["sentence"]
        return f"{self.view['state']} ({sentence})" if sentence else str(self.view["state"])

    @property
    def is_settled(self) -> bool:
        """Whether nothing more can come of it by itself."""
        state = self.view["state"]
        return state in {State.FINISHED, State.HALTED, State.CANCELLED, State.ROLLED_BACK} or (
            state == State.PAUSED and self.stopped_by != ""
        )

    @property
    def stopped_by(self) -> str:
        """``rule``, ``gate``, ``trust``, ``person``, or nothing."""
        if self.view["state"] == State.HALTED:
            stop = self._stop
            if stop is None or stop["actor"] != "orchestrator":
                return "person" if stop is not None and stop["actor"] != "trust" else "trust"
            return "rule" if stop["evidence"].get("rule", {}).get("call") == "halt" else "trust"
        if self.view["state"] == State.PAUSED:
            return next((_STOPPED_BY[cause] for cause in self.view["causes"] if cause in _STOPPED_BY), "")
        return ""

    @property
    def stopped_at(self) -> float | None:
        """Seconds of the fleet."""
        stop = self._stop
        if not self.stopped_by or stop is None:
            return None
        return (datetime.fromisoformat(stop["at"]).timestamp() - self.began_at) * self.speed

    @property
    def rule(self) -> str:
        """Channel and scope, where the rule has stopped it."""
        stop = self._stop
        if self.stopped_by != "rule" or stop is None:
            return ""
        rule = stop["evidence"].get("rule", {})
        return ", ".join(part for part in (rule.get("channel", ""), rule.get("scope", "")) if part)

    @property
    def _stop(self) -> Mapping[str, Any] | None:
        return next((one for one in self.decisions if one["kind"] in {"halt", "pause"}), None)


def refused(release: str, sentence: str) -> CampaignOutcome:
    """Return what came of a campaign whose bundle, or draft, the server has not taken."""
    return CampaignOutcome(release=release, state=REFUSED, sentence=sentence)


def outcome_of(release: str, seen: Seen, facts: Facts, cast: Cast, *, at: float) -> CampaignOutcome:
    """Return what came of a campaign by ``at`` (seconds of the fleet)."""
    campaign = CampaignId(UUID(hex=seen.view["id"].removeprefix("cmp_")))
    counted = facts.outcome(release, campaign, state=seen.view["state"], reachable=_reachable(release, facts, cast, at))
    until = at if seen.stopped_at is None else seen.stopped_at
    return replace(
        counted,
        stopped_at=seen.stopped_at,
        stopped_by=seen.stopped_by,
        sentence=seen.view["sentence"],
        rule=seen.rule,
        updated_at_stop=sum(time <= until for time in facts.releases[release].rebooted.values()),
        silent=seen.view["states"].get("silent", 0),
    )


def _reachable(release: str, facts: Facts, cast: Cast, at: float) -> list[DeviceId]:
    """Return those that are on line at the end and whose hardware the release is for."""
    if cast.scenario.release(release).defect is Defect.WRONG_HARDWARE:
        return []
    lost = {device for progress in facts.releases.values() for device in progress.lost}
    return [role.id for role in cast.roles if not role.is_away(at) and role.id not in lost]
