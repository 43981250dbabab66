"""The fault catalogue: what can go wrong on a device, its line and its release, one model a kind.

The first line of a kind's docstring says what it does; ``docs/reference/faults.md`` is made of it. A kind is used in
one or more of three places: ``faults:`` of a scenario (it begins at a time), ``effects:`` of a release (it begins when
a device boots that release), ``defect:`` of a release (it is published so).
"""

from enum import StrEnum
from math import inf
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from device_sim.scenario.quantities import Rate, Seconds, Share


class Mode(StrEnum):
    """How a scenario is run: with sockets and a server, or in virtual time without either."""

    WIRE = "wire"
    VIRTUAL = "virtual"


BOTH: Final = frozenset(Mode)
WIRE_ONLY: Final = frozenset({Mode.WIRE})


class Group(StrEnum):
    """What part of the world a fault is of."""

    LINK = "link"
    PAYLOAD = "payload"
    STORAGE = "storage"
    POWER = "power"
    BOOT = "boot"
    CLOCK = "clock"
    HEALTH = "health"
    BEHAVIOUR = "behaviour"


class Kind(BaseModel):
    """What all kinds have."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    group: ClassVar[Group]
    acts_in: ClassVar[frozenset[Mode]] = BOTH

    @classmethod
    def name(cls) -> str:
        """What it is called in a scenario."""
        return str(get_args(cls.model_fields["fault"].annotation)[0])


class Struck(Kind):
    """Whom it strikes."""

    share: Share = Field(1.0, description="this share of those it is about, drawn by the seed")
    region: str | None = Field(None, description="only devices of this region")
    hardware: str | None = Field(None, description="only devices of this hardware class")


class Dated(Kind):
    """A fault of the running fleet."""

    at: Seconds = Field(0.0, description="when it begins, after the fleet has come up")
    lasts: Seconds | None = Field(None, alias="for", description="how long it lasts; without it: to the end")

    @property
    def until(self) -> float:
        """When it is over (seconds), if ever."""
        return inf if self.lasts is None else self.at + self.lasts


class Timed(Dated, Struck):
    """A fault of some devices of the running fleet."""


class AfterBoot(Struck):
    """A fault that a release brings with it."""

    after: Seconds = Field(0.0, description="so long after the device has booted the release")


# --- link ---


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


# --- payload ---


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


class Defect(StrEnum):
    """What is wrong with a release as it is published."""

    NONE = "none"
    FLIPPED = "flipped"
    TRUNCATED = "truncated"
    WRONG_DIGEST = "wrong-digest"
    WRONG_KEY = "wrong-key"
    EXPIRED = "expired"
    REVOKED = "revoked"
    DOWNGRADE = "downgrade"
    WRONG_HARDWARE = "wrong-hardware"
    WRONG_DELTA_BASE = "wrong-delta-base"


DEFECTS: Final = {
    Defect.NONE: "Nothing is wrong with it.",
    Defect.FLIPPED: "As `flipped` below, for every device and as long as the scenario lasts.",
    Defect.TRUNCATED: "As `truncated` below, for every device and as long as the scenario lasts.",
    Defect.WRONG_DIGEST: "The manifest names an image's digest that the image does not have.",
    Defect.WRONG_KEY: "It is signed by a key that the trust root does not name.",
    Defect.EXPIRED: "The trust documents under which it was signed have expired.",
    Defect.REVOKED: "It is revoked when its campaign has reached its first devices.",
    Defect.DOWNGRADE: "Its sequence number is below that of the release that devices run.",
    Defect.WRONG_HARDWARE: "It is for a hardware class that no device has.",
    Defect.WRONG_DELTA_BASE: "As `wrong-delta-base` below, for every device.",
}
"""What each defect does."""

DEFECTS_ON_THE_WIRE: Final = frozenset(
    {Defect.EXPIRED, Defect.REVOKED, Defect.DOWNGRADE, Defect.WRONG_HARDWARE, Defect.WRONG_DELTA_BASE}
)
"""Those that virtual time has not: what they are about is how a server is told, and not what devices do."""


# --- storage ---


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


# --- power ---


class PowerCut(Timed):
    """The power goes, and comes back: at a time, at a step of an update, or in a state of it."""

    fault: Literal["power-cut"]
    group = Group.POWER
    lasts: Seconds | None = Field(30.0, alias="for", description="how long the power is away")
    during: Literal["downloading", "installing", "trial", "confirming"] | None = Field(
        None, description="at the first step of this state, instead of at a time"
    )
    step: int | None = Field(None, ge=1, le=100_000, description="at the storage step of this number in an update")


# --- boot ---


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


# --- clock ---


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


# --- health ---


class CrashRate(AfterBoot):
    """The release crashes again and again once it runs; each crash restarts the device."""

    fault: Literal["crash-rate"]
    group = Group.HEALTH
    per_hour: float = Field(gt=0, le=3600, description="crashes an hour, on average")


class Unhealthy(AfterBoot):
    """The release's health check says no."""

    fault: Literal["unhealthy"]
    group = Group.HEALTH


# --- behaviour ---


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

Effect = Annotated[
    Brick | Hang | BootLoop | NoNetwork | AppDies | NeverConfirms | CrashRate | Unhealthy | FlapsAfterBoot | Lies,
    Field(discriminator="fault"),
]
"""What may stand under ``effects:`` of a release."""


def kinds_of(union: Any) -> tuple[type[Kind], ...]:
    """Return the kinds of ``TimedFault`` or of ``Effect``, in their order."""
    found: tuple[type[Kind], ...] = get_args(get_args(union)[0])
    return found
