"""Plans and policies: what is stored is what was validated, and what cannot be carried out is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from server.domain.identity import Region
from server.domain.plan import Gate, Plan, Policy, Wave, default_plan

EU, US = Region("eu"), Region("us")


@pytest.mark.parametrize(("devices", "canary"), [(0, 1), (1, 1), (99, 1), (1000, 10), (20_000, 200), (1_000_000, 200)])
def test_the_default_canary_is_one_percent_of_the_first_region_within_1_and_200(devices: int, canary: int) -> None:
    first = default_plan((EU, US), devices).waves[0]

    assert first.count == canary
    assert first.regions == (EU,)
    assert first.soak_s == 8 * 3600


def test_the_default_plan_goes_region_by_region_to_85_percent_and_then_everywhere() -> None:
    waves = default_plan((EU, US), 1000).waves

    assert [(wave.regions, wave.ratio) for wave in waves[1:]] == [((EU,), 0.85), ((US,), 0.85), ((), 0.95), ((), 1.0)]


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
    with pytest.raises(ValidationError, match="silence_deadline_s must be longer"):
        Policy(reboot_s=120, silence_deadline_s=120)


NUMBERS = sorted(name for name, field in Policy.model_fields.items() if field.annotation in (int, float))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300, 10**40, -1], ids=str)
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_no_clock_or_count_can_reach_is_refused(name: str, value: float) -> None:
    """One stored policy that cannot be read or computed with would stop the evaluation of its campaign for good."""
    with pytest.raises(ValidationError):
        Policy.model_validate({name: value})


@pytest.mark.parametrize("name", ["ratio", "count"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300, 10**40])
def test_a_target_that_is_no_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Wave.model_validate({name: value})


def test_plan_and_policy_come_back_from_their_json() -> None:
    plan, policy = default_plan((EU, US), 5000), Policy(reboot_s=2.5, silence_deadline_s=7, on_halt="keep")

    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
