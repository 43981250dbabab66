"""What all kinds of faults have: whom they strike, when they begin, and in which worlds they act."""

from enum import StrEnum
from math import inf
from typing import Any, ClassVar, Final, get_args

from pydantic import BaseModel, ConfigDict, Field

from device_sim.scenario.quantities import Seconds, Share


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


def kinds_of(union: Any) -> tuple[type[Kind], ...]:
    """Return the kinds of ``TimedFault`` or of ``Effect``, in their order."""
    found: tuple[type[Kind], ...] = get_args(get_args(union)[0])
    return found
