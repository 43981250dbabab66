"""Scenarios in virtual time: whole runs of small fleets, with the agent's own core and the server's own decisions."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from device_sim.scenario.cast import draw_cast
from device_sim.scenario.expectations import judge
from device_sim.scenario.faults import Brick, Mode
from device_sim.scenario.load import load, shipped
from device_sim.scenario.model import Scenario
from device_sim.scenario.outcome import CampaignOutcome, Outcome
from device_sim.virtual.again import replay
from device_sim.virtual.run import play, run
from device_sim.virtual.trace import Trace
from firmware_store.errors import InvalidInputError

PLAYABLE = [name for name in shipped() if Mode.VIRTUAL in load(name).modes]
DEVICES = 60
"""Enough not to be a small fleet, which goes step by step."""
STRUCK = {"share": "20%"}
"""Of these."""
VICTIMS = 12
ALL = {"share": "100%"}


def scenario(
    effects=(), faults=(), *, duration="90m", at=0, watch_s=0, fleet=None, link=None, release=None, **more
) -> Scenario:
    """One campaign that lets everybody in at once, and is stopped by nothing."""
    unlimited = {"class_room": 1e8, "region_room": 1e8, "sleeper_room": 1e8, "slow_room": 1000}
    lenient = {"explicit_ratio": 0.99, "bare_silent": 1000, "rail_excess": 1000, "brake_at": 1e8, "halt_at": 1e9}
    gate = {"failure_ratio": 1.0, "confirmed_ratio": 0.0}
    return Scenario.model_validate(
        {
            "name": "small",
            "story": "A test of its own.",
            "duration": duration,
            "devices": DEVICES,
            "links": {"line": link or {}},
            "fleet": [{"share": "100%", "region": "eu", "hardware": "gw", "link": "line", **(fleet or {})}],
            "releases": [{"version": "1.1.0", "effects": [{**STRUCK, **one} for one in effects], **(release or {})}],
            "campaigns": [
                {
                    "release": "1.1.0",
                    "at": at,
                    "plan": {"waves": [{"ratio": 1.0, "ramp_s": 0, "soak_s": 0, "gate": gate}]},
                    "policy": {"watch_s": watch_s, "confirm_s": 1800, "halt": {**unlimited, **lenient}},
                }
            ],
            "faults": list(faults),
            **more,
        }
    )


def played(one: Scenario, seed: int = 1) -> tuple[CampaignOutcome, list[dict]]:
    lines: list[str] = []
    outcome = play(draw_cast(one, seed=seed), Trace(lines.append))
    return outcome.campaigns[-1], [json.loads(line) for line in lines[1:]]


def events(trace: list[dict], event: str) -> list[dict]:
    return [line for line in trace if line["event"] == event]


# --- shipped scenarios ---


@pytest.mark.parametrize(("number", "name"), list(enumerate(PLAYABLE)), ids=PLAYABLE)
def test_a_shipped_scenario_comes_to_what_it_expects(number: int, name: str) -> None:
    chosen = load(name)
    outcome = asyncio.run(run(chosen, devices=120, seed=1 + number % 3))

    assert [finding for finding in judge(chosen, outcome) if not finding.held] == []
    assert judge(chosen, outcome)


def test_the_same_seed_gives_the_same_trace_in_every_process_and_another_one_another() -> None:
    code = (
        "import asyncio, sys; from device_sim.scenario.load import load; from device_sim.virtual.run import run;"
        "print(asyncio.run(run(load('bad-release'), devices=40, seed=int(sys.argv[1]))).digest)"
    )

    def digest(seed: int, hash_seed: str) -> str:
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.check_output([sys.executable, "-c", code, str(seed)], text=True, env=environment)

    assert digest(1, "1") == digest(1, "2") != digest(2, "1")


def test_a_recorded_run_is_run_again_and_found_to_be_the_same(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with path.open("w") as file:
        outcome = asyncio.run(run(scenario(), seed=4, trace=file))
    again = replay(path)

    assert (again.line, again.digest) == (None, outcome.digest)

    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:5], lines[5].replace('"at":', '"at":1'), *lines[6:]]))

    assert replay(path).line == 6

    path.write_text("".join(lines[:-1]))

    assert replay(path).line == len(lines)

    path.write_text("".join([*lines, lines[-1]]))

    assert replay(path).line == len(lines) + 1


def test_what_is_no_trace_is_not_replayed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"event":"cast"}\n')
    with pytest.raises(InvalidInputError):
        replay(path)


def test_a_scenario_for_the_wire_is_not_played() -> None:
    with pytest.raises(InvalidInputError):
        asyncio.run(run(scenario(modes=["wire"])))


# --- what releases do ---


def test_a_good_release_reaches_everybody() -> None:
    found, _ = played(scenario())

    assert (found.state, found.confirmed, found.reachable_unconfirmed) == ("finished", DEVICES, 0)
    assert (found.reasons, found.stopped_by) == ({}, "")


@pytest.mark.parametrize(
    ("effect", "reason"),
    [
        ({"fault": "hang"}, "boot_failed"),
        ({"fault": "boot-loop"}, "boot_failed"),
        ({"fault": "no-network"}, "no_broker"),
        ({"fault": "no-network", "after": "4m"}, "line_lost"),
        ({"fault": "never-confirms"}, "trial_deadline"),
        ({"fault": "unhealthy"}, "health_check_failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_a_release_that_does_not_prove_itself_is_left_for_the_old_one(effect: dict, reason: str) -> None:
    found, _ = played(scenario([effect]))

    assert (found.updated, found.reverted, found.bricked) == (DEVICES, VICTIMS, 0)
    assert (found.confirmed, found.reasons) == (DEVICES - VICTIMS, {reason: VICTIMS})


@pytest.mark.parametrize("effect", [{"fault": "brick"}, {"fault": "brick", "after": "10m"}, {"fault": "app-dies"}])
def test_devices_that_go_dark_for_good_are_lost(effect: dict) -> None:
    found, trace = played(scenario([effect]))

    assert (found.bricked, found.reachable_unconfirmed) == (VICTIMS, 0)
    assert found.confirmed == (DEVICES if "after" in effect else DEVICES - VICTIMS)
    lost = {line["who"]: line["at"] for line in [*events(trace, "bricked"), *events(trace, "died")]}
    assert not [line for line in trace if line["at"] > lost.get(line["who"], 1e9)]


def test_the_same_devices_are_lost_that_the_cast_says() -> None:
    one = scenario([{"fault": "brick"}])
    _, trace = played(one)
    cast = draw_cast(one, seed=1)

    victims = {role.id for role in cast.roles if role.effect(Brick, "1.1.0") is not None}
    assert len(victims) == VICTIMS
    assert {line["who"] for line in events(trace, "bricked")} == victims


def test_a_device_that_lies_is_believed_in_what_it_says_of_itself() -> None:
    found, trace = played(scenario([{"fault": "unhealthy", **ALL}, {"fault": "lies", **ALL}], watch_s=1800))

    assert (found.confirmed, found.reverted, found.state) == (0, DEVICES, "finished")
    assert found.sentence == f"Finished: {DEVICES} of {DEVICES} eligible devices confirmed the release."
    assert not events(trace, "confirmed")


def test_a_release_that_crashes_restarts_its_devices() -> None:
    found, trace = played(scenario([{"fault": "crash-rate", "per_hour": 60, "after": "6m"}]))

    assert found.confirmed == DEVICES
    assert len(events(trace, "crashed")) > VICTIMS


def test_a_release_that_flaps_loses_its_line_again_and_again() -> None:
    found, trace = played(scenario([{"fault": "flapping", "every": "10m", "off": "20s", "after": "6m"}]))

    assert found.confirmed == DEVICES
    assert len(events(trace, "connected")) > 2 * DEVICES + VICTIMS * 5


# --- what is published, and how it arrives ---


def test_a_release_that_strangers_have_signed_is_refused() -> None:
    found, _ = played(scenario(release={"defect": "wrong-key"}))

    assert (found.state, found.updated) == ("refused", 0)


@pytest.mark.parametrize(
    ("defect", "reason"),
    [("wrong-digest", "image_mismatch"), ("flipped", "chunk_mismatch"), ("truncated", "chunk_mismatch")],
)
def test_bytes_that_were_not_signed_are_never_booted(defect: str, reason: str) -> None:
    found, _ = played(scenario(release={"defect": defect}))

    assert (found.updated, found.failed, found.confirmed) == (0, DEVICES, 0)
    assert found.reasons == {reason: DEVICES}


def test_a_download_takes_as_long_as_the_line_needs_for_it() -> None:
    line = {"bandwidth": "32KiB/s", "latency": "1s"}
    _, trace = played(scenario(link=line, release={"size": "4MiB"}))
    started = {one["who"]: one["at"] for one in events(trace, "started")}
    took = [one["at"] - started[one["who"]] for one in events(trace, "written")]

    assert len(took) == DEVICES
    assert all(128 < seconds < 140 for seconds in took)


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "loss", "loss": "30%"},
        {"fault": "latency", "latency": "2s", "jitter": "1s"},
        {"fault": "duplicate"},
        {"fault": "late", "delay": "90s", "ratio": "20%"},
        {"fault": "reordered"},
        {"fault": "flapping", "every": "8m", "off": "30s"},
        {"fault": "bandwidth", "bandwidth": "2KiB/s"},
        {"fault": "slow-storage", "bandwidth": "2KiB/s"},
        {"fault": "broker-restart", "at": "3m", "for": "2m"},
        {"fault": "regional-outage", "at": "1m", "for": "20m"},
        {"fault": "power-cut", "during": "downloading"},
        {"fault": "power-cut", "during": "installing"},
        {"fault": "power-cut", "during": "trial"},
        {"fault": "power-cut", "during": "confirming"},
        {"fault": "power-cut", "step": 3},
        {"fault": "power-cut", "at": "4m"},
        {"fault": "skew", "rate": 1.5},
        {"fault": "skew", "rate": 0.8},
        {"fault": "jump", "by": "10m", "at": "2m"},
        {"fault": "no-clock"},
        {"fault": "replays"},
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_a_good_release_survives(fault: dict) -> None:
    found, _ = played(scenario(faults=[{**({} if fault["fault"] == "broker-restart" else STRUCK), **fault}]))

    assert (found.confirmed, found.reachable_unconfirmed) == (DEVICES, 0)
    assert (found.bricked, found.failed) == (0, 0)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("full", "storage_full"), ("write-error", "storage_error"), ("torn-write", "image_mismatch")],
)
def test_a_medium_that_fails_fails_the_update_and_nothing_else(fault: str, reason: str) -> None:
    found, _ = played(scenario(faults=[{"fault": fault, **STRUCK}]))

    assert (found.updated, found.failed, found.bricked) == (DEVICES - VICTIMS, VICTIMS, 0)
    assert found.reasons == {reason: VICTIMS}


def test_a_power_cut_is_seen_and_what_was_under_way_goes_on() -> None:
    found, trace = played(scenario(faults=[{"fault": "power-cut", "at": "4m", "for": "5m", **STRUCK}]))

    cut = {line["who"] for line in events(trace, "power_cut")}
    assert 0 < len(cut) <= VICTIMS  # whoever was between two boots had no power to lose
    assert not [line for line in trace if line["who"] in cut and 240 < line["at"] < 540]
    assert found.confirmed == DEVICES


# --- who is away, and who sleeps ---


def test_devices_that_come_back_late_are_let_in() -> None:
    outage = {"fault": "regional-outage", "at": 0, "for": "30m", **STRUCK}
    found, trace = played(scenario(faults=[outage], at="5m", watch_s=7200, duration="3h"))

    assert len([line for line in trace if line.get("reason") == "late"]) == VICTIMS
    assert found.confirmed == DEVICES


def test_devices_that_sleep_are_let_in_when_they_wake() -> None:
    found, trace = played(scenario(fleet={"wake_interval": "15m", "awake": "20s"}, watch_s=14400, duration="6h"))

    assert {line["who"] for line in trace if line.get("reason") == "late"} == {f"lab-{n:06}" for n in range(DEVICES)}
    assert found.confirmed == DEVICES
    assert len(events(trace, "connected")) < DEVICES * 6  # wakes that find nothing to do are not lived through


def test_another_campaign_supersedes_the_one_before() -> None:
    one = scenario(duration="5h")
    second = one.campaigns[0].model_copy(update={"release": "1.2.0", "at": 9000.0})
    two = one.model_copy(
        update={
            "releases": (*one.releases, one.releases[0].model_copy(update={"version": "1.2.0"})),
            "campaigns": (*one.campaigns, second),
        }
    )
    outcome: Outcome = play(draw_cast(two, seed=1), Trace())

    assert [found.updated for found in outcome.campaigns] == [DEVICES, DEVICES]
    assert [found.confirmed for found in outcome.campaigns] == [0, DEVICES]
    assert outcome.course[-1].confirmed == DEVICES
    assert [found.reachable_unconfirmed for found in outcome.campaigns] == [DEVICES, 0]


# --- the command ---


def sim(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "sim", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_plays_in_virtual_time_writes_a_trace_and_plays_it_again(tmp_path: Path) -> None:
    trace, report = tmp_path / "trace.jsonl", tmp_path / "report"
    virtual = ("run", "boot-loop", "--mode", "virtual")

    played = sim(*virtual, "--devices", "60", "--ledger", str(trace), "--report", str(report))
    again = sim("replay", str(trace))
    trace.write_text(trace.read_text() + "{}\n")

    assert played.returncode == again.returncode == 0
    assert "boot_failed" in (report / "report.json").read_text()
    assert "the same" in again.stdout
    assert sim("replay", str(trace)).returncode == 1
    assert "no speed" in sim(*virtual, "--speed", "10").stderr


@pytest.mark.parametrize(
    "more",
    [
        {"release": {"defect": "expired"}},
        {"faults": [{"fault": "session-takeover"}]},
        {"faults": [{"fault": "wrong-delta-base"}]},
    ],
)
def test_what_needs_the_wire_must_say_so(more: dict) -> None:
    with pytest.raises(ValueError, match="say so under modes"):
        scenario(**more)

    assert scenario(**more, modes=["wire"]).modes == {Mode.WIRE}
