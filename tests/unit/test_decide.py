"""The one decision: safety first, then standing still, and only then going on."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from server.domain.campaign import JUDGED, Cause, State
from server.domain.consent import Answer, Awaited, Word
from server.domain.decide import NOTHING, Decision, Kind, decide, duration
from server.domain.gate import FULL, Ramp
from server.domain.halt import Call, HaltPolicy, Verdict
from server.domain.identity import DeviceId, Region
from server.domain.paced import Startable
from server.domain.plan import Gate, Plan, Policy, Wave
from server.domain.snapshot import RegionView, Snapshot

EU, US = Region("eu"), Region("us")
NOW = 1_800_000_000
CANARY = Wave(regions=(EU,), ratio=None, count=10, ramp_s=60, soak_s=100)
HALF = Wave(ratio=0.5, count=None, ramp_s=60, soak_s=100)
EVERYBODY = Wave(ratio=1.0, count=None, ramp_s=60, soak_s=100)
PLAN = Plan(waves=(CANARY, HALF, EVERYBODY))
REACHED_LONG_AGO = Ramp(NOW - 1000, 0, NOW - 500, FULL // 2)


def view(region: Region = EU, *, silent: int = 0, **counts: Any) -> RegionView:
    """A region of 300 devices of which 60 are due, all of them confirmed unless a test says otherwise."""
    counts = {
        "eligible": 300,
        "eligible_online": 300,
        "candidates": 300,
        "targeted": 60,
        "targeted_online": 60,
        "reached": 60,
        "confirmed": 60 - silent,
        "judged": 60,
        "silent": silent,
        "excess": max(0, silent - 0.25),
        "controls": 240,
        "control_silent": 1,
    } | counts
    ramp = counts.pop("ramp", REACHED_LONG_AGO)
    return RegionView(region, ramp, planned=ramp, **counts)


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
BRICKING = Verdict(
    Call.HALT,
    wealth=209,
    channel="g1",
    scope="fleet",
    why="9 of 43 updated devices in eu went dark within 15 min of their reboot; of 240 comparable devices not yet "
    "updated, 1 did.",
)


# --- the order of safety ---


def test_a_campaign_that_is_well_goes_on() -> None:
    decision = decide(WELL, NOW)

    assert decision.kind is Kind.OPEN_WAVE
    assert decision.wave == 2
    assert decision.sentence == "Wave 3 of 3 opens: eu to 100.0%."


def test_a_halt_comes_before_everything_else() -> None:
    """The same snapshot would open a wave, or be paused by its gate, if nobody were silent."""
    decision = decide(replace(WELL, verdict=BRICKING), NOW)

    assert decision.kind is Kind.HALT


@pytest.mark.parametrize("state", sorted(JUDGED))
def test_whatever_is_judged_is_halted(state: State) -> None:
    causes = frozenset({Cause.OPERATOR}) if state is State.PAUSED else frozenset[Cause]()

    assert decide(replace(WELL, state=state, causes=causes, verdict=BRICKING), NOW).kind is Kind.HALT


@pytest.mark.parametrize("state", sorted(set(State) - JUDGED))
def test_nothing_is_decided_for_a_campaign_that_is_not_under_way(state: State) -> None:
    assert decide(replace(WELL, state=state, verdict=BRICKING), NOW) is NOTHING


def test_the_sentence_of_a_halt_says_when_and_why() -> None:
    decision = decide(replace(WELL, verdict=BRICKING), NOW)

    assert decision.sentence == (
        "Halted after 23 min: 9 of 43 updated devices in eu went dark within 15 min of their reboot; of 240 comparable "
        "devices not yet updated, 1 did."
    )


# --- offline spikes ---

STORM = Verdict(is_storm_ours=True, bad_weather=frozenset({"eu"}), bad_since=NOW - 1800)


@pytest.mark.parametrize(("policy", "kind"), [("pause", Kind.OPEN_WAVE), ("hold", Kind.PAUSE), ("halt", Kind.HALT)])
def test_a_release_that_takes_its_neighbours_down_is_treated_as_the_policy_says(policy: str, kind: Kind) -> None:
    told = replace(WELL, verdict=STORM, policy=Policy(on_offline_spike=policy))  # type: ignore[arg-type]

    assert decide(told, NOW).kind is kind


def test_a_spike_is_held_for_a_person_after_half_an_hour_only() -> None:
    told = replace(WELL, verdict=STORM, policy=Policy(on_offline_spike="hold"))

    assert decide(told, NOW - 1).kind is Kind.OPEN_WAVE
    assert decide(told, NOW).cause is Cause.EVIDENCE


def test_half_an_hour_is_as_long_as_the_policys_clock_says() -> None:
    lab = Policy(on_offline_spike="hold", halt=HaltPolicy().scaled(1 / 60))
    told = replace(WELL, policy=lab, verdict=replace(STORM, bad_since=NOW - 30))

    decision = decide(told, NOW)

    assert decide(told, NOW - 1).kind is Kind.OPEN_WAVE
    assert (decision.kind, decision.cause) == (Kind.PAUSE, Cause.EVIDENCE)
    assert decision.sentence == "On hold: devices have been dark in eu for 30 s, whatever the reason."


def test_bad_weather_everywhere_pauses_and_good_weather_resumes() -> None:
    blind = Verdict(is_blind=True, bad_weather=frozenset({"eu", "us"}))
    paused = decide(replace(WELL, verdict=blind), NOW)

    assert (paused.kind, paused.cause) == (Kind.PAUSE, Cause.WEATHER)
    assert paused.sentence == (
        "Paused: devices that only watch are dark in eu, us; it goes on by itself when they are back."
    )
    waiting = replace(WELL, state=State.PAUSED, causes=frozenset({Cause.WEATHER}))
    assert decide(replace(waiting, verdict=blind), NOW).kind is Kind.NOTHING
    assert decide(waiting, NOW).kind is Kind.UNPAUSE


def test_a_hold_of_the_rule_is_for_a_person_to_end() -> None:
    held = replace(WELL, verdict=Verdict(Call.HOLD, why="braked for 2 h."))

    decision = decide(held, NOW)

    assert (decision.kind, decision.cause) == (Kind.PAUSE, Cause.EVIDENCE)
    assert decide(replace(held, state=State.PAUSED, causes=frozenset({Cause.EVIDENCE})), NOW).kind is Kind.NOTHING


def test_no_wave_passes_while_the_rule_brakes() -> None:
    assert decide(replace(WELL, verdict=Verdict(Call.BRAKE)), NOW).kind is Kind.NOTHING


# --- pace ---


def test_a_level_rises_to_where_there_is_room() -> None:
    heights = np.arange(10, dtype=np.int64) * 1000 + 500_000
    low = view(ramp=Ramp.flat(1000, NOW - 100), startable=Startable(heights, np.zeros(10, np.int64)), starting=1)
    low = replace(low, planned=Ramp.flat(FULL))
    verdict = Verdict(room_in_regions=np.array([4]), room_in_classes=np.array([8]))

    decision = decide(replace(WELL, wave=2, regions=(low,), verdict=verdict, starting_in_classes=[1]), NOW)

    assert decision.kind is Kind.PACE
    assert decision.ramps == {EU: Ramp(NOW, 1000, NOW + 60, 503_000)}


def test_a_level_stops_where_it_is_while_the_rule_brakes() -> None:
    rising = view(ramp=Ramp(NOW - 30, 0, NOW + 30, 1000))

    decision = decide(replace(WELL, regions=(rising,), verdict=Verdict(Call.BRAKE, pace=0.0)), NOW)

    assert decision.ramps == {EU: Ramp.flat(500, NOW)}


# --- standing still ---


@pytest.mark.parametrize("cause", sorted(set(Cause) - {Cause.GATE, Cause.WEATHER}))
def test_nobody_but_its_owner_ends_a_pause(cause: Cause) -> None:
    paused = replace(WELL, state=State.PAUSED, causes=frozenset({cause}))

    assert decide(paused, NOW).kind is Kind.NOTHING
    assert decide(replace(paused, causes=frozenset({cause, Cause.GATE})), NOW).cause is Cause.GATE


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


@pytest.mark.parametrize(("busy", "kind"), [({"in_flight": 1}, Kind.NOTHING), ({"waiting": 1}, Kind.UNPAUSE)])
def test_a_pause_by_the_gate_does_not_end_before_all_have_had_their_say(busy: dict[str, int], kind: Kind) -> None:
    """A gate that opens and shuts with each report would let a few more devices through each time.

    Who waits to start has nothing to say: it may not before the pause ends.
    """
    paused = replace(WELL, state=State.PAUSED, causes=frozenset({Cause.GATE}), regions=(view(**busy),))

    assert decide(paused, NOW).kind is kind


def test_the_gate_takes_the_halt_rules_word_for_what_neighbours_do_not_explain() -> None:
    """Each of those silent was held against its own neighbours, of which as many are: it was the night."""
    silent = view(silent=10, reached=200, confirmed=190, judged=200, excess=9.5)
    explained = Verdict(excess_silent=np.array([0.2]))

    assert decide(replace(WELL, regions=(silent,)), NOW).cause is Cause.GATE
    assert decide(replace(WELL, regions=(silent,), verdict=explained), NOW).kind is Kind.OPEN_WAVE


@pytest.mark.parametrize(
    ("silent", "judged", "kind"),
    [(1, 2, Kind.PAUSE), (1, 25, Kind.OPEN_WAVE), (2, 25, Kind.PAUSE), (3, 59, Kind.PAUSE)],
)
def test_one_silent_device_of_a_canary_is_luck_and_two_are_not(silent: int, judged: int, kind: Kind) -> None:
    """Their neighbours' rate of one in 500 explains almost none of them."""
    seen = view(reached=judged, judged=judged, confirmed=judged - silent, silent=silent, excess=silent - judged / 500)

    assert decide(replace(WELL, regions=(seen,)), NOW).kind is kind


def test_the_gate_counts_no_more_silence_than_there_is() -> None:
    """What fell silent in an earlier run is no evidence in this one, though the rule still knows of it."""
    verdict = Verdict(excess_silent=np.array([30.0]))

    assert decide(replace(WELL, verdict=verdict), NOW).kind is Kind.OPEN_WAVE


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
    outage = view(silent=30, excess=0.0, confirmed=30)

    assert decide(replace(WELL, regions=(outage,)), NOW).kind is Kind.WAIT


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


def test_a_halt_in_a_wave_of_named_devices_says_that_they_are_no_random_sample() -> None:
    plan = Plan(waves=(Wave(ratio=None, count=None, devices=(DeviceId("gw-1"),)), EVERYBODY))

    for wave, named in ((0, True), (1, False)):
        sentence = decide(replace(WELL, plan=plan, wave=wave, verdict=BRICKING), NOW).sentence

        assert ("no random sample" in sentence) == named


MANUAL = Plan(waves=(HALF.model_copy(update={"gate": Gate(manual=True)}), EVERYBODY))


def test_a_manual_gate_opens_by_no_number_and_says_once_that_it_waits_for_a_person() -> None:
    waits = decide(replace(WELL, plan=MANUAL, wave=0), NOW)
    told = replace(WELL, plan=MANUAL, wave=0, awaits=waits.awaits, sentence=waits.sentence)

    assert (waits.kind, waits.awaits) == (Kind.WAIT, Awaited.ADVANCE)
    assert waits.sentence.startswith("Wave 1 waits for a person")
    assert decide(told, NOW) is NOTHING
    assert decide(replace(told, advanced=0), NOW).kind is Kind.OPEN_WAVE


def test_a_persons_word_is_asked_for_when_all_else_is_met_and_opens_nothing_without_it() -> None:
    soaking = view(ramp=Ramp(NOW - 100, 0, NOW - 50, FULL // 2))

    for advanced in (None, 0):
        seen = replace(WELL, plan=MANUAL, wave=0, regions=(soaking,), advanced=advanced)

        assert decide(seen, NOW) is NOTHING


HOOKED = Plan(waves=(HALF.model_copy(update={"gate": Gate(webhook="https://example.test/gate")}), EVERYBODY))


@pytest.mark.parametrize(
    ("word", "age_s", "kind"),
    [
        (Word.GO, 0, Kind.OPEN_WAVE),
        (Word.GO, 60, Kind.WAIT),
        (Word.WAIT, 0, Kind.WAIT),
        (Word.NOTHING, 0, Kind.WAIT),
        (Word.STOP, 0, Kind.PAUSE),
        (Word.STOP, 10_000, Kind.PAUSE),
    ],
    ids=["go", "an old go", "wait", "no answer", "stop", "an old stop"],
)
def test_a_webhook_lets_through_keeps_waiting_or_pauses(word: Word, age_s: int, kind: Kind) -> None:
    answer = Answer(0, word, "because", NOW - age_s)
    decision = decide(replace(WELL, plan=HOOKED, wave=0, answer=answer), NOW)

    assert decision.kind is kind
    assert decision.awaits is (Awaited.WEBHOOK if kind is Kind.WAIT else Awaited.NOBODY)
    assert decision.evidence["webhook"] == {"wave": 1, "word": word, "reason": "because", "at": NOW - age_s}


def test_what_a_webhook_has_stopped_goes_on_by_a_person_alone() -> None:
    answer = Answer(0, Word.STOP, "errors in the shop", NOW)
    seen = replace(WELL, plan=HOOKED, wave=0, answer=answer)
    paused = replace(seen, state=State.PAUSED, causes=frozenset({Cause.GATE}))

    assert decide(seen, NOW).sentence == "Paused by the webhook of wave 1: errors in the shop"
    assert decide(seen, NOW).cause is Cause.GATE
    assert decide(paused, NOW) is NOTHING
    assert decide(replace(paused, answer=None), NOW).kind is Kind.UNPAUSE


def test_a_webhook_is_asked_when_the_person_has_spoken_and_not_for_another_wave() -> None:
    both = Plan(waves=(HALF.model_copy(update={"gate": Gate(manual=True, webhook="https://example.test")}), EVERYBODY))
    seen = replace(WELL, plan=both, wave=0, answer=Answer(1, Word.GO, "", NOW))

    assert decide(seen, NOW).awaits is Awaited.ADVANCE
    assert decide(replace(seen, advanced=0), NOW).awaits is Awaited.WEBHOOK
    assert decide(replace(seen, advanced=0, answer=Answer(0, Word.GO, "", NOW)), NOW).kind is Kind.OPEN_WAVE


def test_the_word_for_one_wave_is_none_for_the_next() -> None:
    manual = HALF.model_copy(update={"gate": Gate(manual=True)})
    plan = Plan(waves=(manual, manual))

    assert decide(replace(WELL, plan=plan, wave=1, advanced=0), NOW).kind is Kind.WAIT
    assert decide(replace(WELL, plan=plan, wave=1, advanced=1), NOW).kind is Kind.COMPLETE


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


def test_a_gate_that_tolerates_every_failure_lets_all_through() -> None:
    open_gate = Gate(confirmed_ratio=0, failure_ratio=1)
    plan = Plan(waves=tuple(wave.model_copy(update={"gate": open_gate}) for wave in PLAN.waves))

    for reached in (2, 60):
        lost = view(reached=reached, confirmed=0, silent=reached, excess=reached)
        assert decide(replace(WELL, plan=plan, regions=(lost,)), NOW).kind is Kind.OPEN_WAVE


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
    for busy in ({"waiting": 3}, {"in_flight": 3}):
        assert decide(replace(last, regions=(view(), view(US, **busy))), NOW).kind is Kind.NOTHING


@pytest.mark.parametrize(
    ("reached", "under_way", "kind"),
    [(800, 16, Kind.COMPLETE), (800, 17, Kind.NOTHING), (49, 1, Kind.NOTHING), (49, 0, Kind.COMPLETE)],
)
def test_a_large_fleet_is_watched_while_the_last_of_those_who_come_back_update(
    reached: int, under_way: int, kind: Kind
) -> None:
    """One in fifty of those reached."""
    busy = view(reached=reached, confirmed=reached - under_way, in_flight=under_way)

    assert decide(replace(WELL, wave=2, regions=(busy,)), NOW).kind is kind


def test_a_watched_campaign_finishes_when_its_time_is_over() -> None:
    since = NOW - Policy().watch_s
    watched = replace(WELL, state=State.WATCHING, wave=2, watching_since=since, regions=(view(), view(US)))

    assert decide(watched, NOW - 1).kind is Kind.NOTHING
    assert decide(watched, NOW) == replace(
        decide(watched, NOW), kind=Kind.FINISH, sentence="Finished: 120 of 600 eligible devices confirmed the release."
    )


def test_what_is_found_while_a_campaign_is_watched_holds_it_for_those_who_come_late() -> None:
    watched = replace(WELL, state=State.WATCHING, wave=2, watching_since=NOW - 100, regions=(view(), view(US)))
    doubtful = Verdict(Call.HOLD, why="7 of 40 devices died within two days.")

    decision = decide(replace(watched, verdict=doubtful), NOW)

    assert (decision.kind, decision.cause) == (Kind.PAUSE, Cause.EVIDENCE)
    assert decision.sentence == "On hold: 7 of 40 devices died within two days."
    assert decide(replace(watched, verdict=Verdict(is_blind=True)), NOW).kind is Kind.NOTHING


def test_the_evidence_of_a_decision_has_every_region_and_is_plain_data() -> None:
    import json

    decision = decide(replace(WELL, regions=(view(silent=2), view(US))), NOW)

    stored = json.loads(json.dumps(decision.evidence))
    assert [entry["region"] for entry in stored["regions"]] == ["eu", "us"]
    counted = {"judged": 60, "silent": 2, "controls": 240, "control_silent": 1}
    assert stored["regions"][0] | counted == stored["regions"][0]
    assert stored["rule"]["call"] == "go"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (9000, "2.5 h")]
)
def test_durations_are_said_as_a_person_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nothing_to_decide_is_the_empty_decision() -> None:
    assert Decision() == NOTHING
