"""Who plays in a scenario: the same seed has the same cast, and shares hold."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.scenario.absences import merged
from device_sim.scenario.cast import Cast, draw_cast, shares_of
from device_sim.scenario.faults import Brick
from device_sim.scenario.load import load, shipped
from device_sim.scenario.model import Scenario

SEEDS = st.integers(0, 2**32)


def scenario(**changes: Any) -> Scenario:
    document = {
        "name": "small",
        "story": "A scenario for these tests.",
        "duration": "1d",
        "fleet": [
            {"share": "75%", "region": "eu", "hardware": "rev-b", "sites": 5},
            {"share": "25%", "region": "us", "hardware": "rev-c"},
        ],
        "releases": [{"version": "1.1.0"}],
        "campaigns": [{"release": "1.1.0"}],
        **changes,
    }
    return Scenario.model_validate(document)


def bricked(cast: Cast) -> set[str]:
    return {role.id for role in cast.roles if role.effect(Brick, "1.1.0")}


def with_brick(share: str, **about: str) -> Scenario:
    return scenario(releases=[{"version": "1.1.0", "effects": [{"fault": "brick", "share": share, **about}]}])


@pytest.mark.parametrize("name", shipped())
def test_the_same_seed_has_the_same_cast_and_another_one_another(name: str) -> None:
    first, again, other = (draw_cast(load(name), devices=50, seed=seed) for seed in (1, 1, 2))

    assert first.roles == again.roles
    assert first.digest == again.digest != other.digest


@given(st.integers(1, 5000), st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_whole_devices_are_dealt_as_nearly_as_can_be(whole: int, parts: list[int]) -> None:
    shares = [part / sum(parts) for part in parts]
    counts = shares_of(whole, shares)

    assert sum(counts) == whole
    assert all(abs(count - whole * share) < 1 for count, share in zip(counts, shares, strict=True))


@given(SEEDS, st.integers(4, 200))
def test_groups_and_effects_have_their_shares(seed: int, devices: int) -> None:
    cast = draw_cast(with_brick("30%", hardware="rev-b"), devices=devices, seed=seed)
    about = [role for role in cast.roles if role.hardware == "rev-b"]

    assert len(cast) == devices
    assert abs(len(about) - 0.75 * devices) < 1
    assert len(bricked(cast)) == round(0.3 * len(about))
    assert bricked(cast) <= {role.id for role in about}


@given(SEEDS)
def test_a_higher_share_only_adds_devices(seed: int) -> None:
    few, many = (bricked(draw_cast(with_brick(share), devices=80, seed=seed)) for share in ("10%", "40%"))

    assert few < many


@given(SEEDS)
def test_absences_are_in_order_and_apart(seed: int) -> None:
    restless = scenario(
        fleet=[
            {
                "share": "100%",
                "region": "eu",
                "hardware": "rev-b",
                "sites": 4,
                "offline": {"naps_per_day": 12, "diurnal": "50%", "site_outages_per_day": 2},
            }
        ],
        outages={"carrier_per_day": 3},
        faults=[{"fault": "flapping", "every": "10m", "off": "1m", "at": "2h", "for": "6h"}],
    )
    cast = draw_cast(restless, devices=12, seed=seed)

    for role in cast.roles:
        times = [time for span in role.absences for time in span]
        assert times == sorted(set(times))
        assert times[0] >= 0
        assert all(start < restless.duration for start, _ in role.absences)


@given(st.lists(st.tuples(st.floats(-100, 200), st.floats(-100, 200)), max_size=20), st.floats(0, 150))
def test_merged_spans_cover_what_the_spans_did(spans: list[tuple[float, float]], at: float) -> None:
    covered = any(start <= at < end for start, end in spans) and at < 120

    assert covered == (at < 120 and any(start <= at < end for start, end in merged(spans, 120)))


def test_an_outage_takes_a_region_away_for_its_time_and_nobody_else() -> None:
    outage = {"fault": "regional-outage", "region": "eu", "share": "50%", "at": "2h", "for": "1h"}
    cast = draw_cast(scenario(faults=[outage]), devices=40, seed=7)
    away = [role for role in cast.roles if role.is_away(2.5 * 3600)]

    assert len(away) == 15  # half of the 30 in eu
    assert {role.region for role in away} == {"eu"}
    assert not any(role.is_away(3600) or role.is_away(3.1 * 3600) for role in cast.roles)


def test_sites_are_dealt_out_and_grow_with_the_fleet() -> None:
    small, large = (draw_cast(scenario(devices=40), devices=devices, seed=1) for devices in (40, 80))
    sites = [{role.site for role in cast.roles if role.region == "eu"} for cast in (small, large)]

    assert [len(names) for names in sites] == [5, 10]
    assert {role.site for role in small.roles if role.region == "us"} == {""}


def test_nights_come_to_those_who_have_them() -> None:
    diurnal = {"share": "100%", "region": "eu", "hardware": "rev-b", "offline": {"diurnal": "25%"}, "begins": "12:00"}
    cast = draw_cast(scenario(fleet=[diurnal]), devices=100, seed=3)

    assert sum(role.is_away(14 * 3600) for role in cast.roles) == 25  # two in the morning
    assert not any(role.is_away(3600) for role in cast.roles)


def test_a_defect_on_the_way_strikes_everybody() -> None:
    cast = draw_cast(scenario(releases=[{"version": "1.1.0", "defect": "flipped"}]), devices=10, seed=1)

    assert all([fault.fault for fault in role.faults] == ["flipped"] for role in cast.roles)
