"""The halt rule against independent oracles, and its error over a whole campaign by simulation."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod

import pytest
from scipy.stats import binomtest, fisher_exact, hypergeom

from server.domain.fisher import Table, Verdict, excess_silent, judge, lower_bound, merge, p_value, upper_bound
from server.domain.plan import Policy

POLICY = Policy()
PER_LOOK = POLICY.alpha / POLICY.max_looks


def table(judged: int, silent: int, controls: int, control_silent: int, region: str = "eu") -> Table:
    return Table(region, judged, silent, controls, control_silent)


ONE_STRATUM = [
    table(5, 2, 295, 0),
    table(10, 2, 500, 0),
    table(10, 0, 500, 3),
    table(10, 10, 10, 10),
    table(10, 3, 500, 5),
    table(200, 3, 4000, 4),
    table(1000, 60, 10_000, 500),
    table(3, 3, 40, 0),
    table(7, 1, 20, 19),
    table(40, 12, 20, 6),
    table(1, 1, 1, 0),
    table(60, 30, 240, 1),
]


@pytest.mark.parametrize("one", ONE_STRATUM, ids=str)
def test_one_region_is_fishers_exact_test(one: Table) -> None:
    counts = [[one.silent, one.judged - one.silent], [one.control_silent, one.controls - one.control_silent]]

    assert p_value([one]) == pytest.approx(fisher_exact(counts, alternative="greater").pvalue, rel=1e-9, abs=0)


def enumerated(tables: Sequence[Table]) -> float:
    """Every way in which chance can spread the silent devices of each region, weighed and counted."""
    total = sum(one.silent for one in tables)
    laws = [hypergeom(t.judged + t.controls, t.silent + t.control_silent, t.judged) for t in tables]
    ranges = [range(t.judged + 1) for t in tables]
    return float(
        sum(
            prod(law.pmf(x) for law, x in zip(laws, ways, strict=True))
            for ways in product(*ranges)
            if sum(ways) >= total
        )
    )


@pytest.mark.parametrize(
    "tables",
    [
        [table(5, 2, 30, 0), table(4, 1, 25, 3)],
        [table(8, 0, 20, 4), table(6, 3, 20, 1), table(5, 0, 40, 0)],
        [table(3, 3, 20, 20), table(9, 1, 22, 2), table(2, 0, 21, 5), table(4, 2, 20, 0)],
    ],
    ids=["two regions", "three regions", "four regions"],
)
def test_several_regions_are_the_sum_over_every_way_chance_can_take(tables: list[Table]) -> None:
    assert p_value(tables) == pytest.approx(enumerated(tables), rel=1e-9, abs=0)


def test_a_region_that_nobody_was_updated_in_says_nothing() -> None:
    assert p_value([table(10, 2, 500, 0), table(0, 0, 300, 40)]) == pytest.approx(p_value([table(10, 2, 500, 0)]))


def test_regions_are_compared_with_their_own_neighbours_only() -> None:
    """A carrier is down in one region: half of its devices are silent, updated or not."""
    out, well = table(20, 16, 40, 32, "us"), table(20, 0, 200, 0, "eu")

    assert p_value([out, well]) > 0.5
    assert p_value([merge([out, well])]) < PER_LOOK


def test_no_silent_device_is_no_evidence() -> None:
    assert p_value([table(100, 0, 200, 50)]) == pytest.approx(1)
    assert p_value([]) == 1


@pytest.mark.parametrize("impossible", [table(1, 2, 5, 0), table(1, 0, 5, 6), table(1, -1, 5, 0)], ids=str)
def test_a_table_that_cannot_be_is_a_mistake_of_ours(impossible: Table) -> None:
    with pytest.raises(ValueError, match="more silent devices than devices"):
        p_value([impossible])


def test_a_million_devices_are_looked_at_in_no_time() -> None:
    """The look is taken on the event loop, between two batches of reports."""
    fleet = [table(25_000, 120, 100_000, 430, f"r{n}") for n in range(8)]
    began = time.perf_counter()

    p = p_value(fleet)

    assert time.perf_counter() - began < 3
    assert 0 < p < 1


def test_a_tiny_probability_is_not_lost_in_rounding() -> None:
    exact = fisher_exact([[20, 80], [0, 10_000]], alternative="greater").pvalue

    assert p_value([table(100, 20, 10_000, 0)]) == pytest.approx(exact, rel=1e-6, abs=0)
    assert exact < 1e-40


def test_what_is_as_good_as_impossible_is_not_reported_as_zero() -> None:
    assert p_value([table(1000, 1000, 10_000, 0)]) == pytest.approx(1e-60, abs=0)


# --- one look ---


def look(tables: Sequence[Table], *, looks: int = 0, seen_silent: int = 0, policy: Policy = POLICY) -> Verdict:
    return judge(tables, policy, looks=looks, seen_silent=seen_silent)


def test_far_more_silent_devices_than_among_the_neighbours_halt() -> None:
    verdict = look([table(10, 4, 290, 1)])

    assert verdict.halt
    assert verdict.rule == "silence"
    assert verdict.p_value is not None
    assert verdict.p_value <= PER_LOOK


def test_as_many_silent_devices_as_among_the_neighbours_do_not_halt() -> None:
    assert not look([table(100, 5, 200, 10)]).halt


def test_an_outage_that_takes_everybody_does_not_halt() -> None:
    assert not look([table(60, 60, 240, 240)]).halt


def test_fewer_than_five_judged_are_not_looked_at() -> None:
    assert look([table(4, 4, 290, 0)]) == Verdict(halt=False, looks=0)


def test_a_look_is_spent_only_when_another_device_has_fallen_silent() -> None:
    tables = [table(50, 3, 250, 9)]

    assert look(tables, looks=4, seen_silent=2).looks == 5
    assert look(tables, looks=4, seen_silent=3).looks == 4
    assert look([table(60, 0, 240, 9)], looks=4).looks == 4


def test_no_more_looks_are_taken_than_the_error_is_shared_among() -> None:
    damning = [table(50, 40, 250, 0)]

    assert look(damning, looks=POLICY.max_looks - 1).halt
    assert look(damning, looks=POLICY.max_looks) == Verdict(halt=False, looks=POLICY.max_looks)


def test_each_look_gets_an_equal_share_of_the_error() -> None:
    borderline = [table(10, 2, 290, 1)]
    p = p_value(borderline)

    assert look(borderline, policy=replace_policy(alpha=p * 1.01, max_looks=1)).halt
    assert not look(borderline, policy=replace_policy(alpha=p * 1.01, max_looks=2)).halt


def replace_policy(**changes: float) -> Policy:
    return Policy.model_validate({**POLICY.model_dump(), **changes})


def test_a_region_short_of_controls_is_judged_by_the_whole_fleet() -> None:
    short, rich = table(30, 6, 5, 0, "us"), table(0, 0, 400, 2, "eu")

    verdict = look([short, rich])

    assert verdict.halt
    assert verdict.p_value == pytest.approx(p_value([merge([short, rich])]))


# --- the guard rail ---


@pytest.mark.parametrize(
    ("judged", "silent", "halts"),
    [(3, 3, True), (15, 3, True), (16, 3, False), (2, 2, False), (100, 19, False), (100, 20, True)],
)
def test_without_controls_three_silent_and_a_fifth_of_the_judged_halt(judged: int, silent: int, halts: bool) -> None:
    verdict = look([table(judged, silent, POLICY.min_controls - 1, 0)])

    assert verdict.halt is halts
    assert verdict.rule == "rail"
    assert verdict.p_value is None


def test_the_guard_rail_needs_no_looks() -> None:
    assert look([table(10, 5, 0, 0)], looks=POLICY.max_looks, seen_silent=5).halt


# --- excess and bounds ---


@pytest.mark.parametrize(
    ("one", "excess"),
    [(table(100, 5, 200, 10), 0), (table(100, 8, 200, 10), 3), (table(100, 1, 200, 10), 0), (table(9, 4, 0, 0), 4)],
    ids=["as the neighbours", "more", "fewer", "no neighbours"],
)
def test_excess_is_what_the_neighbours_do_not_explain(one: Table, excess: float) -> None:
    assert excess_silent(one) == pytest.approx(excess)


def test_bounds_enclose_what_was_seen_and_close_in_with_more_trials() -> None:
    few, many = (lower_bound(1, 10), upper_bound(1, 10)), (lower_bound(100, 1000), upper_bound(100, 1000))

    assert few[0] < many[0] < 0.1 < many[1] < few[1]


@pytest.mark.parametrize(("failures", "trials"), [(0, 3), (1, 10), (8, 120), (50, 50)])
def test_the_bounds_are_wilsons(failures: int, trials: int) -> None:
    interval = binomtest(failures, trials).proportion_ci(confidence_level=0.9, method="wilson")

    assert (lower_bound(failures, trials), upper_bound(failures, trials)) == pytest.approx(
        (interval.low, interval.high)
    )


def test_where_nothing_was_tried_anything_is_possible() -> None:
    assert (lower_bound(0, 0), upper_bound(0, 0)) == (0, 1)


# --- a whole campaign ---


def campaign(seed: int, *, brick: float, dark: float, devices: int = 400, regions: int = 4) -> tuple[bool, int]:
    """One rollout in steps of 2 % of the fleet, with a look after each; returns whether it halted and how many
    devices had been updated by then. ``dark``: how likely a well device is to be silent over a window.
    """
    rng = random.Random(seed)
    size = devices // regions
    judged, silent = [0] * regions, [0] * regions
    looks = seen = 0
    for _ in range(50):
        for region in range(regions):
            for _ in range(min(size - judged[region], max(1, size // 50))):
                judged[region] += 1
                silent[region] += rng.random() < dark + (1 - dark) * brick
        tables = []
        for region in range(regions):
            controls = size - judged[region]
            quiet = sum(rng.random() < dark for _ in range(controls))
            tables.append(table(judged[region], silent[region], controls, quiet, f"r{region}"))
        verdict = judge(tables, POLICY, looks=looks, seen_silent=seen)
        if verdict.halt:
            return True, sum(judged)
        if verdict.looks > looks:
            looks, seen = verdict.looks, sum(silent)
    return False, sum(judged)


@pytest.mark.parametrize("dark", [0.002, 0.02, 0.08])
def test_a_harmless_release_is_halted_less_often_than_alpha_over_all_looks(dark: float) -> None:
    runs = 200

    halts = sum(campaign(seed, brick=0, dark=dark)[0] for seed in range(runs))

    assert halts <= POLICY.alpha * runs


def test_a_release_that_bricks_30_percent_is_halted_after_a_few_devices() -> None:
    outcomes = [campaign(seed, brick=0.3, dark=0.01) for seed in range(100)]

    assert all(halted for halted, _ in outcomes)
    updated = sorted(count for _, count in outcomes)
    assert updated[50] <= 16
    assert updated[-1] <= 60


def test_a_release_that_bricks_5_percent_is_halted_before_half_of_the_fleet() -> None:
    outcomes = [campaign(seed, brick=0.05, dark=0.002, devices=2000) for seed in range(30)]

    assert sum(halted and updated <= 1000 for halted, updated in outcomes) >= 27


def test_a_merged_table_is_named_after_the_region_with_the_most_silence() -> None:
    merged = merge([table(5, 1, 30, 0, "eu"), table(7, 4, 20, 2, "us")])

    assert merged == Table("us", 12, 5, 50, 2)
    assert merge([]) == replace(merged, region="", judged=0, silent=0, controls=0, control_silent=0)
