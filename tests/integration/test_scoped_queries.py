"""What SQL lets through of a scope is what the scope itself says, for every scope that there can be."""

from itertools import combinations
from uuid import uuid4

import pytest

from firmware_store.errors import NotFoundError
from server.db.campaign_records import CampaignRecord
from server.db.campaigns import CampaignRepository
from server.db.database import Database
from server.db.devices import DeviceRepository, NewDevice
from server.db.executions import ExecutionRepository
from server.db.fleet_executions import FleetExecutionRepository
from server.db.revocations import RevocationId, RevocationRecord, RevocationRepository, propose
from server.db.telemetry import DeviceReport, TelemetryRepository
from server.db.tokens import TokenRecord, TokenRepository
from server.domain.execution import State
from server.domain.filter import DEVICES, Conjunction, read_filter
from server.domain.identity import Cohort, DeviceId, Region
from server.domain.scope import Scope
from server.protocol.messages import Report
from tests.records import EU, MAIN, MANIFEST, START, US, add_bundle, add_campaign, after

REGIONS = (EU, US, Region("asia"))
COHORTS = (MAIN, Cohort("lab"))
PLACES = [(region, cohort) for region in REGIONS for cohort in COHORTS]
SOME_REGIONS = [some for count in (1, 2, 3) for some in combinations(REGIONS, count)]
SOME_COHORTS = [some for count in (1, 2) for some in combinations(COHORTS, count)]
SCOPES = [
    Scope(None if regions is None else frozenset(regions), None if cohorts is None else frozenset(cohorts))
    for regions in (None, *SOME_REGIONS)
    for cohorts in (None, *SOME_COHORTS)
]


def places_of(campaign: CampaignRecord) -> tuple[list[Region], Cohort]:
    return [entry.region for entry in campaign.regions], campaign.cohort


async def test_devices(store: Database) -> None:
    devices = [
        NewDevice(DeviceId(f"gw-{region}-{cohort}-{number}"), region, cohort)
        for region, cohort in PLACES
        for number in range(2)
    ]
    repository = DeviceRepository(store)
    await repository.add(devices, now=START)
    asked = read_filter("NOT region = us OR id = gw-us-lab-1", DEVICES, START)
    for scope in SCOPES:
        within = {device.id for device in devices if scope.has(device.region, device.cohort)}

        page = await repository.page(after="", limit=100, scope=scope)
        assert {record.id for record in page} == within
        found = await repository.find(asked, after="", limit=100, scope=scope)
        assert {record.id for record in found} == {
            name for name in within if not name.startswith("gw-us") or name == "gw-us-lab-1"
        }
        assert len(await repository.find(Conjunction(()), after="", limit=100, scope=scope)) == len(within)
        for device in devices:
            if device.id in within:
                assert (await repository.get(device.id, scope=scope)).id == device.id
            else:
                with pytest.raises(NotFoundError):
                    await repository.hold(device.id, until=None, reason="x", by="x", now=START, scope=scope)
    assert not any(record.held for record in await repository.page(after="", limit=100))


async def test_campaigns_and_the_revocations_they_propose(store: Database) -> None:
    bundle = await add_bundle(store)
    campaigns = [
        await add_campaign(store, bundle, regions=regions, cohort=cohort)
        for regions in SOME_REGIONS
        for cohort in COHORTS
    ]
    async with store.transaction() as connection:
        for number, campaign in enumerate(campaigns):
            digest = number.to_bytes(32)
            await propose(connection, RevocationRecord(RevocationId(uuid4()), digest, campaign.id, "dark", START))
    for scope in SCOPES:
        shown = await CampaignRepository(store).newest(100, scope=scope)
        proposed = await RevocationRepository(store).newest(100, scope=scope)

        assert {one.id for one in shown} == {one.id for one in campaigns if scope.has_some(*places_of(one))}
        assert {one.campaign for one in proposed} == {one.id for one in campaigns if scope.has_all(*places_of(one))}


async def test_executions(store: Database) -> None:
    campaign = await add_campaign(store, await add_bundle(store), regions=REGIONS)
    devices = {DeviceId(f"gw-{region}"): region for region in REGIONS}
    await DeviceRepository(store).add([NewDevice(name, region, MAIN) for name, region in devices.items()], now=START)
    said = Report(sequence=1, campaign=campaign.id, state=State.DOWNLOADING, attempt=1, manifest_digest=MANIFEST)
    reports = [DeviceReport(name, region, said) for name, region in devices.items()]
    await TelemetryRepository(store).store(hellos=[], reports=reports, now=after(1))
    repository, fleet = ExecutionRepository(store), FleetExecutionRepository(store)
    for scope in SCOPES:
        seen = {region for region in REGIONS if scope.has_region(region)} if scope.has_cohort(MAIN) else set()
        assert {one.execution.region for one in await fleet.page(limit=9, scope=scope)} == seen
        if not scope.has_cohort(MAIN):
            for ask in (
                repository.page(campaign.id, after="", limit=9, scope=scope),
                repository.returns(campaign.id, scope=scope),
            ):
                with pytest.raises(NotFoundError):
                    await ask
            continue
        page = await repository.page(campaign.id, after="", limit=9, scope=scope)

        assert {record.region for record in page} == {region for region in REGIONS if scope.has_region(region)}


async def test_tokens(store: Database) -> None:
    repository = TokenRepository(store)
    for number, limits in enumerate(SCOPES):
        await repository.add(TokenRecord(f"{number:08x}", "x", "viewer", b"s", START, scope=limits))
    for scope in SCOPES:
        shown = await repository.newest(100, scope=scope)

        assert {token.id for token in shown} == {
            f"{number:08x}" for number, limits in enumerate(SCOPES) if limits.is_within(scope)
        }
