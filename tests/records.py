"""Rows for tests of the database layer: a release, campaigns on it, devices, and what devices say."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

from server.db.bundles import BundleRecord, BundleRepository
from server.db.campaign_records import CampaignRecord, RegionRecord
from server.db.campaigns import CampaignRepository
from server.db.database import Database
from server.db.devices import DeviceRepository, NewDevice
from server.db.executions import ExecutionRepository
from server.db.telemetry import DeviceReport
from server.domain.campaign import State as CampaignState
from server.domain.execution import State
from server.domain.halt import HaltPolicy
from server.domain.identity import BundleId, CampaignId, Cohort, DeviceId, Region
from server.domain.plan import Plan, Policy, Wave
from server.protocol.messages import Counter, Report
from server.protocol.orders import Action, Directive, Envelope
from server.protocol.topics import Audience, CohortAudience

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
EU, US = Region("eu"), Region("us")
MAIN = Cohort("main")
MANIFEST = b"m" * 32
EU_MAIN = CohortAudience(EU, MAIN)
ROOM = 1_000_000
LAB = HaltPolicy(
    reboot_s=20, g1_s=100, g2_s=400, block_s=2, weather_clears_s=5, region_room=ROOM, class_room=ROOM, slow_room=ROOM
)
"""The halt rule on the clock of these tests, with room for everybody at once."""
EVERYBODY = Plan(waves=(Wave(ratio=1.0, count=None),))


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def device_name(number: int) -> DeviceId:
    return DeviceId(f"gw-{number:04}")


async def add_devices(
    database: Database, count: int, *, region: Region = EU, cohort: Cohort = MAIN, first: int = 1
) -> list[DeviceId]:
    names = [device_name(number) for number in range(first, first + count)]
    await DeviceRepository(database).add([NewDevice(name, region, cohort) for name in names], now=START)
    return names


async def add_bundle(
    database: Database, *, blobs: Mapping[bytes, int] = MappingProxyType({b"e" * 32: 900}), **members: Any
) -> BundleRecord:
    given = {
        "id": BundleId(uuid4()),
        "manifest_digest": MANIFEST,
        "envelope_digest": b"e" * 32,
        "envelope_bytes": 900,
        "sequence_number": 7,
        "version": "1.1.0",
        "vendor_id": b"v" * 16,
        "class_ids": (b"1" * 16, b"2" * 16),
        "components": {"app": 1000, "rootfs": 2000},
        "size_bytes": 2500,
        "signers": (b"a" * 16, b"b" * 16),
        "created_by": "somebody",
        "created_at": START,
    }
    record = BundleRecord(**(given | members))
    await BundleRepository(database).add(record, blobs)
    return record


async def add_campaign(
    database: Database, bundle: BundleRecord, *, regions: Sequence[Region] = (EU,), **members: Any
) -> CampaignRecord:
    record = CampaignRecord(
        **{
            "id": CampaignId(uuid4()),
            "name": "spring",
            "cohort": MAIN,
            "bundle_id": bundle.id,
            "plan": EVERYBODY,
            "policy": Policy(),
            "reason": "a test",
            "created_by": "somebody",
            "created_at": START,
            "regions": tuple(RegionRecord(region) for region in regions),
        }
        | members
    )
    await CampaignRepository(database).add(record)
    return record


def report(
    campaign: CampaignId | UUID, sequence: int, state: State, *, device: DeviceId | None = None, **members: Any
) -> DeviceReport:
    given = {"attempt": 1, "manifest_digest": MANIFEST} | members
    return DeviceReport(
        device or device_name(1), EU, Report(sequence=sequence, campaign=CampaignId(campaign), state=state, **given)
    )


def order(
    audience: Audience = EU_MAIN,
    *,
    campaign: CampaignId | None = None,
    action: Action = Action.HALT,
    issued: datetime = START,
    epoch: int = 0,
) -> Directive:
    """An order whose counter is still to be given."""
    moment = int(issued.timestamp())
    named: dict[str, Any] = {}
    if action is not Action.NONE:
        assert campaign is not None
        named = {"campaign": campaign, "manifest_digest": MANIFEST, "envelope": Envelope(b"e" * 32, 900)}
    return Directive(
        fleet=b"f" * 16,
        audience=audience,
        counter=Counter(epoch, 0),
        issued=moment,
        expires=moment + 3600,
        action=action,
        **named,
    )


async def write_down(directive: Directive, _state: CampaignState | None = None) -> bytes:
    """Stand where signing does, and let a test read what would have been signed."""
    return f"{directive.action.name} {directive.counter.epoch}.{directive.counter.counter}".encode()


async def tally(database: Database, campaign: CampaignId) -> dict[Region, dict[tuple[State, int], int]]:
    """Return how many executions a campaign has in each state and with each reason, by region."""
    found: dict[Region, dict[tuple[State, int], int]] = {}
    for one in await ExecutionRepository(database).page(campaign, after="", limit=10_000):
        in_region = found.setdefault(one.region, {})
        in_region[one.state, one.reason] = in_region.get((one.state, one.reason), 0) + 1
    return found


async def judged_in(database: Database, campaign: CampaignId, region: Region) -> int:
    """Return how many of a campaign's executions in a region have a verdict on their silence."""
    records = await ExecutionRepository(database).page(campaign, after="", limit=10_000)
    return sum(one.region == region and one.judged_at is not None for one in records)
