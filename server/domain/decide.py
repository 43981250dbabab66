"""The one decision: what should become of a campaign now, given all that is known of it (pure).

``decide(snapshot, now)`` is asked soon after any news and at least every second. It returns a value; carrying it
out, by compare-and-set, is the orchestrator's job. The order of the questions is the order of safety: first whether to
halt, then whether to stand still, and only then whether to go on, and how fast.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Final

import numpy as np

from server.domain.campaign import JUDGED, Cause, State
from server.domain.consent import Awaited
from server.domain.gate import Ramp
from server.domain.halt import Call, Verdict
from server.domain.identity import Region
from server.domain.paced import raised
from server.domain.snapshot import Snapshot, regions_of
from server.domain.standstill import has_waited, hopeless, lacking
from server.domain.wave_gate import broken, few_under_way, is_mended, is_passed, wave_views


class Kind(StrEnum):
    """What to do; values are stored with the evidence."""

    NOTHING = "nothing"
    PACE = "pace"
    WAIT = "wait"
    OPEN_WAVE = "open_wave"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    HALT = "halt"
    COMPLETE = "complete"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the sentence that says why, and the numbers it was made on. ``ramps`` are new lines of levels.

    ``awaits``: whose word is missing, where the decision is to wait.
    """

    kind: Kind = Kind.NOTHING
    sentence: str = ""
    wave: int | None = None
    cause: Cause | None = None
    ramps: Mapping[Region, Ramp] = field(default_factory=dict)
    evidence: Mapping[str, object] = field(default_factory=dict)
    awaits: Awaited = Awaited.NOBODY


NOTHING: Final = Decision()


def decide(snapshot: Snapshot, now: float) -> Decision:
    """Return what should become of the campaign at ``now`` (Unix seconds)."""
    if snapshot.state not in JUDGED:
        return NOTHING
    decision = _stop(snapshot, now) or _stand_still(snapshot, now) or _go_on(snapshot, now)
    return decision if decision is NOTHING else replace(decision, evidence=_evidence(snapshot))


# --- whether to halt ---


def _stop(snapshot: Snapshot, now: float) -> Decision | None:
    verdict = snapshot.verdict
    if verdict.call is Call.HALT:
        why = verdict.why
        if snapshot.current is not None and snapshot.current.devices:
            why += " The open wave's devices were named, so they are no random sample."
        return Decision(Kind.HALT, f"Halted after {duration(now - snapshot.started_at)}: {why}")
    if verdict.is_storm_ours and snapshot.policy.on_offline_spike == "halt":
        where = ", ".join(sorted(verdict.bad_weather))
        return Decision(
            Kind.HALT,
            f"Halted after {duration(now - snapshot.started_at)}: devices that were not updated went dark in {where}, "
            "where the release is going out, and nowhere else.",
        )
    return None


# --- whether to stand still ---


def _stand_still(snapshot: Snapshot, now: float) -> Decision | None:
    verdict, causes = snapshot.verdict, snapshot.causes
    if verdict.call is Call.HOLD and Cause.EVIDENCE not in causes:
        return Decision(Kind.PAUSE, f"On hold: {verdict.why}", cause=Cause.EVIDENCE)
    if snapshot.state is State.WATCHING:
        return None  # its levels are at their targets; weather and gates have nothing to keep from rising
    if _is_spike_for_a_person(snapshot, now) and Cause.EVIDENCE not in causes:
        where = ", ".join(sorted(verdict.bad_weather)) or "every region"
        lasted = duration(snapshot.policy.halt.spike_hold_s)
        why = f"On hold: devices have been dark in {where} for {lasted}, whatever the reason."
        return Decision(Kind.PAUSE, why, cause=Cause.EVIDENCE)
    if verdict.is_blind and Cause.WEATHER not in causes:
        return Decision(Kind.PAUSE, f"Paused: {_weather(verdict)}", cause=Cause.WEATHER)
    if snapshot.state is State.PAUSED:
        if Cause.WEATHER in causes and not verdict.is_blind:
            why = "The weather is good again: devices that only watch are back."
            return Decision(Kind.UNPAUSE, why, cause=Cause.WEATHER)
        return _mend(snapshot) if Cause.GATE in causes and is_mended(snapshot) else NOTHING
    consent = snapshot.consent
    why = "" if consent is None else broken(snapshot) or consent.objection
    if why:
        return Decision(Kind.PAUSE, why, cause=Cause.GATE)
    return None


def _mend(snapshot: Snapshot) -> Decision:
    """Let a campaign go on whose gate is no longer broken, unless it would only stand still."""
    why = hopeless(snapshot)
    if not why:
        return Decision(Kind.UNPAUSE, "The gate holds again.", cause=Cause.GATE)
    return _waiting(snapshot, Awaited.NOBODY, why) if snapshot.causes == {Cause.GATE} else NOTHING


def _is_spike_for_a_person(snapshot: Snapshot, now: float) -> bool:
    policy, since = snapshot.policy, snapshot.verdict.bad_since
    return policy.on_offline_spike == "hold" and since is not None and now - since >= policy.halt.spike_hold_s


def _weather(verdict: Verdict) -> str:
    if verdict.bad_weather:
        where = ", ".join(sorted(verdict.bad_weather))
        return f"devices that only watch are dark in {where}; it goes on by itself when they are back."
    return "the server could not hear its devices for a while; it goes on by itself when it has heard them again."


# --- whether to go on ---


def _go_on(snapshot: Snapshot, now: float) -> Decision:
    if snapshot.state is State.WATCHING:
        since = snapshot.watching_since
        if since is not None and now - since >= snapshot.policy.watch_s:
            return Decision(Kind.FINISH, _finish_sentence(snapshot))
        return NOTHING
    if not snapshot.blobs_ready:
        return NOTHING  # nobody could fetch what a level lets in
    if snapshot.wave is None:
        return _open(snapshot, 0)
    if _short(snapshot):
        return _open(snapshot, snapshot.wave)
    ramps = raised(
        snapshot.lines,
        snapshot.verdict,
        snapshot.starting_in_classes,
        policy=snapshot.policy,
        now=now,
        starts_per_s=snapshot.starts_per_s,
    )
    if ramps:
        return Decision(Kind.PACE, ramps=ramps)
    is_last = snapshot.wave + 1 == len(snapshot.plan.waves)
    if not is_passed(snapshot, now) or (is_last and not few_under_way(snapshot.regions)):
        why = hopeless(snapshot)
        if why and has_waited(snapshot, now):
            return Decision(Kind.PAUSE, why, cause=Cause.GATE)
        lacks = lacking(snapshot, now)
        return _waiting(snapshot, Awaited.DEVICES if lacks else Awaited.NOBODY, lacks)
    assert snapshot.consent is not None
    awaits, sentence = snapshot.consent.missing(now)
    if awaits is not Awaited.NOBODY:
        return _waiting(snapshot, awaits, sentence)
    if not is_last:
        return _open(snapshot, snapshot.wave + 1)
    return Decision(Kind.COMPLETE, "Every wave is through its gate; watching for late failures.")


def _waiting(snapshot: Snapshot, awaits: Awaited, sentence: str) -> Decision:
    """Say what the open wave waits for, once, or that it waits for nothing any more."""
    if (snapshot.awaits, snapshot.sentence) == (awaits, sentence):
        return NOTHING
    return Decision(Kind.WAIT, sentence, awaits=awaits)


def _open(snapshot: Snapshot, index: int) -> Decision:
    wave = snapshot.plan.waves[index]
    if wave.devices:
        why = "They are no random sample: guard rails and what they say themselves judge them, and no comparison."
        return Decision(
            Kind.OPEN_WAVE, f"Wave {index + 1} of {len(snapshot.plan.waves)} opens: {wave.target}. {why}", wave=index
        )
    where = ", ".join(regions_of(wave, [view.region for view in snapshot.regions]))
    verb = "opens" if index != snapshot.wave else "takes in devices that have come since"
    return Decision(
        Kind.OPEN_WAVE, f"Wave {index + 1} of {len(snapshot.plan.waves)} {verb}: {where} to {wave.target}.", wave=index
    )


def _short(snapshot: Snapshot) -> bool:
    """Tell whether a wave opened on fewer devices than it is for (at least one), and others have come since."""
    wave = snapshot.current
    assert wave is not None
    if wave.devices:
        return False
    count = wave.count or 1
    return any(view.targeted < min(count, view.candidates) for view in wave_views(snapshot))


def _finish_sentence(snapshot: Snapshot) -> str:
    confirmed = sum(view.confirmed for view in snapshot.regions)
    eligible = sum(view.eligible for view in snapshot.regions)
    return f"Finished: {confirmed} of {eligible} eligible devices confirmed the release."


def _evidence(snapshot: Snapshot) -> dict[str, object]:
    verdict, answer = snapshot.verdict, snapshot.answer
    asked = {} if answer is None else {"webhook": {**asdict(answer), "wave": answer.wave + 1}}
    return {
        **asked,
        "rule": {
            "call": verdict.call.name.lower(),
            "wealth": float(np.round(verdict.wealth, 6)),
            "channel": verdict.channel,
            "scope": verdict.scope,
            "why": verdict.why,
            "in_flight": verdict.in_flight,
            "bad_weather": sorted(verdict.bad_weather),
            "is_blind": verdict.is_blind,
            **verdict.evidence,
        },
        "regions": [
            {
                "region": view.region,
                "eligible": view.eligible,
                "reached": view.reached,
                "confirmed": view.confirmed,
                "failed": view.failed,
                "judged": view.judged,
                "silent": view.silent,
                "controls": view.controls,
                "control_silent": view.control_silent,
            }
            for view in snapshot.regions
        ],
    }


def duration(seconds: float) -> str:
    """Say a number of seconds as a person would: ``45 s``, ``23 min``, ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
