"""What goes wrong with the running fleet, at a time."""

from typing import Annotated, Literal

from pydantic import Field

from device_sim.scenario.faults.kinds import WIRE_ONLY, Dated, Group, Timed
from device_sim.scenario.quantities import Rate, Seconds, Share


class Latency(Timed):
    """Messages take longer, each way."""

    fault: Literal["latency"]
    group = Group.LINK
    latency: Seconds = Field(description="so much longer")
    jitter: Seconds = Field(0.0, description="and up to so much more, drawn for each message")


class Loss(Timed):
    """Messages to and from the device are lost; what needs an answer is said again."""

    fault: Literal["loss"]
    group = Group.LINK
    loss: Share = Field(description="this share of the messages")


class Bandwidth(Timed):
    """The line carries so many bytes a second and no more."""

    fault: Literal["bandwidth"]
    group = Group.LINK
    bandwidth: Rate = Field(description="bytes a second")


class Flapping(Timed):
    """The line is lost and found again, over and over."""

    fault: Literal["flapping"]
    group = Group.LINK
    every: Seconds = Field(gt=0, description="a loss each so long, on average")
    off: Seconds = Field(30.0, gt=0, description="how long a loss lasts, on average")


class BrokerRestart(Dated):
    """The broker goes away, all sessions with it, and comes back."""

    fault: Literal["broker-restart"]
    group = Group.LINK
    lasts: Seconds | None = Field(0.0, alias="for", description="how long it is away; 0: as long as a start takes")


class RegionalOutage(Timed):
    """Devices of a region, or of all of them, are cut off; they run on by themselves."""

    fault: Literal["regional-outage"]
    group = Group.LINK


class SessionTakeover(Timed):
    """Somebody with the device's credential connects in its place, again and again."""

    fault: Literal["session-takeover"]
    group = Group.LINK
    acts_in = WIRE_ONLY
    every: Seconds = Field(60.0, gt=0, description="once each so long")


class Duplicate(Timed):
    """Messages arrive twice."""

    fault: Literal["duplicate"]
    group = Group.LINK
    ratio: Share = Field(1.0, description="this share of the messages")


class Late(Timed):
    """Messages to the device arrive when they are no longer news."""

    fault: Literal["late"]
    group = Group.LINK
    ratio: Share = Field(1.0, description="this share of the messages")
    delay: Seconds = Field(description="so much later")


class Reordered(Timed):
    """Messages to the device change places with those that follow them."""

    fault: Literal["reordered"]
    group = Group.LINK
    ratio: Share = Field(0.5, description="this share of the messages")


class Flipped(Timed):
    """A bit of what the device fetches is the other one when it arrives."""

    fault: Literal["flipped"]
    group = Group.PAYLOAD
    ratio: Share = Field(1.0, description="this share of the pieces")


class Truncated(Timed):
    """What the device fetches arrives without its last half."""

    fault: Literal["truncated"]
    group = Group.PAYLOAD
    ratio: Share = Field(1.0, description="this share of the pieces")


class WrongDeltaBase(Timed):
    """The running image is not the bytes that its slot says it is: a delta makes something else of it."""

    fault: Literal["wrong-delta-base"]
    group = Group.PAYLOAD
    acts_in = WIRE_ONLY


class Full(Timed):
    """The storage has no room for a release."""

    fault: Literal["full"]
    group = Group.STORAGE


class SlowStorage(Timed):
    """Each write takes its time."""

    fault: Literal["slow-storage"]
    group = Group.STORAGE
    bandwidth: Rate = Field(description="bytes a second that are written")


class WriteError(Timed):
    """Writes fail as they do on worn-out flash."""

    fault: Literal["write-error"]
    group = Group.STORAGE
    ratio: Share = Field(1.0, description="this share of the writes")


class TornWrite(Timed):
    """A write stores its first half and says that all is well."""

    fault: Literal["torn-write"]
    group = Group.STORAGE
    ratio: Share = Field(1.0, description="this share of the writes")


class PowerCut(Timed):
    """The power goes, and comes back: at a time, at a step of an update, or in a state of it."""

    fault: Literal["power-cut"]
    group = Group.POWER
    lasts: Seconds | None = Field(30.0, alias="for", description="how long the power is away")
    during: Literal["downloading", "installing", "trial", "confirming"] | None = Field(
        None, description="at the first step of this state, instead of at a time"
    )
    step: int | None = Field(None, ge=1, le=100_000, description="at the storage step of this number in an update")


class Skew(Timed):
    """The device's clock runs too fast, or too slowly."""

    fault: Literal["skew"]
    group = Group.CLOCK
    rate: float = Field(gt=0.1, le=10, description="its seconds in one second: 1.02 is two per cent fast")


class Jump(Timed):
    """The device's clock jumps ahead, once."""

    fault: Literal["jump"]
    group = Group.CLOCK
    by: Seconds = Field(description="so far")


class NoClock(Timed):
    """The device knows no time of its own when it boots: its clock begins at zero each time."""

    fault: Literal["no-clock"]
    group = Group.CLOCK


class Replays(Timed):
    """The device sends the reports of its past again, each time that it connects."""

    fault: Literal["replays"]
    group = Group.BEHAVIOUR


TimedFault = Annotated[
    Latency
    | Loss
    | Bandwidth
    | Flapping
    | BrokerRestart
    | RegionalOutage
    | SessionTakeover
    | Duplicate
    | Late
    | Reordered
    | Flipped
    | Truncated
    | WrongDeltaBase
    | Full
    | SlowStorage
    | WriteError
    | TornWrite
    | PowerCut
    | Skew
    | Jump
    | NoClock
    | Replays,
    Field(discriminator="fault"),
]
"""What may stand under ``faults:``."""
