"""The constants of the halt rule, as fields of the policy: a lab scales the times down, nothing else changes."""

from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_DAY: Final = 86_400
_MOST: Final = 1_000_000_000


class HaltPolicy(BaseModel):
    """Times in seconds. The defaults are a production fleet's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_s: float = Field(60, gt=0, le=3600, description="devices that reboot within so long are one block")
    reboot_s: float = Field(
        120, gt=0, le=_DAY, description="mean reboot time, rounded up: what is heard before it is no return"
    )
    g1_s: float = Field(900, gt=0, le=30 * _DAY, description="the fast clock: silent by then, in good weather")
    g2_s: float = Field(7200, gt=0, le=30 * _DAY, description="the slow clock")
    beta: float = Field(1.25, ge=1, le=10, description="tolerated ratio of updated to comparable silent devices ...")
    d0: float = Field(0.001, gt=0, lt=0.5, description="... and what is tolerated on top of it")
    d0_stay: float = Field(0.0002, gt=0, lt=0.5, description="the same for devices that fall silent later")
    shadows_most: int = Field(50, ge=1, le=1000, description="comparable devices drawn for each updated one")
    brake_at: float = Field(10, gt=1, le=_MOST, description="wealth at which the level stops rising")
    halt_at: float = Field(100, gt=1, le=_MOST, description="wealth at which the campaign halts")
    brake_budget_s: float = Field(7200, gt=0, le=30 * _DAY, description="so much braking in total, then a person looks")
    flap_window_s: float = Field(1800, gt=0, le=_DAY, description="sessions lost are counted in windows of this length")
    flap_after_s: float = Field(900, ge=0, le=_DAY, description="flapping counts from so long after the update")
    flap_drops: int = Field(3, ge=2, le=1000, description="sessions lost in one window that make a device flap")
    stay_window_s: float = Field(1800, gt=0, le=_DAY, description="online at the beginning of such a window ...")
    stay_s: float = Field(5400, gt=0, le=30 * _DAY, description="... and silent for so long from its end")
    explicit_ratio: float = Field(0.02, gt=0, lt=1, description="tolerated share of updates that say they failed")
    rail_excess: int = Field(40, ge=1, le=_MOST, description="excess silent devices that halt, at least ...")
    rail_share: float = Field(0.005, gt=0, le=1, description="... and at least this share of the fleet")
    min_controls: int = Field(20, ge=1, le=_MOST, description="fewer comparable devices online are no control group")
    bare_silent: int = Field(3, ge=1, le=_MOST, description="without controls: halt at so many silent devices ...")
    bare_ratio: float = Field(0.2, gt=0, le=1, description="... if they are this share of the judged")
    sentinels_from: float = Field(0.95, gt=0, le=1, description="heights from here on only watch the weather")
    min_sentinels: int = Field(20, ge=1, le=_MOST, description="fewer sentinels of a region are pooled over regions")
    bad_weather_above: float = Field(0.08, gt=0, lt=1, description="share of dark sentinels above the usual one")
    bad_weather_most: float = Field(3, ge=1, le=_MOST, description="and so many more dark than usual, at least")
    weather_memory_s: float = Field(1200, gt=0, le=_DAY, description="time constant of what is usual")
    weather_clears_s: float = Field(300, gt=0, le=_DAY, description="bad weather lasts so long after its end")
    weather_page_s: float = Field(10_800, gt=0, le=30 * _DAY, description="bad for so long: tell a person")
    region_room: float = Field(10, gt=0, le=_MOST, description="in flight per region, at most this / bound of excess")
    class_room: float = Field(5, gt=0, le=_MOST, description="in flight per hardware class, likewise")
    wakes: int = Field(
        3, ge=2, le=100, description="a device that sleeps is judged after so many of its wake intervals, and g1_s"
    )
    sleeper_room: float = Field(10, gt=0, le=_MOST, description="of devices that sleep in flight, in all, likewise")
    sleeper_s: float = Field(
        _DAY,
        gt=0,
        le=30 * _DAY,
        description="waiting for its verdict, one keeps its slot and its gate so long at most",
    )
    slow_room: int = Field(3, ge=1, le=_MOST, description="in flight while the weather is unknown")
    spike_hold_s: float = Field(
        1800, gt=0, le=30 * _DAY, description="`on_offline_spike: hold`: bad for so long, and a person must look"
    )
    strike_within_s: float = Field(
        900, gt=0, le=_DAY, description="`on_offline_spike: halt`: bad so soon after updating (re)started counts"
    )
    history_factor: float = Field(3, ge=1, le=100, description="late: tolerated multiple of a device's own last week")
    history_d0: float = Field(0.0005, gt=0, lt=0.5, description="late: tolerated on top of it")

    def scaled(self, factor: float) -> Self:
        """Return the same policy on another clock, as a lab wants it: every time (``*_s``) is multiplied."""
        times = {name: getattr(self, name) * factor for name in type(self).model_fields if name.endswith("_s")}
        return self.model_copy(update=times)

    @model_validator(mode="after")
    def _clocks_follow_each_other(self) -> Self:
        if not self.reboot_s < self.g1_s <= self.g2_s:
            raise ValueError("reboot_s must be shorter than g1_s, and g1_s no longer than g2_s.")
        return self
