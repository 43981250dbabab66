"""What a release does to devices that boot it."""

from typing import Annotated, Literal

from pydantic import Field

from device_sim.scenario.faults.kinds import AfterBoot, Group
from device_sim.scenario.quantities import Seconds


class Brick(AfterBoot):
    """It never comes back: neither the release nor the way back boots."""

    fault: Literal["brick"]
    group = Group.BOOT


class Hang(AfterBoot):
    """The release does not come up; the watchdog resets it, and after three tries the old slot boots again."""

    fault: Literal["hang"]
    group = Group.BOOT
    watchdog: Seconds = Field(60.0, description="how long a try takes until the watchdog ends it")


class BootLoop(AfterBoot):
    """The release comes up, restarts at once, and does so until its tries are spent; then the old slot boots again."""

    fault: Literal["boot-loop"]
    group = Group.BOOT


class NoNetwork(AfterBoot):
    """The release runs, but without a network: the trial ends by its deadline, and the device goes back."""

    fault: Literal["no-network"]
    group = Group.BOOT


class AppDies(AfterBoot):
    """The device goes dark for good, some time after it has booted the release, confirmed or not."""

    fault: Literal["app-dies"]
    group = Group.BOOT


class NeverConfirms(AfterBoot):
    """The health check never ends: the device stays on trial until its deadline, and goes back."""

    fault: Literal["never-confirms"]
    group = Group.BOOT


class CrashRate(AfterBoot):
    """The release crashes again and again once it runs; each crash restarts the device."""

    fault: Literal["crash-rate"]
    group = Group.HEALTH
    per_hour: float = Field(gt=0, le=3600, description="crashes an hour, on average")


class Unhealthy(AfterBoot):
    """The release's health check says no."""

    fault: Literal["unhealthy"]
    group = Group.HEALTH


class FlapsAfterBoot(AfterBoot):
    """The release loses its line and finds it again, over and over."""

    fault: Literal["flapping"]
    group = Group.LINK
    every: Seconds = Field(gt=0, description="a loss each so long, on average")
    off: Seconds = Field(30.0, gt=0, description="how long a loss lasts, on average")


class Lies(AfterBoot):
    """The device says that it has confirmed the release, whatever became of it."""

    fault: Literal["lies"]
    group = Group.BEHAVIOUR


Effect = Annotated[
    Brick | Hang | BootLoop | NoNetwork | AppDies | NeverConfirms | CrashRate | Unhealthy | FlapsAfterBoot | Lies,
    Field(discriminator="fault"),
]
"""What may stand under ``effects:`` of a release."""
