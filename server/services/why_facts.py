"""What is known of a device that does not update, and how a check of it went."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from server.db.bundles import BundleRecord
from server.db.campaign_records import CampaignRecord, RegionRecord
from server.db.devices import DeviceRecord
from server.db.executions import ExecutionRecord
from server.domain.execution import IN_FLIGHT
from server.domain.execution import State as Execution
from server.domain.gate import FULL
from server.domain.halt import Verdict
from server.protocol.messages import Counter
from server.protocol.reasons import Reason
from server.services.device import Device
from server.services.fleet import Fleet


class Outcome(StrEnum):
    """How a check went; values are shown."""

    PASSED = "pass"
    FAILED = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what it found, what would change that, and when (Unix seconds) if that is known."""

    name: str
    outcome: Outcome
    says: str
    changes: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a device and its campaign at ``now`` (Unix seconds).

    ``refusal``: why the release may not be offered; empty where it may. ``current``: the counter of its cohort's
    directive. ``hearing_since``: since when the server hears; None: it does not. ``height``: in the campaign.
    """

    now: float
    record: DeviceRecord
    device: Device
    fleet: Fleet
    campaign: CampaignRecord
    bundle: BundleRecord
    height: int
    execution: ExecutionRecord | None
    is_earlier: bool
    verdict: Verdict | None
    refusal: str
    current: Counter
    hearing_since: float | None

    @property
    def region(self) -> RegionRecord | None:
        """The campaign's region that the device is in; None where it is in none of them, or in another cohort."""
        if self.device.cohort != self.campaign.cohort:
            return None
        return next((one for one in self.campaign.regions if one.region == self.device.region), None)

    @property
    def online(self) -> bool:
        return self.fleet.is_online(self.device, self.now)

    @property
    def is_named(self) -> bool:
        return self.device.id in self.campaign.named

    @property
    def runs_it(self) -> bool:
        return self.device.running_digest == self.bundle.manifest_digest

    @property
    def state(self) -> Execution | None:
        return None if self.execution is None else self.execution.state

    @property
    def waits_to_be_asked(self) -> bool:
        """It was away when the level passed it, and says so, or it sleeps: such a device starts when it is admitted."""
        if self.state in IN_FLIGHT or self.is_named:
            return False
        one = self.execution
        says_late = one is not None and one.state is Execution.DUE and one.reason == Reason.LATE
        return says_late or self.device.wake_interval_s > 0

    @property
    def is_due(self) -> bool:
        region = self.region
        return self.is_named or (region is not None and self.height < region.ramp.level(self.now))


def moment(at: float) -> str:
    """Return an instant as people read it."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def share(level: float) -> str:
    """Return a height or a level as a share of the region."""
    return f"{level / FULL:.2%}"


def passed(name: str, says: str) -> Check:
    return Check(name, Outcome.PASSED, says)


def failed(name: str, says: str, changes: str, at: float | None = None) -> Check:
    return Check(name, Outcome.FAILED, says, changes, at)
