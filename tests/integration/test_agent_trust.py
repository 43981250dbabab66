"""Root and status over a real broker: devices that were away catch up, and what is revoked is not installed."""

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from device_sim.agent.device import DeviceConfig
from firmware_store.roles import RoleName
from server.domain.execution import State
from server.domain.identity import DeviceId, Region
from server.embedded import EmbeddedBroker
from server.protocol.orders import StatusRef
from server.protocol.reasons import Reason
from tests.integration.test_agent import GOOD
from tests.lab_devices import Lab
from tests.lab_server import LabServer
from tests.trust_world import Authority, authority, bundle_by


class TrustLab(Lab):
    """Devices whose factory pinned the first root of a fleet that has since gone on."""

    def __init__(self, broker: EmbeddedBroker, region: Region, directory: Path, first: Authority) -> None:
        super().__init__(broker, region, directory)
        self.first = first

    def config(self, device: DeviceId) -> DeviceConfig:
        return replace(super().config(device), root_bytes=self.first.sealed)


class TrustServer(LabServer):
    """Speaks with the keys of one authority at a time, and tells its versions in the welcome."""

    async def rotate(self, following: Authority) -> None:
        self.authority, self.keys = following, following.keys
        self.root_version = following.root.version
        self.epoch = following.root.roles[RoleName.DIRECTIVE].epoch
        await self.retain(self.topics.trust_root(following.root.version), following.sealed)

    async def publish_status(self, version: int, **changes: object) -> StatusRef:
        sealed = self.authority.status(version, **changes)
        self.status_version = version
        await self.retain(self.topics.trust_status, sealed)
        return StatusRef(version, hashlib.sha256(sealed).digest())


@pytest.fixture
def first(region: Region) -> Authority:
    """A fleet of the test's own: the broker's trust topics are for all regions."""
    return authority(f"fleet of {region}")


@pytest.fixture
def lab(broker: EmbeddedBroker, region: Region, tmp_path: Path, first: Authority) -> TrustLab:
    return TrustLab(broker, region, tmp_path, first)


@pytest.fixture
async def server(broker: EmbeddedBroker, region: Region, first: Authority) -> AsyncIterator[TrustServer]:
    async with TrustServer(broker, region, keys=first.keys) as running:
        running.authority = first
        yield running


async def test_a_device_that_slept_through_two_rotations_catches_up_and_updates(
    lab: TrustLab, server: TrustServer, first: Authority, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    async with lab.fleet(device):
        await server.until(lambda: len(server.hellos[device]) == 1)
    second = first.rotate(RoleName.DIRECTIVE)
    third = second.rotate(RoleName.SESSION)
    await server.rotate(second)
    await server.rotate(third)
    named = await server.publish_status(1)
    await server.offer(bundle_by(third), status=named)

    async with lab.fleet(device):
        await server.until(lambda: State.CONFIRMED in server.states(device), within_s=40)

    assert server.states(device) == GOOD
    assert (server.hellos[device][0].root_version, server.hellos[device][-1].root_version) == (1, 3)
    assert server.hellos[device][-1].status_version == 1
    assert lab.booted_version(device) == "1.1.0"


async def test_a_connected_fleet_follows_a_rotation_of_every_online_key(
    lab: TrustLab, server: TrustServer, first: Authority, new_device_id: Callable[[], DeviceId]
) -> None:
    devices = [new_device_id() for _ in range(5)]
    async with lab.fleet(*devices):
        await server.until(lambda: all(server.hellos[device] for device in devices))
        second = first.rotate(RoleName.DIRECTIVE)
        third = second.rotate(RoleName.SESSION)
        fourth = third.rotate(RoleName.STATUS)
        for following in (second, third, fourth):
            await server.rotate(following)
        named = await server.publish_status(1)
        await server.offer(bundle_by(fourth), status=named)
        await server.until(lambda: all(State.CONFIRMED in server.states(one) for one in devices), within_s=60)

    assert {lab.booted_version(device) for device in devices} == {"1.1.0"}
    assert {server.hellos[device][-1].root_version for device in devices} == {4}


async def test_the_revocation_of_a_release_turns_its_trial_back(
    broker: EmbeddedBroker, lab: TrustLab, region: Region, first: Authority, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    bundle = bundle_by(first)
    async with TrustServer(broker, region, keys=first.keys, trial_s=60) as server:
        server.authority = first
        await server.offer(bundle)
        async with lab.fleet(device):
            await server.until(lambda: State.TRIAL in server.states(device))
            await server.publish_status(1, revoked_digests=frozenset({bundle.manifest_digest}))
            await server.until(lambda: State.ROLLED_BACK in server.states(device))

    assert server.reports[device][-1].reason is Reason.REVOKED
    assert lab.booted_version(device) == "1.0.0"


async def test_a_status_by_the_directive_key_changes_nothing(
    lab: TrustLab, server: TrustServer, first: Authority, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    bundle = bundle_by(first)
    forged = first.status(9, signer=first.keys.directive, revoked_digests=frozenset({bundle.manifest_digest}))
    await server.retain(server.topics.trust_status, forged)
    await server.offer(bundle)

    async with lab.fleet(device):
        await server.until(lambda: State.CONFIRMED in server.states(device))

    assert "refused" in lab.facts(device)
    assert server.hellos[device][-1].status_version == 0
