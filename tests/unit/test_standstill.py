"""A wave that stands still says so, and what nobody can make up for is held for a person."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.campaign import Cause, State
from server.domain.consent import Awaited
from server.domain.decide import NOTHING, Decision, Kind, decide
from server.domain.gate import FULL, Ramp
from server.domain.halt import Call, Verdict
from server.domain.identity import Region
from server.domain.paced import Startable
from server.domain.plan import Gate, Plan, Policy, Wave
from server.domain.snapshot import RegionView, Snapshot

EU = Region("eu")
NOW = 1_800_000_000
UP = Ramp(NOW - 4000, 0, NOW - 3700, FULL // 2)
CANARY = Wave(ratio=None, count=25, ramp_s=60, soak_s=3600)
PLAN = Plan(waves=(CANARY, Wave(ratio=1.0, count=None)))
LUCK = RegionView(
    EU, UP, UP, eligible=300, eligible_online=300, candidates=300, targeted=25, targeted_online=20, reached=25,
    confirmed=23, judged=25, silent=2, excess=1.6, controls=275, control_silent=5,
)  # fmt: skip
"""Two of 25 are silent, which luck explains: the gate is not broken, and it is not passed either."""
SHORT = (
    "23 of the 25 devices reached have confirmed, fewer than the 95.0% that it wants (2 silent), and nobody is under "
    "way"
)


def seen(view: RegionView = LUCK, **members: object) -> Snapshot:
    made = Snapshot(State.RUNNING, frozenset(), PLAN, Policy(), [view], started_at=NOW - 5000, wave=0)
    return replace(made, **members)  # type: ignore[arg-type]


def told(snapshot: Snapshot, decision: Decision) -> Snapshot:
    """The campaign after what was decided, as far as it says what it waits for."""
    return replace(snapshot, awaits=decision.awaits, sentence=decision.sentence)


def test_too_few_confirmed_devices_without_a_broken_gate_are_waited_for_in_words() -> None:
    decision = decide(seen(), NOW)

    assert (decision.kind, decision.awaits) == (Kind.WAIT, Awaited.DEVICES)
    assert decision.sentence == f"Wave 1 waits: {SHORT}."
    assert decide(told(seen(), decision), NOW) is NOTHING


def test_what_nobody_can_make_up_for_is_held_after_a_day() -> None:
    late = NOW - 100 + int(Policy().halt.sleeper_s)

    assert decide(seen(), late - 1).kind is Kind.WAIT
    held = decide(seen(), late)
    assert (held.kind, held.cause) == (Kind.PAUSE, Cause.GATE)
    assert held.sentence.startswith(f"Paused by the gate of wave 1: {SHORT}. It goes on by itself when")


def test_devices_that_could_make_up_for_it_are_waited_for_and_counted() -> None:
    """Of 40 more, all of which may confirm, 63 of 65 would be enough."""
    decision = decide(seen(replace(LUCK, targeted=65)), NOW + 10**6)

    assert decision.kind is Kind.WAIT
    assert decision.sentence.endswith("; 40 more that it is for may still come.")


def test_a_hold_ends_when_enough_have_confirmed_and_not_before() -> None:
    paused = seen(state=State.PAUSED, causes=frozenset({Cause.GATE}))
    said = decide(paused, NOW)
    back = replace(LUCK, confirmed=24, silent=1, excess=0.6)

    assert (said.kind, said.awaits) == (Kind.WAIT, Awaited.NOBODY)
    assert decide(told(paused, said), NOW + 10**6) is NOTHING
    assert decide(replace(paused, regions=[back]), NOW).kind is Kind.UNPAUSE


def test_the_sentence_of_another_cause_stays() -> None:
    both = seen(state=State.PAUSED, causes=frozenset({Cause.GATE, Cause.FREEZE}), sentence="Frozen.")

    assert decide(both, NOW) is NOTHING


@pytest.mark.parametrize("awaits", [Awaited.ADVANCE, Awaited.WEBHOOK, Awaited.DEVICES])
def test_what_is_waited_for_no_more_is_not_said_any_longer(awaits: Awaited) -> None:
    """One more device has come and is under way: the numbers have stopped holding, and nobody's word is asked for."""
    manual = CANARY.model_copy(update={"gate": Gate(manual=True)})
    under_way = replace(LUCK, reached=26, in_flight=1)
    waits = seen(under_way, plan=Plan(waves=(manual,)), awaits=awaits, sentence="Wave 1 waits for a person.")

    decision = decide(waits, NOW)

    assert (decision.kind, decision.awaits, decision.sentence) == (Kind.WAIT, Awaited.NOBODY, "")
    assert decide(told(waits, decision), NOW) is NOTHING


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (Verdict(), "as many devices as the evidence so far leaves room for are under way"),
        (Verdict(Call.BRAKE, pace=0.0), "the halt rule brakes until it knows more"),
        (Verdict(bad_weather=frozenset({EU})), "devices that only watch are dark there"),
    ],
    ids=["no room", "brake", "weather"],
)
def test_a_level_that_stands_still_below_its_target_says_why(verdict: Verdict, says: str) -> None:
    next_one = Startable(np.array([FULL // 4]), np.array([0]))
    half_way = replace(LUCK, ramp=Ramp(NOW - 2000, 0, NOW - 1799, FULL // 4), in_flight=1, startable=next_one)
    full = seen(half_way, policy=Policy(in_flight_most=1), verdict=verdict, starting_in_classes=[0])

    assert decide(full, NOW) is NOTHING
    assert says in decide(full, NOW + 1).sentence


counts = st.integers(0, 40)


@given(
    counts, counts, counts, counts, counts, st.floats(0, 40), st.booleans(), st.integers(1, 100),
    st.floats(0, 1), st.floats(0.01, 1), st.sampled_from(Call), st.booleans(),
)  # fmt: skip
def test_no_open_wave_stands_still_without_a_word(
    under_way: int,
    confirmed: int,
    failed: int,
    silent: int,
    others: int,
    excess: float,
    is_home: bool,
    wanted: int,
    confirmed_ratio: float,
    failure_ratio: float,
    call: Call,
    is_last: bool,
) -> None:
    """Whatever has become of its devices: hours later it has gone on, or stopped, or says what it waits for."""
    gate = Gate(confirmed_ratio=confirmed_ratio, failure_ratio=failure_ratio, min_reached=wanted)
    wave = CANARY.model_copy(update={"gate": gate})
    reached = under_way + confirmed + failed + silent + others
    view = RegionView(
        EU, UP, UP, eligible=300, eligible_online=200 * is_home, candidates=300, targeted=200,
        targeted_online=150 * is_home, reached=reached, in_flight=under_way, confirmed=confirmed, failed=failed,
        judged=reached - under_way, silent=silent, excess=min(excess, silent),
    )  # fmt: skip
    campaign = seen(view, plan=Plan(waves=(wave,) if is_last else (wave, *PLAN.waves)), verdict=Verdict(call))

    decision = decide(campaign, NOW + 10**6)

    assert decision.kind is not Kind.NOTHING
    assert decision.sentence
