import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import beta

from bench.halt_quality import ungated
from bench.halt_quality_rules import Panel
from bench.halt_quality_summary import clopper_pearson, compare
from server.services.replay.run import replay
from server.services.replay.scenarios import make_trace
from server.services.replay.world import population_of
from tests.terminal import ROOT


@pytest.mark.parametrize(
    ("hits", "of"), [(0, 600), (1, 600), (6, 600), (50, 100), (99, 100), (100, 100), (0, 1), (1, 1)]
)
def test_the_interval_is_clopper_and_pearsons(hits, of):
    low, high = clopper_pearson(hits, of)

    assert low == pytest.approx(beta.ppf(0.025, hits, of - hits + 1) if hits else 0, abs=1e-9)
    assert high == pytest.approx(beta.ppf(0.975, hits + 1, of - hits) if hits < of else 1, abs=1e-9)


def stops(name):
    trace = make_trace(name, devices=2000, seed=1)
    population = population_of(trace)
    panel = Panel(population)
    replay(trace, panel, population, plan=ungated(population), watch=False, on_tick=panel.note)
    return panel.stops


def test_every_rule_stops_a_release_that_bricks_a_third():
    stopped = stops("brick-30")

    assert {"fixed-2", "fixed-5", "aws-20", "hawkbit-5", "z-test"} == set(stopped)
    assert all(stop.count is not None and stop.count.suffering > 0 for stop in stopped.values())
    assert stopped["z-test"].at <= stopped["fixed-2"].at <= stopped["aws-20"].at


def test_rules_that_only_look_at_the_updated_wait_for_a_hundred():
    stopped = stops("brick-30")

    assert stopped["fixed-2"].count.rebooted >= 100


def test_a_threshold_of_twenty_percent_never_sees_two():
    assert "aws-20" not in stops("brick-2")
    assert np.isfinite(stops("brick-2")["z-test"].at)


def line(seed, verdict="halt"):
    return {"scenario": "brick-5", "seed": seed, "code": f"of {seed}", "cpu_s": seed, "tidegate": {"verdict": verdict}}


def test_campaigns_that_end_otherwise_than_they_did_are_named():
    earlier = [line(seed) for seed in range(1, 21)]

    assert compare(earlier[:3], earlier) == (True, "3 of 3 campaigns end as they did.")
    assert compare([line(1), line(2, "hold")], earlier) == (
        False,
        "1 of 2 campaigns end as they did; not so brick-5 2.",
    )
    assert compare([*earlier[:19], line(20, "hold")], earlier).is_same
    assert compare([line(99)], earlier).is_same


def bench(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench.halt_quality", "--out", folder, "--scenario", "small-30-brick-30", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_bench_that_was_cut_short_goes_on_where_it_was(tmp_path):
    first = bench(tmp_path, "--seeds", "1")
    second = bench(tmp_path, "--seeds", "3")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "2/2 small-30-brick-30 3" in second.stderr
    lines = (tmp_path / "halt_quality/small-30-brick-30.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [1, 2, 3]
    summary = json.loads((tmp_path / "halt_quality.json").read_text())
    assert summary["scenarios"]["small-30-brick-30"]["campaigns"] == 3
    assert "small-30-brick-30" in (tmp_path / "halt_quality.md").read_text()


def test_results_of_other_code_are_not_counted(tmp_path):
    bench(tmp_path, "--seeds", "2")
    path = tmp_path / "halt_quality/small-30-brick-30.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(json.dumps({**json.loads(first), "code": "another"}) + "\n" + second + "\n")

    done = bench(tmp_path, "--seeds", "2")

    assert "1/1 small-30-brick-30 1" in done.stderr
