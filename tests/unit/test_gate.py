"""Heights, levels and ramps: who is due, and when."""

from hashlib import sha256
from uuid import UUID

import pytest

from firmware_store.errors import InvalidInputError
from server.domain.gate import FULL, Ramp, height, is_due, level_for_count, level_for_ratio
from server.domain.identity import CampaignId, DeviceId

CAMPAIGN = CampaignId(UUID("0190b5c0-7a3c-7def-8123-456789abcdef"))
DEVICE = DeviceId("gw-0001")
NOW = 1_800_000_000


def test_a_height_is_the_first_four_bytes_of_the_hash_of_campaign_and_device() -> None:
    digest = sha256(bytes.fromhex("0190b5c07a3c7def8123456789abcdef") + b"gw-0001").digest()

    assert height(CAMPAIGN, DEVICE) == int.from_bytes(digest[:4], "big")


def test_a_height_is_the_same_for_ever() -> None:
    assert height(CAMPAIGN, DEVICE) == 0xFCA99117


def test_a_device_has_another_height_in_another_campaign() -> None:
    assert height(CAMPAIGN, DEVICE) != height(CampaignId(UUID(int=1)), DEVICE)


@pytest.mark.parametrize(("ratio", "level"), [(0, 0), (0.25, FULL // 4), (1, FULL), (1e-9, 4)])
def test_a_ratio_is_that_share_of_the_full_level(ratio: float, level: int) -> None:
    assert level == level_for_ratio(ratio)


@pytest.mark.parametrize("ratio", [-0.01, 1.01, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(InvalidInputError):
        level_for_ratio(ratio)


def test_nobody_is_due_at_level_0_and_everybody_at_the_full_level() -> None:
    assert not is_due(0, 0)
    assert is_due(FULL - 1, FULL)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_level_for_a_number_of_devices_makes_just_so_many_due(count: int) -> None:
    heights = [900, 5, 70, 4_000_000_000]

    level = level_for_count(heights, count)

    assert count == sum(is_due(h, level) for h in heights)


@pytest.mark.parametrize("count", [4, 5, 1000])
def test_with_too_few_devices_all_that_are_there_are_due_and_none_that_join_above_them(count: int) -> None:
    heights = [900, 5, 70, 4000]

    level = level_for_count(heights, count)

    assert level == 4001


def test_a_region_without_devices_stays_at_level_0() -> None:
    """At the full level a canary of one would be everybody who connects later."""
    assert level_for_count([], 1) == 0


def test_a_wave_of_no_devices_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        level_for_count([1, 2], 0)


RAMP = Ramp(NOW, 1000, NOW + 100, 2000)


@pytest.mark.parametrize(
    ("at", "level"),
    [(0, 1000), (NOW, 1000), (NOW + 50, 1500), (NOW + 99.99, 1999), (NOW + 100, 2000), (NOW + 10**6, 2000)],
)
def test_a_ramp_is_flat_then_a_line_then_flat(at: float, level: int) -> None:
    assert level == RAMP.level(at)


def test_a_ramp_of_no_duration_is_a_step() -> None:
    step = Ramp(NOW, 0, NOW, FULL)

    assert step.level(NOW - 0.001) == 0
    assert step.level(NOW) == FULL
    assert step.due_at(7) == NOW


@pytest.mark.parametrize(
    "values",
    [(1, 0, 0, 0), (0, 1, 1, 0), (-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 0, FULL + 1)],
    ids=["ends before it begins", "falls", "before 1970", "below 0", "above full"],
)
def test_a_ramp_that_cannot_be_is_refused(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidInputError):
        Ramp(*values)


@pytest.mark.parametrize(
    ("device_height", "due"),
    [(0, NOW), (999, NOW), (1499, NOW + 50), (1999, NOW + 100), (2000, None)],
    ids=["long below", "just below", "half way", "the last", "never passed"],
)
def test_a_device_is_due_when_the_line_crosses_its_height(device_height: int, due: float | None) -> None:
    assert due == RAMP.due_at(device_height)


def test_a_frozen_ramp_stays_at_the_level_it_has_now() -> None:
    frozen = RAMP.frozen(NOW + 30.5)

    assert frozen.level(0) == frozen.level(NOW + 30) == frozen.level(NOW + 10**6) == 1305


def test_a_ramp_that_is_cut_off_goes_no_further() -> None:
    cut = RAMP.until(NOW + 40)

    assert cut == Ramp(NOW, 1000, NOW + 40, 1400)


def test_a_ramp_that_ends_before_the_cut_is_left_as_it_is() -> None:
    assert RAMP.until(NOW + 100) is RAMP


def test_a_ramp_that_begins_after_the_cut_never_rises() -> None:
    assert RAMP.until(NOW - 10) == Ramp(NOW, 1000, NOW, 1000)
