"""The publisher at real brokers that are stopped, killed and emptied."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.db.bundles import BundleRepository
from server.db.database import Database
from server.domain.identity import CampaignId
from server.mqtt import session as session_module
from server.mqtt.session import BrokerAccess, ServerSession
from server.services.blob_wire import TOMBSTONE
from tests.brokers import Broker, mosquitto, nats
from tests.integration.test_publisher import PLAN, POLICY
from tests.mosquitto_peer import require_programs
from tests.mqtt_client import MqttClient
from tests.records import EU
from tests.service_world import World

WAIT_S = 30


@dataclass
class Stage:
    """A campaign whose blobs are at a broker, and a session that stays at it."""

    broker: Broker
    folder: Path
    session: ServerSession
    world: World
    campaign: CampaignId
    blobs: dict[str, bytes]
    """By topic."""

    def retained(self) -> dict[str, bytes]:
        """Return what a device gets that has just connected and asks for all of the campaign's blobs."""
        with MqttClient("127.0.0.1", self.broker.port, client_id="device") as device:
            device.subscribe("end", *self.blobs)
            device.publish("end", b"")
            return {topic: blob for topic, blob in device.receive_until(b"") if topic != "end"}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Publish what there is to be published, until it has come to this."""
        async with asyncio.timeout(WAIT_S):
            while await self.world.publisher.round() or not await asyncio.to_thread(condition):
                await asyncio.sleep(0.05)

    async def come_back(self) -> None:
        since = self.session.up_since
        self.broker.start()
        async with asyncio.timeout(WAIT_S):
            while self.session.up_since in {None, since}:
                await asyncio.sleep(0.05)


@pytest.fixture(params=[nats, pytest.param(mosquitto, marks=pytest.mark.peer)])
async def stage(
    request: pytest.FixtureRequest, store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    monkeypatch.setattr(session_module, "SAMPLE_S", 0.3)
    if request.param is mosquitto:
        require_programs("mosquitto")
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = request.param(folder)
    broker.start()
    world = World(store, tmp_path / "blobs")
    session = ServerSession(BrokerAccess("127.0.0.1", broker.port, "server"), topics=world.topics)
    running = asyncio.create_task(session.run())
    await session.wait_up(WAIT_S)
    world.publisher = world.new_publisher(session)
    release = await world.add_release()
    campaign = await world.start(release, PLAN, POLICY, EU)
    digests = await BundleRepository(store).blobs(release.id)
    topics = {world.topics.blob(digest): await world.blobs.get(digest) for digest in digests}
    yield Stage(broker, folder, session, world, campaign, topics)
    await session.close()
    await running
    broker.stop()


async def test_a_halt_tells_who_is_fetching_and_leaves_nothing_to_who_comes_later(stage: Stage) -> None:
    assert await asyncio.to_thread(stage.retained) == stage.blobs
    with MqttClient("127.0.0.1", stage.broker.port, client_id="fetching") as device:
        topic = next(iter(stage.blobs))
        device.subscribe(topic)
        assert device.receive() == (topic, stage.blobs[topic])

        await stage.world.campaigns.halt(stage.campaign, caller="ann", reason="smoke")
        await stage.until(lambda: True)

        assert [device.receive(), device.receive()] == [(topic, TOMBSTONE), (topic, b"")]
    assert await asyncio.to_thread(stage.retained) == {}


async def test_a_broker_that_comes_back_empty_is_filled_again_before_levels_rise(stage: Stage) -> None:
    stage.broker.kill()
    for path in stage.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.endswith(".conf"):
            path.unlink()
    await stage.come_back()

    await stage.until(lambda: stage.retained() == stage.blobs)

    assert (await stage.world.campaign(stage.campaign)).blobs_ready


async def test_what_a_killed_broker_has_again_is_withdrawn_again(stage: Stage) -> None:
    """Mosquitto has again whatever was cleared since it last wrote its store; what NATS had, it is given by hand."""
    is_mosquitto = (stage.folder / "mosquitto.conf").exists()
    if is_mosquitto:
        stage.broker.send(signal.SIGUSR1)  # write it now
        await stage.until((stage.folder / "mosquitto.db").exists)
    await stage.world.campaigns.halt(stage.campaign, caller="ann", reason="smoke")
    await stage.until(lambda: stage.retained() == {})
    stage.broker.kill()
    await stage.come_back()
    if not is_mosquitto:
        for topic, blob in stage.blobs.items():
            await stage.session.publish_retained(topic, blob)
    assert await asyncio.to_thread(stage.retained) == stage.blobs

    await stage.until(lambda: stage.retained() == {})
