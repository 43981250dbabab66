"""What a campaign is told to do: its plan (waves and gates) and its policy (every constant of pace and judgement).

Both are stored as JSON and read by people, so they are frozen pydantic models: the same class validates the request,
the database row and the file of a lab. All times are seconds; a lab scales them down, nothing else changes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from firmware_store.errors import InvalidInputError
from server.domain.consent import URL_CHARACTERS_MOST, check_webhook
from server.domain.halt.pace import SMALL_FLEET, SMALL_STEPS
from server.domain.halt.policy import HaltPolicy
from server.domain.identity import DeviceId, Region
from server.domain.identity import device_id as check_device
from server.domain.identity import region as check_region
from server.domain.windows import DURATION_MOST_S, WINDOWS_MOST, Window, ever_fits, needed_s

_FROZEN: Final = ConfigDict(frozen=True, extra="forbid")
_DAY: Final = 86_400
_MOST: Final = 1_000_000_000
"""Every number has a bound: one stored plan or policy that cannot be computed with would stop its campaign for good."""

_BYTES_MOST: Final = 1_000_000_000_000

WAVES_MOST: Final = 64
NAMED_MOST: Final = 50
"""So many devices one wave may name, each of which gets a directive of its own."""

_ROUNDING: Final = 1e-6

_CANARY_RATIO: Final = 0.01
_CANARY_MOST: Final = 200


class Gate(BaseModel):
    """What must hold, over the devices a wave has reached, before the next wave opens."""

    model_config = _FROZEN

    confirmed_ratio: float = Field(0.95, ge=0, le=1, description="confirmed / reached, at least")
    failure_ratio: float = Field(
        0.05, gt=0, le=1, description="95 % upper bound of explicit failures plus excess silence, at most; 1: any"
    )
    min_reached: int = Field(
        1, ge=1, le=_MOST, description="devices reached, at least (or every eligible one of the wave that is online)"
    )
    manual: bool = Field(False, description="a person lets it through, when all else is met")
    webhook: str | None = Field(
        None,
        max_length=URL_CHARACTERS_MOST,
        description="URL (https, or http of this machine) that is asked when all else is met: go, wait or stop",
    )
    webhook_s: int = Field(60, ge=5, le=_DAY, description="ask the webhook again so long after its last answer")

    @model_validator(mode="after")
    def _webhook_may_be_asked(self) -> Self:
        try:
            if self.webhook is not None:
                check_webhook(self.webhook)
        except InvalidInputError as exc:
            raise ValueError(str(exc)) from exc
        return self


class Wave(BaseModel):
    """One step of the plan: raise the level of some regions to a target, or let in named devices, then soak."""

    model_config = _FROZEN

    regions: tuple[Region, ...] = Field((), description="regions to raise; empty: all of the campaign's")
    ratio: float | None = Field(None, gt=0, le=1, description="target level as a share of each region")
    count: int | None = Field(None, ge=1, le=_MOST, description="target level as a number of devices in each region")
    devices: tuple[DeviceId, ...] = Field(
        (), max_length=NAMED_MOST, description="instead of a level: devices that are let in by name; first waves only"
    )
    ramp_s: int = Field(3600, ge=0, le=30 * _DAY, description="how long the level takes to reach the target")
    soak_s: int = Field(3600, ge=0, le=30 * _DAY, description="how long the level then stays before the gate may open")
    gate: Gate = Field(Gate(), description="what must hold before the next wave")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if [self.ratio is None, self.count is None, not self.devices].count(False) != 1:
            raise ValueError("A wave has either a ratio or a count as its target, or it names devices.")
        if self.devices and self.regions:
            raise ValueError("A wave that names devices has no regions: each device is where it is.")
        try:
            for name in self.regions:
                check_region(name)
            for device in self.devices:
                check_device(device)
        except InvalidInputError as exc:
            raise ValueError(str(exc)) from exc
        return self

    @property
    def target(self) -> str:
        """What it is for, in words."""
        if self.devices:
            return "1 named device" if len(self.devices) == 1 else f"{len(self.devices)} named devices"
        return f"{self.ratio:.1%}" if self.ratio is not None else f"{self.count} devices"


class Plan(BaseModel):
    """The waves in their order."""

    model_config = _FROZEN

    waves: tuple[Wave, ...] = Field(min_length=1, max_length=WAVES_MOST)

    @model_validator(mode="after")
    def _named_first_and_once(self) -> Self:
        are_named = [bool(wave.devices) for wave in self.waves]
        if are_named != sorted(are_named, reverse=True):
            raise ValueError("Waves that name devices come before all others: a level would have let them in.")
        named = [device for wave in self.waves for device in wave.devices]
        if len(set(named)) < len(named):
            raise ValueError("A device is named once.")
        return self

    def named(self, until: int) -> frozenset[DeviceId]:
        """Return the devices that are named by the first ``until`` waves."""
        return frozenset(device for wave in self.waves[:until] for device in wave.devices)

    def without_soak(self) -> "Plan":
        """Return the same waves, each of which may be followed at once by the next: what an emergency does."""
        return Plan(waves=tuple(wave.model_copy(update={"soak_s": 0}) for wave in self.waves))


class MaintenanceWindow(BaseModel):
    """When a device may start and activate, by its own clock."""

    model_config = _FROZEN

    opens: str = Field(description="five cron fields, in the device's local time")
    duration_s: int = Field(ge=1, le=DURATION_MOST_S, description="how long it then stays open")

    @model_validator(mode="after")
    def _opens(self) -> Self:
        try:
            Window(self.opens, self.duration_s)
        except InvalidInputError as exc:
            raise ValueError(str(exc)) from exc
        return self


class Policy(BaseModel):
    """How a campaign is paced and judged. The defaults are a production fleet's."""

    model_config = _FROZEN

    halt: HaltPolicy = Field(HaltPolicy(), description="the constants of the halt rule")
    trial_s: int = Field(
        300, ge=0, le=30 * _DAY, description="how long the new image runs well before the device confirms it"
    )
    confirm_s: int = Field(
        7200, ge=1, le=90 * _DAY, description="powered-on time after which an unconfirmed trial falls back"
    )
    download_s: int = Field(_DAY, ge=1, le=90 * _DAY, description="a download that takes longer has failed")
    offer_s: int = Field(
        _DAY, ge=240, le=365 * _DAY, description="how long an offer is valid before it must be renewed"
    )
    watch_s: int = Field(
        72 * 3600, ge=0, le=365 * _DAY, description="how long a campaign is watched after everyone was reached"
    )
    on_halt: Literal["revert", "keep"] = Field(
        "revert", description="what a device in trial does at a halt: go back, or finish its trial"
    )
    on_offline_spike: Literal["pause", "hold", "halt"] = Field(
        "pause", description="when many devices vanish at once: pause, hold for a person, or halt"
    )
    approvals: int = Field(0, ge=0, le=10, description="people other than the creator who must approve")
    rollback_s: int = Field(
        7 * _DAY, ge=60, le=90 * _DAY, description="how long a rollback waits for devices that are away"
    )
    quarantine_s: int = Field(
        _DAY, ge=60, le=90 * _DAY, description="how long a device whose attempts are spent is held"
    )
    holdout: float = Field(0.0, ge=0, le=0.5, description="share of each region that is never updated")
    largest_step: float = Field(
        1.0, gt=0, le=1, description="share of a region by which one wave may raise it, at most"
    )
    in_flight_most: int = Field(
        0, ge=0, le=_MOST, description="devices under way at once in a region, at most; 0: no cap"
    )
    region_bytes_per_s_most: int = Field(
        0,
        ge=0,
        le=_BYTES_MOST,
        description="bytes per second for a region's devices, at most: as many start as could each fetch the whole "
        "bundle at that rate; 0: no cap",
    )
    site_reboots_most: int = Field(
        0, ge=0, le=_MOST, description="devices of a site between reboot and confirmation at once, at most; 0: no cap"
    )
    windows: tuple[MaintenanceWindow, ...] = Field(
        (), max_length=WINDOWS_MOST, description="when devices may start and activate, in local time; empty: always"
    )

    @model_validator(mode="after")
    def _windows_are_long_enough(self) -> Self:
        needs_s = needed_s(self.trial_s)
        if not ever_fits(self.device_windows, needed_s=needs_s):
            raise ValueError(f"No window stays open for the trial and the reboot, which take {needs_s:g} seconds.")
        return self

    def starts_per_s(self, device_bytes: int) -> float:
        """Return how many devices of a region may start each second; infinite where no cap is set.

        ``device_bytes``: what one device fetches, at most. It fetches less where it has a part already: what that
        leaves unused is not given to others.
        """
        if not self.region_bytes_per_s_most or not device_bytes:
            return math.inf
        return self.region_bytes_per_s_most / device_bytes

    @property
    def device_windows(self) -> tuple[Window, ...]:
        """The windows as directives carry them."""
        return tuple(Window(window.opens, window.duration_s) for window in self.windows)


def default_plan(
    regions: Sequence[Region], devices_in_first: int, *, largest_step: float = 1.0, holdout: float = 0.0
) -> Plan:
    """Return a canary of min(200, max(1, 1 %)) of the first region baked 8 h, region by region to 85 %, then the rest.

    The rest: first up to the sentinels, then the sentinels in four steps, with those left as controls. A small fleet
    goes by steps of 1, 3 and 10 devices with a full verdict in between. Levels rise no faster than the evidence allows.

    ``devices_in_first``: how many devices of the cohort the first region has now. No step is larger than
    ``largest_step``, and the last goes up to 1 - ``holdout``.

    Raises:
        InvalidInputError: that would be more waves than a plan may have.
    """
    most = 1 - holdout
    if devices_in_first * len(regions) < SMALL_FLEET:
        steps = SMALL_STEPS if largest_step == 1 else SMALL_STEPS[:1]  # of a few devices, two are a large step
        counts = [count for count in steps if count < max(devices_in_first, 2)]
        waves = [Wave(regions=tuple(regions[:1]), ratio=None, count=count, ramp_s=0, soak_s=900) for count in counts]
        for name in regions:
            ratios = _steps(0.0, most, largest_step)
            waves += [Wave(regions=(name,), ratio=ratio, count=None, ramp_s=0) for ratio in ratios]
    else:
        waves = _by_regions(regions, devices_in_first, most=most, largest_step=largest_step)
    if len(waves) > WAVES_MOST:
        raise InvalidInputError(
            f"The default plan would have {len(waves)} waves, and a plan has {WAVES_MOST} at most: give one.",
            pointer="/plan",
        )
    return Plan(waves=tuple(waves))


def _by_regions(regions: Sequence[Region], devices_in_first: int, *, most: float, largest_step: float) -> list[Wave]:
    canary = min(_CANARY_MOST, max(1, round(devices_in_first * _CANARY_RATIO)))
    waves = [Wave(regions=tuple(regions[:1]), ratio=None, count=canary, ramp_s=900, soak_s=8 * 3600)]
    for name in regions:
        ratios = _steps(0.0, min(0.85, most), largest_step)
        waves += [Wave(regions=(name,), ratio=ratio, count=None, ramp_s=3600) for ratio in ratios]
    reached = 0.85
    for target in (0.95, 0.9625, 0.975, 0.9875, 1.0):
        if min(target, most) > reached:
            ratios = _steps(reached, min(target, most), largest_step)
            waves += [Wave(ratio=ratio, count=None, ramp_s=1800) for ratio in ratios]
            reached = target
    return waves


def _steps(start: float, end: float, largest: float) -> list[float]:
    """Return equal steps up to ``end``, none larger than ``largest``."""
    number = max(1, math.ceil((end - start) / largest - _ROUNDING))
    return [round(start + (end - start) * step / number, 6) for step in range(1, number + 1)]


def check_steps(plan: Plan, policy: Policy, devices: Mapping[Region, int]) -> None:
    """Return if no wave raises any region by more than ``policy.largest_step``.

    ``devices``: how many each of the campaign's regions has now, which is what a wave's ``count`` is a share of. A wave
    of one device is never too large.

    Raises:
        InvalidInputError: one does; the text says which, and by how much.
    """
    reached = dict.fromkeys(devices, 0.0)
    for index, wave in enumerate(plan.waves):
        for region in wave.regions or devices:
            target = min(_share(wave, devices[region]), 1 - policy.holdout)
            step = target - reached[region]
            if step > policy.largest_step + _ROUNDING and wave.count != 1:
                raise InvalidInputError(
                    f"Wave {index + 1} raises {region} by {step:.1%} of its devices; the policy's largest step is "
                    f"{policy.largest_step:.1%}.",
                    pointer=f"/plan/waves/{index}",
                )
            reached[region] = max(reached[region], target)


def _share(wave: Wave, devices: int) -> float:
    if wave.ratio is not None:
        return wave.ratio
    if wave.devices:
        return 0.0
    assert wave.count is not None
    return min(1.0, wave.count / devices) if devices else 0.0
