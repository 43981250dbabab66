"""Plans and policies: what is stored is what was validated, and what cannot be carried out is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from firmware_store.errors import InvalidInputError
from server.domain.halt import HaltPolicy
from server.domain.identity import Region
from server.domain.plan import NAMED_MOST, Gate, Plan, Policy, Wave, check_steps, default_plan

EU, US = Region("eu"), Region("us")


@pytest.mark.parametrize(("devices", "canary"), [(25, 1), (99, 1), (1000, 10), (20_000, 200), (1_000_000, 200)])
def test_the_default_canary_is_one_percent_of_the_first_region_within_1_and_200(devices: int, canary: int) -> None:
    first = default_plan((EU, US), devices).waves[0]

    assert first.count == canary
    assert first.regions == (EU,)
    assert first.soak_s == 8 * 3600


def test_the_default_plan_goes_region_by_region_to_85_percent_and_then_everywhere() -> None:
    waves = default_plan((EU, US), 1000).waves

    steps = [(wave.regions, wave.ratio) for wave in waves[1:]]
    assert steps[:3] == [((EU,), 0.85), ((US,), 0.85), ((), 0.95)]
    assert steps[3:] == [((), 0.9625), ((), 0.975), ((), 0.9875), ((), 1.0)]


@pytest.mark.parametrize(("devices", "counts"), [(0, [1]), (1, [1]), (3, [1]), (11, [1, 3, 10]), (24, [1, 3, 10])])
def test_a_small_fleet_goes_by_devices_and_then_region_by_region(devices: int, counts: list[int]) -> None:
    waves = default_plan((EU, US), devices).waves

    assert [(wave.regions, wave.count) for wave in waves[: len(counts)]] == [((EU,), count) for count in counts]
    assert [(wave.regions, wave.ratio) for wave in waves[len(counts) :]] == [((EU,), 1.0), ((US,), 1.0)]


@pytest.mark.parametrize(
    "wave",
    [
        {},
        {"ratio": 0.5, "count": 3},
        {"ratio": 0},
        {"ratio": 1.01},
        {"count": 0},
        {"ratio": 0.5, "ramp_s": -1},
        {"ratio": 0.5, "regions": ["EU"]},
        {"ratio": 0.5, "regions": ["+"]},
        {"ratio": 0.5, "soak": 3},
        {"ratio": "nan"},
    ],
    ids=str,
)
def test_a_wave_that_cannot_be_is_refused(wave: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Wave.model_validate(wave)


def test_a_plan_has_waves() -> None:
    with pytest.raises(ValidationError):
        Plan(waves=())


@pytest.mark.parametrize("gate", [{"failure_ratio": 0}, {"confirmed_ratio": 1.1}, {"min_reached": 0}], ids=str)
def test_a_gate_that_cannot_be_is_refused(gate: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Gate.model_validate(gate)


def test_a_deadline_before_the_reboot_is_over_is_refused() -> None:
    with pytest.raises(ValidationError, match="reboot_s must be shorter"):
        HaltPolicy(reboot_s=900)


def numbers(model: type[BaseModel]) -> list[str]:
    return sorted(name for name, field in model.model_fields.items() if field.annotation in (int, float))


NUMBERS = [(Policy, name) for name in numbers(Policy)] + [(HaltPolicy, name) for name in numbers(HaltPolicy)]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300, 10**40, -1], ids=str)
@pytest.mark.parametrize(("model", "name"), NUMBERS)
def test_a_number_that_no_clock_or_count_can_reach_is_refused(model: type[BaseModel], name: str, value: float) -> None:
    """One stored policy that cannot be read or computed with would stop the evaluation of its campaign for good."""
    with pytest.raises(ValidationError):
        model.model_validate({name: value})


@pytest.mark.parametrize("name", ["ratio", "count"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300, 10**40])
def test_a_target_that_is_no_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Wave.model_validate({name: value})


def test_plan_and_policy_come_back_from_their_json() -> None:
    plan, policy = default_plan((EU, US), 5000), Policy(halt=HaltPolicy(reboot_s=2.5, g1_s=7), on_halt="keep")

    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


# --- the largest step, and the holdout ---


def test_a_wave_that_raises_a_region_by_more_than_the_largest_step_is_refused_by_name() -> None:
    plan = Plan(waves=(Wave(ratio=0.2, count=None), Wave(regions=(US,), ratio=0.6, count=None)))

    with pytest.raises(InvalidInputError, match=r"Wave 2 raises us by 40\.0%.*largest step is 25\.0%") as caught:
        check_steps(plan, Policy(largest_step=0.25), {EU: 10, US: 10})
    assert caught.value.pointer == "/plan/waves/1"


def test_a_number_of_devices_is_a_share_of_the_region_it_is_for() -> None:
    plan = Plan(waves=(Wave(regions=(EU,), ratio=None, count=10),))

    check_steps(plan, Policy(largest_step=0.1), {EU: 100})
    with pytest.raises(InvalidInputError, match="raises eu by 50"):
        check_steps(plan, Policy(largest_step=0.1), {EU: 20})


def test_one_device_is_never_too_many() -> None:
    check_steps(Plan(waves=(Wave(ratio=None, count=1),)), Policy(largest_step=0.01), {EU: 3})


shares = st.floats(0.05, 1)


@given(shares, st.floats(0, 0.5), st.integers(0, 100_000))
def test_the_default_plan_keeps_to_the_largest_step_and_ends_at_the_holdout(
    largest: float, holdout: float, devices: int
) -> None:
    policy = Policy(largest_step=largest, holdout=holdout)

    plan = default_plan((EU, US), devices, largest_step=largest, holdout=holdout)

    check_steps(plan, policy, {EU: devices, US: devices})
    assert max(wave.ratio or 0 for wave in plan.waves) == pytest.approx(1 - holdout, abs=1e-5)


def test_a_default_plan_of_too_many_waves_is_refused_with_a_remedy() -> None:
    with pytest.raises(InvalidInputError, match="give one"):
        default_plan((EU, US), 1000, largest_step=0.01)


def test_an_emergency_does_not_soak() -> None:
    assert {wave.soak_s for wave in default_plan((EU, US), 1000).without_soak().waves} == {0}


# --- devices by name ---

BY_NAME = {"devices": ["gw-1", "gw-2"]}


@pytest.mark.parametrize(
    "waves",
    [
        [{**BY_NAME, "count": 2}],
        [{**BY_NAME, "ratio": 0.5}],
        [{**BY_NAME, "regions": ["eu"]}],
        [{"devices": []}],
        [{"devices": ["GW+1"]}],
        [{"devices": [f"gw-{number}" for number in range(NAMED_MOST + 1)]}],
        [{"devices": ["gw-1", "gw-1"]}],
        [BY_NAME, BY_NAME],
        [{"ratio": 0.5}, BY_NAME],
    ],
    ids=[
        "with a count",
        "with a ratio",
        "with regions",
        "nobody",
        "no id",
        "too many",
        "twice",
        "twice in two waves",
        "after a level",
    ],
)
def test_a_plan_names_devices_first_each_once_and_nothing_beside_them(waves: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError):
        Plan.model_validate({"waves": waves})


def test_named_waves_count_as_no_step_and_say_what_they_are_for() -> None:
    plan = Plan.model_validate({"waves": [BY_NAME, {"devices": ["gw-3"]}, {"ratio": 0.1}]})

    check_steps(plan, Policy(largest_step=0.1), {EU: 100})
    assert [wave.target for wave in plan.waves] == ["2 named devices", "1 named device", "10.0%"]
    assert plan.named(1) == {"gw-1", "gw-2"}
    assert plan.named(3) == {"gw-1", "gw-2", "gw-3"}
