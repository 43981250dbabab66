"""A campaign played on the fleet as it is: what it costs, what it cannot see, and what the picture of a fleet is."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_store.errors import InvalidInputError
from server.cli.rehearsed import read_effect, rehearsed
from server.domain.identity import DeviceId
from server.domain.plan import Gate, MaintenanceWindow, Plan, Policy, Wave
from server.services.rehearsals import left_out
from server.services.replay.inventory import LOST_S, Picture, absences
from server.services.replay.rehearsal import Effect, Job, dump_job, lines, load_job, rehearse

DAY = 86_400.0
PLAN = Plan(
    waves=(
        Wave(ratio=None, count=5, ramp_s=300, soak_s=1800),
        Wave(ratio=0.5, count=None, ramp_s=900, soak_s=900),
        Wave(ratio=1.0, count=None, ramp_s=900, soak_s=900),
    )
)


def picture(count: int, **columns: Any) -> Picture:
    """So many devices of two regions and two classes, all of them here and seldom away."""
    plain = Picture(
        ids=[f"gw-{number:04}" for number in range(count)],
        regions=["eu", "us"],
        classes=["rev-a", "rev-b"],
        region=[number % 2 for number in range(count)],
        hardware=[number % 2 for number in range(count)],
        site=[-1] * count,
        unsteady=[False] * count,
        by_habit=[False] * count,
        wake_s=[0] * count,
        absences=[0.0] * count,
        dark_s=[0.0] * count,
    )
    return replace(plain, **columns)


def job(count: int, **columns: Any) -> Job:
    return Job(picture(count, **columns), PLAN, Policy(), 60, 1_800_000_000)


def test_a_rehearsal_says_what_each_release_would_cost_and_when_each_wave_opens() -> None:
    heard: list[float] = []

    good, _, _, bad = rehearse(job(100), lambda done, _: heard.append(done), runs=1)

    assert (good.bricked, good.verdict, good.lost, good.stopped) == (0.0, "complete", 0, 0)
    opened = [at for at in good.opened if at is not None]
    assert len(opened) == 3
    assert opened == sorted(opened)
    assert opened[1] - opened[0] >= 2100
    assert (bad.bricked, bad.stopped) == (0.3, bad.runs)
    assert 0 < bad.lost <= bad.started < 30
    assert bad.opened[2] is None
    assert heard == sorted(heard)
    assert 0 <= heard[0] < heard[-1] <= 1


def test_a_job_goes_through_bytes_and_comes_out_as_lines() -> None:
    small = replace(job(6), plan=Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=60, soak_s=60),)))
    said: list[dict[str, Any]] = []

    again = load_job(dump_job(small))
    lines(again, said.append)

    assert again == small
    assert [line["complete"] for line in said] == [False] * (len(said) - 1) + [True]
    assert [effect["bricked"] for effect in said[-1]["effects"]] == [0.0, 0.01, 0.05, 0.3]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 60), st.sampled_from([0.0, 60.0, DAY, LOST_S, 3e7])), min_size=1, max_size=30))
def test_whoever_is_lost_stays_away_and_nobody_else_is_away_for_most_of_its_time(
    known: list[tuple[float, float]],
) -> None:
    here = picture(len(known), absences=[one for one, _ in known], dark_s=[dark for _, dark in known])

    away = absences(here, 60 * DAY, np.random.default_rng(1))

    gone = np.zeros(len(known))
    np.add.at(gone, away.device, away.end - away.start)
    for (_, dark), seconds in zip(known, gone.tolist(), strict=True):
        if dark >= LOST_S:
            assert seconds == 60 * DAY
        elif dark == 0:
            assert seconds < 40 * DAY


def test_devices_that_sleep_are_awake_once_in_each_interval() -> None:
    away = absences(picture(2, wake_s=[3600, 0]), DAY, np.random.default_rng(1))

    mine = away.end[away.device == 0] - away.start[away.device == 0]

    assert len(mine) in {24, 25}
    assert mine.max() in {3300, 3301}


def effect(bricked: float, **members: Any) -> dict[str, Any]:
    given = {"runs": 3, "stopped": 0, "verdict": "complete", "sentence": "", "started": 90, "lost": 0}
    given |= {"seconds": 7200.0, "completed_seconds": 7200.0, "opened": (60.0, None)}
    return asdict(Effect(bricked, **(given | members)))


def test_a_report_reads_as_text_and_says_what_the_policy_cannot_see() -> None:
    waves = [{"number": 2, "target": "5 devices", "regions": ["eu"]}, {"number": 3, "target": "100.0%", "regions": []}]
    effects = [
        effect(0.0),
        effect(0.01, lost=1),
        effect(0.05, stopped=2, lost=4, seconds=1200.0),
        effect(0.3, stopped=3, started=5, lost=2, seconds=1200.0, sentence="Halted."),
    ]

    report = {"devices": 90, "rehearsed": 90, "waves": waves, "left_out": ["the word of a person, for wave 2"]}
    text = "\n".join(rehearsed(report | {"effects": effects}))

    assert text.startswith("Rehearsed for 90 devices (all of them), by how often each was away lately.\n")
    assert "A good release is through after 2.0 h.\n  wave 2: 5 devices eu opens after 60 s\n" in text
    assert "  wave 3: 100.0% does not open" in text
    assert "bricks 1% is not stopped in any of 3 runs: 90 devices started, 1 lost. This policy cannot see it" in text
    assert "bricks 5% is stopped in 2 of 3 runs only: 90 devices started, 4 lost (median), after 20 min." in text
    assert "bricks 30% is stopped in 3 of 3 runs after 20 min: 5 devices started, 2 lost. Halted." in text
    assert "Left out: the word of a person, for wave 2." in text


@pytest.mark.parametrize(("text", "share"), [("brick=2%", 0.02), ("brick=0.02", 0.02), ("brick=100%", 1.0)])
def test_an_effect_is_a_share_of_the_devices(text: str, share: float) -> None:
    assert read_effect(text) == {"kind": "brick", "share": share}


@pytest.mark.parametrize("text", ["brick", "brick=", "brick=0", "brick=2", "brick=101%", "brick=x%", "melt=2%", "2%"])
def test_what_is_no_effect_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="An effect is brick=2%"):
        read_effect(text)


def test_only_the_bad_releases_that_were_asked_for_are_played() -> None:
    small = replace(job(6), plan=Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=60, soak_s=60),)), bricked=(0.5,))

    effects = rehearse(small, lambda done, what: None, runs=1)

    assert [effect.bricked for effect in effects] == [0.0, 0.5]


def test_what_a_rehearsal_does_not_play_is_named() -> None:
    waves = (
        Wave(ratio=None, count=None, devices=(DeviceId("gw-1"),)),
        Wave(ratio=0.5, count=None, gate=Gate(manual=True)),
        Wave(ratio=1.0, count=None, gate=Gate(manual=True, webhook="https://gate.example/")),
    )
    night = MaintenanceWindow(opens="0 2 * * *", duration_s=3600)
    policy = Policy(windows=(night,), region_bytes_per_s_most=1_000_000, site_reboots_most=1, in_flight_most=10)

    said = left_out(Plan(waves=waves), policy)

    assert [what.partition(":")[0] for what in said] == [
        "maintenance windows",
        "the cap on bytes of a region",
        "the cap on reboots of a site",
        "devices that are let in by name, in wave 1",
        "the word of a person, for waves 2, 3",
        "the word of a webhook, for wave 3",
    ]
    assert left_out(PLAN, Policy()) == ()
