"""The one decision: safety first, then standing still, and only then going on."""

from dataclasses import replace
from typing import Any

import pytest

from server.domain.campaign import JUDGED, Cause, State
from server.domain.decide import NOTHING, Decision, Kind, RegionView, Snapshot, decide, duration
from server.domain.fisher import Table
from server.domain.gate import FULL, Ramp
from server.domain.identity import Region
from server.domain.plan import Gate, Plan, Policy, Wave

EU, US = Region("eu"), Region("us")
NOW = 1_800_000_000
CANARY = Wave(regions=(EU,), ratio=None, count=10, ramp_s=60, soak_s=100)
HALF = Wave(ratio=0.5, count=None, ramp_s=60, soak_s=100)
EVERYBODY = Wave(ratio=1.0, count=None, ramp_s=60, soak_s=100)
PLAN = Plan(waves=(CANARY, HALF, EVERYBODY))
REACHED_LONG_AGO = Ramp(NOW - 1000, 0, NOW - 500, FULL // 2)


def view(region: Region = EU, *, silent: int = 0, judged: int | None = None, **counts: Any) -> RegionView:
    """A region of 300 devices of which 60 are due, all of them confirmed unless a test says otherwise."""
    counts = {
        "eligible": 300,
        "eligible_online": 300,
        "candidates": 300,
        "targeted": 60,
        "targeted_online": 60,
        "reached": 60,
        "confirmed": 60 - silent,
    } | counts
    table = Table(region, 60 if judged is None else judged, silent, 240, 1)
    return RegionView(region, counts.pop("ramp", REACHED_LONG_AGO), table=counts.pop("table", table), **counts)


def snapshot(*views: RegionView, **members: Any) -> Snapshot:
    """A campaign whose second wave is open and through its gate, unless a test says otherwise."""
    given = {"state": State.RUNNING, "causes": frozenset[Cause](), "wave": 1} | members
    return Snapshot(
        plan=given.pop("plan", PLAN),
        policy=given.pop("policy", Policy()),
        regions=views or (view(),),
        started_at=NOW - 1380,
        **given,
    )


WELL = snapshot()
BRICKING = view(silent=20, confirmed=40)


# --- the order of safety ---


def test_a_campaign_that_is_well_goes_on() -> None:
    decision = decide(WELL, NOW)

    assert decision.kind is Kind.OPEN_WAVE
    assert decision.wave == 2
    assert decision.sentence == "Wave 3 of 3 opens: eu to 100.0%."


def test_a_halt_comes_before_everything_else() -> None:
    """The same snapshot would open a wave, or be paused by its gate, if nobody were silent."""
    decision = decide(replace(WELL, regions=(BRICKING,)), NOW)

    assert decision.kind is Kind.HALT


@pytest.mark.parametrize("state", sorted(JUDGED))
def test_whatever_is_judged_is_halted(state: State) -> None:
    causes = frozenset({Cause.OPERATOR}) if state is State.PAUSED else frozenset[Cause]()

    assert decide(replace(WELL, state=state, causes=causes, regions=(BRICKING,)), NOW).kind is Kind.HALT


@pytest.mark.parametrize("state", sorted(set(State) - JUDGED))
def test_nothing_is_decided_for_a_campaign_that_is_not_under_way(state: State) -> None:
    assert decide(replace(WELL, state=state, regions=(BRICKING,)), NOW) is NOTHING


def test_the_sentence_of_a_halt_gives_the_numbers_it_rests_on() -> None:
    decision = decide(replace(WELL, regions=(view(judged=43, silent=9), view(US, judged=0))), NOW)

    assert decision.sentence == (
        "Halted after 23 min: 9 of 43 updated devices (eu) were not heard from within 15 min of their reboot; "
        "of 240 comparable devices not yet updated, 1 were silent."
    )


def test_a_halt_in_several_regions_counts_them_all() -> None:
    decision = decide(replace(WELL, regions=(view(silent=9), view(US, silent=11))), NOW)

    assert "20 of 120 updated devices (2 regions)" in decision.sentence
    assert "of 480 comparable devices" in decision.sentence


def test_a_halt_by_the_guard_rail_says_so() -> None:
    alone = view(table=Table(EU, 60, 30, 3, 0))

    decision = decide(replace(WELL, regions=(alone,)), NOW)

    assert decision.kind is Kind.HALT
    assert decision.sentence.endswith("only 3 devices were left to compare with, so the guard rail decided.")
    assert decision.evidence["rule"] == "rail"


def test_a_look_that_was_taken_is_handed_back_with_what_it_saw() -> None:
    decision = decide(replace(WELL, regions=(view(silent=1),), looks=3, seen_silent=0), NOW)

    assert decision.kind is not Kind.HALT
    assert (decision.looks, decision.seen_silent) == (4, 1)
    assert isinstance(decision.evidence["p_value"], float)


def test_without_another_silent_device_no_look_is_taken() -> None:
    decision = decide(replace(WELL, regions=(view(silent=1),), looks=3, seen_silent=1), NOW)

    assert (decision.looks, decision.seen_silent) == (3, 1)


def test_a_device_that_falls_silent_after_the_late_success_of_another_is_looked_at() -> None:
    """Three were silent, three come back late, and twenty others fall silent one by one: none of them may hide."""
    recovered = decide(replace(WELL, regions=(view(silent=0),), looks=1, seen_silent=3), NOW)

    next_look = decide(
        replace(WELL, regions=(view(silent=1),), looks=recovered.looks, seen_silent=recovered.seen_silent), NOW
    )

    assert next_look.looks == 2


# --- standing still ---


@pytest.mark.parametrize("cause", sorted(set(Cause) - {Cause.GATE}))
def test_nobody_but_its_owner_ends_a_pause(cause: Cause) -> None:
    for causes in ({cause}, {cause, Cause.GATE}):
        paused = replace(WELL, state=State.PAUSED, causes=frozenset(causes))

        assert decide(paused, NOW).kind is Kind.NOTHING


def test_a_pause_by_the_gate_ends_when_the_gate_holds_again() -> None:
    decision = decide(replace(WELL, state=State.PAUSED, causes=frozenset({Cause.GATE})), NOW)

    assert decision.kind is Kind.UNPAUSE
    assert decision.cause is Cause.GATE


def test_too_many_explicit_failures_pause_the_campaign() -> None:
    decision = decide(replace(WELL, regions=(view(failed=10, confirmed=50),)), NOW)

    assert decision.kind is Kind.PAUSE
    assert decision.cause is Cause.GATE
    assert decision.sentence == (
        "Paused by the gate of wave 2: 10 of 60 devices failed or fell silent, more than 5.0% allows."
    )


@pytest.mark.parametrize("busy", [{"waiting": 1}, {"in_flight": 1}])
def test_a_pause_by_the_gate_does_not_end_before_all_have_had_their_say(busy: dict[str, int]) -> None:
    """A gate that opens and shuts with each report would let a few more devices through each time."""
    paused = replace(WELL, state=State.PAUSED, causes=frozenset({Cause.GATE}), regions=(view(**busy),))

    assert decide(paused, NOW).kind is Kind.NOTHING


def test_the_first_device_that_fails_is_no_ratio_yet() -> None:
    one = view(failed=1, confirmed=0, reached=60, in_flight=59, judged=1)

    assert decide(replace(WELL, regions=(one,)), NOW).kind is Kind.NOTHING


def test_a_pause_by_the_gate_lasts_while_it_is_broken() -> None:
    broken = replace(WELL, state=State.PAUSED, causes=frozenset({Cause.GATE}), regions=(view(failed=10, confirmed=50),))

    assert decide(broken, NOW).kind is Kind.NOTHING


def test_a_few_failures_do_not_pause_while_others_are_on_their_way() -> None:
    decision = decide(replace(WELL, regions=(view(failed=1, confirmed=19, in_flight=40),)), NOW)

    assert decision.kind is Kind.NOTHING


def test_a_few_failures_pause_when_everybody_is_judged_and_they_are_too_many() -> None:
    """1 of 20 is within the lower bound at any time; with nobody left to wait for, the upper bound decides."""
    decision = decide(replace(WELL, regions=(view(failed=1, confirmed=19, reached=20),)), NOW)

    assert decision.kind is Kind.PAUSE


def test_failures_elsewhere_do_not_break_the_gate_of_a_wave() -> None:
    canary_only = replace(WELL, wave=0, regions=(view(EU), view(US, failed=30, confirmed=30)))

    assert decide(canary_only, NOW).kind is Kind.OPEN_WAVE


def test_silence_that_the_neighbours_share_does_not_break_the_gate() -> None:
    outage = view(table=Table(EU, 60, 30, 240, 120), confirmed=30)

    assert decide(replace(WELL, regions=(outage,)), NOW).kind is Kind.NOTHING


# --- going on ---


def test_the_first_wave_opens_when_the_blobs_are_at_the_broker() -> None:
    assert decide(replace(WELL, wave=None, blobs_ready=False), NOW).kind is Kind.NOTHING
    assert decide(replace(WELL, wave=None), NOW).wave == 0


def test_the_first_wave_says_how_many_devices_it_is_for() -> None:
    assert decide(replace(WELL, wave=None), NOW).sentence == "Wave 1 of 3 opens: eu to 10 devices."


def test_a_wave_soaks_after_its_ramp_is_up() -> None:
    up_at = NOW - 99
    soaking = replace(WELL, regions=(view(ramp=Ramp(up_at - 60, 0, up_at, FULL // 2)),))

    assert decide(soaking, NOW).kind is Kind.NOTHING
    assert decide(soaking, NOW + 1).kind is Kind.OPEN_WAVE


def test_a_wave_waits_for_its_slowest_region() -> None:
    late = view(US, ramp=Ramp(NOW - 100, 0, NOW - 50, FULL // 2))

    assert decide(replace(WELL, regions=(view(), late)), NOW).kind is Kind.NOTHING


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({"confirmed": 56, "in_flight": 4}, "fewer than 95 % of those reached have confirmed"),
        ({"reached": 0, "confirmed": 0}, "fewer were reached than the gate asks for"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_gate_that_does_not_hold_yet_keeps_the_wave(counts: dict[str, int], why: str) -> None:
    del why

    assert decide(replace(WELL, regions=(view(**counts),)), NOW).kind is Kind.NOTHING


def test_a_gate_asks_for_no_more_devices_than_are_online() -> None:
    plan = Plan(waves=(HALF.model_copy(update={"gate": Gate(min_reached=1000)}), EVERYBODY))

    for online, kind in ((60, Kind.OPEN_WAVE), (61, Kind.NOTHING)):
        seen = snapshot(view(targeted_online=online), plan=plan, wave=0)

        assert decide(seen, NOW).kind is kind


def test_no_wave_passes_on_the_word_of_nobody_while_anybody_is_online() -> None:
    """The one device of the canary is offline; whatever comes next would be the first to try the release."""
    unheard = {"candidates": 10, "targeted": 10, "targeted_online": 0, "reached": 0, "confirmed": 0}

    for online, kind in ((300, Kind.NOTHING), (0, Kind.OPEN_WAVE)):
        seen = replace(WELL, wave=0, regions=(view(judged=0, eligible_online=online, **unheard),))

        assert decide(seen, NOW).kind is kind


def test_a_manual_gate_opens_by_no_number() -> None:
    plan = Plan(waves=(HALF.model_copy(update={"gate": Gate(manual=True)}), EVERYBODY))

    assert decide(replace(WELL, plan=plan, wave=0), NOW).kind is Kind.NOTHING


def test_devices_that_are_offline_neither_block_nor_dilute_a_wave() -> None:
    half_offline = view(eligible_online=150, reached=30, confirmed=30)

    assert decide(replace(WELL, regions=(half_offline,)), NOW).kind is Kind.OPEN_WAVE


@pytest.mark.parametrize(
    ("reached", "failed", "passes"),
    [(59, 0, True), (59, 1, False), (60, 1, False), (200, 1, True), (200, 9, False)],
    ids=[
        "below 3/y without a failure",
        "below 3/y with one",
        "at 3/y, where one is still too many for the bound",
        "well above with one",
        "well above with too many",
    ],
)
def test_with_fewer_than_three_over_y_reached_no_failure_is_allowed(reached: int, failed: int, passes: bool) -> None:
    seen = replace(WELL, regions=(view(reached=reached, failed=failed, confirmed=reached - failed),))

    assert (decide(seen, NOW).kind is Kind.OPEN_WAVE) is passes


def test_a_canary_that_opened_on_too_few_devices_takes_in_those_that_come_later() -> None:
    decision = decide(replace(WELL, wave=0, regions=(view(candidates=25, targeted=4, reached=4, confirmed=4),)), NOW)

    assert decision.kind is Kind.OPEN_WAVE
    assert decision.wave == 0
    assert decision.sentence == "Wave 1 of 3 takes in devices that have come since: eu to 10 devices."


@pytest.mark.parametrize(("candidates", "targeted"), [(4, 4), (25, 10), (25, 12), (0, 0)])
def test_a_canary_with_as_many_devices_as_there_are_is_complete(candidates: int, targeted: int) -> None:
    online = {"eligible_online": candidates, "targeted_online": targeted}
    counts = {"candidates": candidates, "targeted": targeted, **online}
    seen = replace(WELL, wave=0, regions=(view(reached=targeted, confirmed=targeted, **counts),))

    assert decide(seen, NOW).wave == 1


def test_after_the_last_wave_the_campaign_is_watched_when_nobody_is_on_their_way() -> None:
    last = replace(WELL, wave=2)

    assert decide(last, NOW).kind is Kind.COMPLETE
    for busy in ({"waiting": 1}, {"in_flight": 1}):
        assert decide(replace(last, regions=(view(), view(US, **busy))), NOW).kind is Kind.NOTHING


def test_a_watched_campaign_finishes_when_its_time_is_over() -> None:
    since = NOW - Policy().watch_s
    watched = replace(WELL, state=State.WATCHING, wave=2, watching_since=since, regions=(view(), view(US)))

    assert decide(watched, NOW - 1).kind is Kind.NOTHING
    assert decide(watched, NOW) == replace(
        decide(watched, NOW), kind=Kind.FINISH, sentence="Finished: 120 of 600 eligible devices confirmed the release."
    )


def test_the_evidence_of_a_decision_has_every_region_and_is_plain_data() -> None:
    import json

    decision = decide(replace(WELL, regions=(view(silent=2), view(US))), NOW)

    stored = json.loads(json.dumps(decision.evidence))
    assert [entry["region"] for entry in stored["regions"]] == ["eu", "us"]
    assert (
        stored["regions"][0] | {"judged": 60, "silent": 2, "controls": 240, "control_silent": 1}
        == (stored["regions"][0])
    )
    assert stored["alpha_per_look"] == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (9000, "2.5 h")]
)
def test_durations_are_said_as_a_person_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nothing_to_decide_is_the_empty_decision() -> None:
    assert Decision() == NOTHING
