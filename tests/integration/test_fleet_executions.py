"""Executions of all campaigns as one list: the newest campaign first, page by page, by a filter."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from server.db.database import Database
from server.db.devices import DeviceRepository, NewDevice
from server.db.fleet_executions import FleetExecution, FleetExecutionRepository, Place
from server.db.telemetry import DeviceReport, TelemetryRepository
from server.domain.execution import State
from server.domain.filter import FLEET_EXECUTIONS, read_filter
from server.domain.identity import CAMPAIGN, CampaignId, DeviceId, show
from server.protocol.messages import Report
from tests.records import EU, MAIN, MANIFEST, START, add_bundle, add_campaign, after

DEVICES = [DeviceId(f"gw-{number}") for number in (1, 2, 3)]


@pytest.fixture
async def campaigns(store: Database) -> list[CampaignId]:
    """Three, the newest last, of which each has reached one device more than the one before."""
    await DeviceRepository(store).add([NewDevice(name, EU, MAIN) for name in DEVICES], now=START)
    bundle = await add_bundle(store)
    made = [(await add_campaign(store, bundle, id=CampaignId(UUID(int=one)))).id for one in (1, 2, 3)]
    for number, campaign in enumerate(made, start=1):
        said = Report(sequence=number, campaign=campaign, state=State.DOWNLOADING, attempt=1, manifest_digest=MANIFEST)
        reports = [DeviceReport(name, EU, said) for name in DEVICES[:number]]
        await TelemetryRepository(store).store(hellos=[], reports=reports, now=after(number))
    return made


def places(found: list[FleetExecution]) -> list[Place]:
    return [one.place for one in found]


async def test_pages_of_any_size_follow_each_other(store: Database, campaigns: list[CampaignId]) -> None:
    fleet = FleetExecutionRepository(store)
    everything = [
        Place(campaign, name)
        for number, campaign in reversed(list(enumerate(campaigns, start=1)))
        for name in DEVICES[:number]
    ]
    for limit in range(1, 8):
        found: list[Place] = []
        while page := places(await fleet.page(limit=limit, after=found[-1] if found else None)):
            assert len(page) <= limit
            found += page

        assert found == everything


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("device = gw-1", 3),
        ("device = gw-3", 1),
        ("cohort = main AND region = eu", 6),
        ("cohort = other", 0),
        ("campaign_name = spring AND NOT device = gw-1", 3),
        ("state = failed OR device = gw-2", 2),
    ],
)
async def test_a_filter_looks_at_the_execution_and_at_its_campaign(
    store: Database, campaigns: list[CampaignId], text: str, count: int
) -> None:
    only = read_filter(text, FLEET_EXECUTIONS, datetime.now(UTC))

    found = await FleetExecutionRepository(store).page(limit=9, only=only)

    assert len(found) == count
    assert campaigns


async def test_a_campaign_is_named_by_its_id(store: Database, campaigns: list[CampaignId]) -> None:
    only = read_filter(f"campaign = {show(CAMPAIGN, campaigns[1])}", FLEET_EXECUTIONS, datetime.now(UTC))

    found = await FleetExecutionRepository(store).page(limit=9, only=only, state=State.DOWNLOADING)

    assert places(found) == [Place(campaigns[1], name) for name in DEVICES[:2]]
