"""A scenario: a fleet, its releases and campaigns, what goes wrong, and what must come of it.

Written as YAML; the JSON Schema is ``docs/reference/scenario.schema.json``. All times are the fleet's: a run may be
faster than the clock.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from device_sim.scenario.faults import BOTH, DEFECTS_ON_THE_WIRE, Dated, Defect, Effect, Mode, Struck, TimedFault
from device_sim.scenario.quantities import Rate, Seconds, Share, Size
from firmware_store.errors import InvalidInputError
from firmware_store.suit import parse_version
from server.domain.campaign import State
from server.domain.identity import hardware_class, region
from server.domain.plan import Gate, Plan, Policy, Wave
from server.protocol.reasons import Reason

DEVICES_MOST: Final = 1_000_000
LAN: Final = "lan"
"""The line without limits, which every scenario has."""

REFUSED: Final = "refused"
"""The state of a campaign that never was: the server took its bundle, or its draft, for what it is."""

EndState = State | Literal["refused"]
"""A campaign's state when a run is over."""

_CLOSE: Final = 1e-6
_GATE: Final = Gate(confirmed_ratio=0.8, failure_ratio=0.3)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Line(_Part):
    """What a line is like, each way."""

    latency: Seconds = Field(0.0, description="how long a message takes")
    jitter: Seconds = Field(0.0, description="and up to so much longer, drawn for each message")
    loss: Share = Field(0.0, description="this share of the messages is lost")
    bandwidth: Rate | None = Field(None, description="bytes a second, to the device")


class Offline(_Part):
    """When devices of a group are offline by themselves, whatever a release does."""

    naps_per_day: float = Field(0.0, ge=0, le=1000, description="how often a device goes away, on average")
    nap: Seconds = Field(3600.0, gt=0, description="for how long, in the median")
    diurnal: Share = Field(0.0, description="this share of the devices is off from about 21:00 to about 07:00")
    site_outages_per_day: float = Field(0.0, ge=0, le=1000, description="how often a whole site goes away, on average")
    site_outage: Seconds = Field(3600.0, gt=0, description="for how long, in the median")


class FleetGroup(_Part):
    """Devices that are alike."""

    share: Share = Field(description="of the fleet")
    region: str = Field(description="where they are")
    hardware: str = Field(description="their hardware class")
    link: str = Field(LAN, description="the line they have, by its name under `links`")
    sites: int = Field(
        0, ge=0, le=100_000, description="how many sites they are at, in a fleet of the scenario's own size; 0: none"
    )
    begins: str = Field(
        "09:00", pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", description="their time of day when the scenario begins"
    )
    offline: Offline = Field(Offline(), description="when they are offline by themselves")
    wake_interval: Seconds | None = Field(
        None, ge=1, description="they sleep, wake at most so long after they last woke, and declare it"
    )
    awake: Seconds = Field(30.0, gt=0, description="with so long nothing to do, they go to sleep again")

    @field_validator("region")
    @classmethod
    def _is_region(cls, name: str) -> str:
        return _checked(region, name)

    @field_validator("hardware")
    @classmethod
    def _is_hardware(cls, name: str) -> str:
        return _checked(hardware_class, name)

    @model_validator(mode="after")
    def _sleeps_longer_than_it_is_awake(self) -> Self:
        if self.wake_interval is not None and self.awake >= self.wake_interval:
            raise ValueError("awake must be shorter than wake_interval")
        return self


class Outages(_Part):
    """What takes many devices away at once, whatever a release does."""

    carrier_per_day: float = Field(0.0, ge=0, le=1000, description="how often a region's carrier fails, on average")
    carrier_outage: Seconds = Field(1800.0, gt=0, description="for how long, in the median")


class ReleaseUnderTest(_Part):
    """One release, and what it does to devices."""

    version: str = Field(description="such as 1.1.0")
    size: Size = Field(65_536, description="of its image")
    defect: Defect = Field(Defect.NONE, description="what is wrong with it as it is published")
    effects: tuple[Effect, ...] = Field((), max_length=32, description="what it does to devices that boot it")

    @field_validator("version")
    @classmethod
    def _is_version(cls, text: str) -> str:
        try:
            parse_version(text)
        except InvalidInputError as exc:
            raise ValueError(str(exc)) from exc
        return text


def standard_plan() -> Plan:
    """Return what is used where a campaign has no plan: a tenth, half, everybody, in some two hours."""
    return Plan(
        waves=tuple(
            Wave(ratio=ratio, count=None, ramp_s=ramp_s, soak_s=600, gate=_GATE)
            for ratio, ramp_s in ((0.1, 600), (0.5, 1200), (0.85, 1200), (0.95, 600), (1.0, 600))
        )
    )


def standard_policy() -> Policy:
    """Return what is used where a campaign has no policy: the default one, watched for half an hour."""
    return Policy(watch_s=1800)


class CampaignOrder(_Part):
    """One campaign, for the whole fleet."""

    release: str = Field(description="the version of a release of this scenario")
    at: Seconds = Field(0.0, description="when it is started, after the fleet has come up")
    plan: Plan = Field(default_factory=standard_plan, description="its waves, as the API takes them (times in seconds)")
    policy: Policy = Field(
        default_factory=standard_policy, description="pace and judgement, as the API takes them (times in seconds)"
    )


class Expectation(_Part):
    """What must come of a campaign; what is left out is not judged."""

    release: str | None = Field(None, description="the campaign's release; without it: the last campaign")
    halted_before: Share | None = Field(
        None, description="it was stopped, and less than this share of the fleet had rebooted into the release"
    )
    max_bricked: int | Share | None = Field(None, description="at most so many devices, or this share, never came back")
    false_halt: bool | None = Field(None, description="false: neither the rule nor a gate stopped it")
    all_confirmed: bool | None = Field(None, description="every device that could be reached at the end confirmed it")
    none_updated: bool | None = Field(None, description="no device ever booted the release")
    state: tuple[EndState, ...] = Field((), description="the state it ends in: one, or a list of those that will do")
    reasons: tuple[str, ...] = Field((), max_length=50, description="reasons that devices must have given")
    no_other_reasons: bool = Field(False, description="and no device gave any other")

    @field_validator("state", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("max_bricked", mode="before")
    @classmethod
    def _count_or_share(cls, value: object) -> object:
        if isinstance(value, str) and not value.endswith("%"):
            raise ValueError(f"{value!r} is neither a number of devices nor a share")
        return value

    @field_validator("reasons")
    @classmethod
    def _are_reasons(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = {reason.name.lower() for reason in Reason}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"no such reasons: {', '.join(unknown)}")
        return names


class Scenario(_Part):
    """The whole file."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64, description="as its file is called")
    story: str = Field(min_length=10, max_length=500, description="what happens, in a sentence or two")
    modes: frozenset[Mode] = Field(BOTH, min_length=1, description="how it can be run")
    devices: int = Field(100, ge=1, le=DEVICES_MOST, description="how many, unless the run says otherwise")
    duration: Seconds = Field(gt=0, description="how long it goes on")
    heartbeat: Seconds = Field(60.0, ge=1, le=86_400, description="how often devices say that they are alive")
    speed: float = Field(60.0, gt=0, le=10_000, description="how many times faster than the clock, on the wire")
    links: dict[str, Line] = Field({}, description="lines by name; `lan` has no limits and is always there")
    fleet: tuple[FleetGroup, ...] = Field(min_length=1, max_length=100, description="groups, whose shares make 100%")
    outages: Outages = Field(Outages(), description="what takes many away at once")
    releases: tuple[ReleaseUnderTest, ...] = Field(min_length=1, max_length=20, description="after the factory's 1.0.0")
    campaigns: tuple[CampaignOrder, ...] = Field(min_length=1, max_length=20, description="in the order of their times")
    faults: tuple[TimedFault, ...] = Field((), max_length=100, description="what goes wrong, and when")
    expect: tuple[Expectation, ...] = Field((), max_length=20, description="what must come of it: one, or a list")

    @field_validator("expect", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value

    @field_validator("links")
    @classmethod
    def _lan_is_there(cls, links: dict[str, Line]) -> dict[str, Line]:
        if LAN in links:
            raise ValueError(f"{LAN} has no limits, and cannot be given any")
        return links

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if wrong := next(self._contradictions(), None):
            raise ValueError(wrong)
        return self

    def release(self, version: str) -> ReleaseUnderTest:
        """Return the release of this version; validation has seen to it that there is one."""
        return next(release for release in self.releases if release.version == version)

    def order_of(self, version: str) -> CampaignOrder:
        """Return the campaign to this version."""
        return next(order for order in self.campaigns if order.release == version)

    def line(self, name: str) -> Line:
        """Return a line by its name."""
        return Line() if name == LAN else self.links[name]

    @property
    def regions(self) -> tuple[str, ...]:
        """In the order of the groups."""
        return tuple(dict.fromkeys(group.region for group in self.fleet))

    @property
    def hardware(self) -> tuple[str, ...]:
        """In the order of the groups."""
        return tuple(dict.fromkeys(group.hardware for group in self.fleet))

    def _contradictions(self) -> Iterator[str]:
        if abs(sum(group.share for group in self.fleet) - 1) > _CLOSE:
            yield f"the groups' shares make {sum(group.share for group in self.fleet):.4%}, not 100%"
        versions = [release.version for release in self.releases]
        if len(set(versions)) < len(versions):
            yield "a version is there once"
        for group in self.fleet:
            if group.link != LAN and group.link not in self.links:
                yield f"there is no link {group.link!r}"
        for campaign in self.campaigns:
            if campaign.release not in versions:
                yield f"there is no release {campaign.release!r}"
            if campaign.at >= self.duration:
                yield f"the campaign to {campaign.release} would begin after the end"
        targets = [campaign.release for campaign in self.campaigns]
        if len(set(targets)) < len(targets):
            yield "a release has one campaign"
        for expectation in self.expect:
            if expectation.release is not None and expectation.release not in targets:
                yield f"there is no campaign to {expectation.release!r}"
        yield from self._contradictions_of_faults()
        if Mode.VIRTUAL in self.modes:
            yield from self._needs_the_wire()

    def _needs_the_wire(self) -> Iterator[str]:
        for release in self.releases:
            if release.defect in DEFECTS_ON_THE_WIRE:
                yield f"a release that is {release.defect} needs the wire: say so under modes"
        for campaign in self.campaigns:
            if any(wave.devices for wave in campaign.plan.waves):
                yield "waves that name devices need the wire: say so under modes"
            if campaign.policy.site_reboots_most:
                yield "reboots that are admitted site by site need the wire: say so under modes"

    def _contradictions_of_faults(self) -> Iterator[str]:
        effects = [effect for release in self.releases for effect in release.effects]
        for fault in (*self.faults, *effects):
            if isinstance(fault, Struck):
                if fault.region is not None and fault.region not in self.regions:
                    yield f"{fault.fault}: no device is in {fault.region!r}"
                if fault.hardware is not None and fault.hardware not in self.hardware:
                    yield f"{fault.fault}: no device is a {fault.hardware!r}"
            if isinstance(fault, Dated) and fault.at >= self.duration:
                yield f"{fault.fault}: it would begin after the end"
            if not self.modes <= fault.acts_in:
                yield f"{fault.fault} acts in {', '.join(sorted(fault.acts_in))} only: say so under modes"


def _checked(check: Any, text: str) -> str:
    try:
        return str(check(text))
    except InvalidInputError as exc:
        raise ValueError(str(exc)) from exc
