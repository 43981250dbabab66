"""What came of a run: the same for sockets and for virtual time."""

from dataclasses import dataclass, field

from device_sim.scenario.faults import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignOutcome:
    """One campaign's. Counts are devices, by what really happened on them; times are seconds of the fleet."""

    release: str
    state: str
    """Its last state, or ``refused``."""
    stopped_at: float | None = None
    """When it was halted, or stopped until a person looks; None: never."""
    stopped_by: str = ""
    """``rule``, ``gate``, ``person``, ``trust`` (a revocation), or nothing."""
    sentence: str = ""
    """Why, in the server's words."""
    rule: str = ""
    """Channel and scope, where the rule has stopped it: ``g1, hardware gw100-rev-c``."""
    updated_at_stop: int = 0
    """Devices that had rebooted into the release by then; by the end, if it was never stopped."""
    updated: int = 0
    """Devices that have rebooted into it at all."""
    confirmed: int = 0
    failed: int = 0
    """By their own word: failed, rejected."""
    reverted: int = 0
    """Devices that went back, by themselves or because they were told."""
    silent: int = 0
    """Devices that the server has given up waiting for."""
    bricked: int = 0
    """Devices that never come back, or went dark for good, because of the release."""
    reachable: int = 0
    """Devices that are on line at the end, in the scenario's cast, and whose hardware the release is for."""
    reachable_unconfirmed: int = 0
    """Those of them that do not run it, confirmed."""
    reasons: dict[str, int] = field(default_factory=dict)
    """How many devices gave which reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A run's. ``digest``: SHA-256 of the trace, in hexadecimal; ``fleet_s`` and ``real_s``: how long it went on."""

    scenario: str
    story: str
    mode: Mode
    devices: int
    seed: int
    speed: float | None
    campaigns: tuple[CampaignOutcome, ...]
    digest: str
    fleet_s: float
    real_s: float
    course: tuple["Moment", ...] = ()
    """How it went, in steps of time, for plots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where the fleet was at one time (seconds of the fleet): counts of devices."""

    at: float
    online: int
    updated: int
    confirmed: int
    bricked: int
    reverted: int = 0
