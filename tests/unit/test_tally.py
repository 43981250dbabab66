"""A crowd that is counted by arrays is counted as its devices are one by one; a device is what its row says."""

from datetime import UTC, datetime
from uuid import UUID

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from server.db.campaign_records import CampaignRecord, RegionRecord
from server.db.devices import DeviceRecord
from server.db.executions import Progress
from server.domain.campaign import State
from server.domain.eligibility import Target, fits
from server.domain.execution import State as Execution
from server.domain.gate import FULL, Ramp
from server.domain.identity import BundleId, CampaignId, Cohort, DeviceId, Region
from server.domain.plan import Plan, Policy, Wave
from server.services.crowd import Crowd
from server.services.device import Device
from server.services.fleet import Fleet
from server.services.heights import Heights
from server.services.tally import Candidate, Tally

NOW = 1_800_000_000.0
AT = datetime.fromtimestamp(NOW - 3600, UTC)
EU, MAIN = Region("eu"), Cohort("main")
VENDOR, CLASSES = b"v" * 16, (b"rev-b-is-a-class", b"rev-c-is-a-class")
RUNNING = b"r" * 32
CONFIRMED = Progress(Execution.CONFIRMED, 0, NOW - 600, is_judged=True, is_earlier=False)
CAMPAIGN = CampaignRecord(
    id=CampaignId(UUID(int=9)),
    name="all",
    cohort=MAIN,
    bundle_id=BundleId(UUID(int=0)),
    plan=Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=60, soak_s=60),)),
    policy=Policy(holdout=0.1),
    reason="",
    created_by="",
    created_at=AT,
    regions=(),
    state=State.RUNNING,
    started_at=AT,
    run_at=AT,
    blobs_ready=True,
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Devices that are here or away, held, revoked, unknown, or of another vendor, as it comes."""
    fleet = Fleet(heartbeat_s=60)
    for number in range(draw(st.integers(0, 40))):
        fleet.add(DeviceRecord(DeviceId(f"gw-{number}"), EU, MAIN, AT, held=draw(st.integers(0, 5)) == 0))
        device = fleet.at(number)
        if draw(st.integers(0, 5)):
            vendor = draw(st.sampled_from([VENDOR, VENDOR, VENDOR, b"w" * 16]))
            device.be(vendor, draw(st.sampled_from([*CLASSES, b"rev-d-is-a-class"])), "some")
        device.running_digest = draw(st.sampled_from([b"", RUNNING, b"s" * 32]))
        device.gone = draw(st.booleans())
        device.last_seen = NOW - draw(st.sampled_from([0, 100, 160, 900, 4000, 1e6]))
        device.revoked_at = draw(st.sampled_from([-1.0, -1.0, -1.0, NOW]))
    return fleet


def begin(fleet: Fleet, level: int) -> Tally:
    region = RegionRecord(EU, ramp=Ramp.flat(level), planned=Ramp.flat(FULL // 2), opened_at=AT)
    return Tally.begin(fleet, CAMPAIGN, region, bundle_bytes=1, now=NOW)


def is_eligible(device: Device, target: Target, *, has_begun: bool) -> bool:
    fit = fits(target, vendor_id=device.vendor_id, class_id=device.class_id)
    free = not device.held and not device.revoked
    return fit and free and (has_begun or device.running_digest != target.manifest_digest)


@given(fleets(), st.integers(0, FULL))
def test_a_crowd_is_counted_as_its_devices_are_one_by_one(fleet: Fleet, level: int) -> None:
    target = Target(VENDOR, frozenset(CLASSES), RUNNING)
    heights = Heights(CAMPAIGN.id, fleet)
    at_once, one_by_one = begin(fleet, level), begin(fleet, level)
    through = {device.id for device in fleet if device.row % 3 == 0}
    progress = dict.fromkeys(through, CONFIRMED)
    crowd = Crowd(fleet, CAMPAIGN, target, progress)
    members = crowd.members(EU)
    eligible = crowd.eligible(members)
    hardware = eligible % 2

    at_once.note_candidates(heights.of(crowd.unknown(members)))
    confirmed = crowd.through(eligible)
    at_once.count_through(eligible[confirmed], heights.of(eligible[confirmed]))
    at_once.count_crowd(eligible[~confirmed], heights.of(eligible[~confirmed]), hardware[~confirmed])
    for device in fleet:
        tall = heights.of(np.asarray([device.row]))
        if not device.vendor_id and not device.held:
            one_by_one.note_candidates(tall)
        elif is_eligible(device, target, has_begun=device.id in through):
            one_by_one.count(
                Candidate(
                    device, progress.get(device.id), int(tall[0]), device.row % 2, is_named=False, is_offered=False
                )
            )

    there, here = at_once.view(), one_by_one.view()
    assert there.startable.heights.tolist() == here.startable.heights.tolist()
    assert there.startable.classes.tolist() == here.startable.classes.tolist()
    assert sorted(at_once.heights.tolist()) == sorted(one_by_one.heights.tolist())
    assert at_once.starting_in_classes == one_by_one.starting_in_classes
    for name in there.__slots__:
        assert name == "startable" or getattr(there, name) == getattr(here, name), name


@given(fleets(), st.sampled_from([0.0, 30.0, 150.0, 1e4]))
def test_columns_say_what_devices_say(fleet: Fleet, later_s: float) -> None:
    rows, now = np.arange(len(fleet.columns)), NOW + later_s

    assert fleet.are_online(rows, now).tolist() == [fleet.is_online(device, now) for device in fleet]
    assert fleet.columns.revoked(rows).tolist() == [device.revoked for device in fleet]
    assert fleet.online(now) == sum(fleet.is_online(device, now) for device in fleet)
    assert [seen.id for seen in fleet.unsaved()] == [device.id for device in fleet]


def test_a_device_that_moves_is_counted_where_it_belongs() -> None:
    fleet = Fleet(heartbeat_s=60)
    for name in ("a", "b"):
        fleet.add(DeviceRecord(DeviceId(name), EU, MAIN, AT))

    fleet.move(DeviceId("a"), Region("us"), MAIN, at=NOW)

    assert fleet.rows(MAIN, EU).tolist() == [1]
    assert fleet.rows(MAIN, Region("us")).tolist() == [0]
    assert fleet.rows(Cohort("nobody"), EU).tolist() == []
