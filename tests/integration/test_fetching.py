"""Downloads on real brokers and a real HTTP server: what is fetched twice, what goes on, and what stops."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from device_sim.agent.device import Connect, connect_mqtt
from device_sim.agent.http_client import HttpClient
from device_sim.scenario.channel import Channel
from device_sim.scenario.model import Line
from device_sim.wire.carried_link import carried
from device_sim.wire.fleet_clock import FleetClock
from server.domain.execution import State
from server.domain.identity import DeviceId, Region
from server.embedded import EmbeddedBroker
from server.embedded.credentials import MqttCredential
from server.protocol.orders import Action
from server.protocol.reasons import Reason
from server.protocol.sources import Transport
from tests.agent_world import OTHER_CAMPAIGN, Bundle, chunk_digests, delta, make_bundle
from tests.blob_server import BlobServer
from tests.counted_device import CountedDevice
from tests.lab_devices import Lab
from tests.lab_server import LabServer
from tests.mosquitto_peer import Authority, Mosquitto, require_programs

BUNDLE = make_bundle(sizes=(("app", 60 * 16_384),))
CHUNKS = chunk_digests(BUNDLE)
HALTED_FLEET = 20


@pytest.fixture
def lab(broker: EmbeddedBroker, region: Region, tmp_path: Path) -> Lab:
    return Lab(broker, region, tmp_path)


@pytest.fixture
async def server(broker: EmbeddedBroker, region: Region) -> AsyncIterator[LabServer]:
    async with LabServer(broker, region) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


@pytest.fixture
async def blobs() -> AsyncIterator[BlobServer]:
    async with BlobServer() as running:
        yield running


def is_done(server: LabServer, device: CountedDevice) -> bool:
    return State.CONFIRMED in server.states(device.config.device_id)


def slow_line(bytes_per_s: float) -> Connect:
    """Return a ``connect`` whose links deliver what comes in no faster than that in all, in order."""
    return carried(connect_mqtt, Channel(Line(bandwidth=bytes_per_s), (), Random()), FleetClock(1))


def chunks_in(device: CountedDevice, bundle: Bundle) -> set[str]:
    """The blob topics of the chunks that are in the slot."""
    image, held = bundle.images["app"], device.image("b", "app")
    pieces = range(0, len(image), 16_384)
    same = [held[at : at + 16_384] == image[at : at + 16_384] for at in pieces]
    return {f"tg/1/blob/{digest.hex()}" for digest, is_here in zip(chunk_digests(bundle), same, strict=True) if is_here}


async def test_no_chunk_that_was_written_is_sent_again_after_a_loss_of_power_or_of_the_line(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = CountedDevice(lab.config(new_device_id()), connect=slow_line(400_000))
    await server.offer(BUNDLE)
    for count in (15, 30):
        async with device.powered():
            await device.until(lambda least=count: sum(device.delivered.values()) >= least)  # type: ignore[misc]
        written = chunks_in(device, BUNDLE)
        assert 0 < len(written) < len(CHUNKS)
        device.delivered.clear()

        async with device.powered():
            await device.until(lambda: sum(device.delivered.values()) >= 6)
        assert written.isdisjoint(device.delivered)

    async with device.powered():
        await server.until(lambda: is_done(server, device))
    assert device.image("b", "app") == BUNDLE.images["app"]
    assert {report.attempt for report in server.reports[device.config.device_id]} == {1}


@asynccontextmanager
async def nats(folder: Path) -> AsyncIterator[Any]:
    running = EmbeddedBroker(folder)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


class MosquittoLab(Mosquitto):
    """What a lab needs of an ``EmbeddedBroker``; devices come with certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.authority.issue("localhost", file="broker")
        super().__init__(folder)
        self.mqtt_host, self.mqtt_port = "127.0.0.1", self.server_port
        self.server_credential = MqttCredential("tidegate.server", "secret", "server")

    def issue_device_credential(self, device: DeviceId) -> Any:
        return SimpleNamespace(username=None, password=None, client_id=device)

    def config(self, lab: Lab, device: DeviceId) -> Any:
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(*self.authority.issue(device, file=device))
        return replace(lab.config(device), host="localhost", port=self.device_port, tls=context)


@pytest.mark.parametrize("kind", ["nats", pytest.param("mosquitto", marks=pytest.mark.peer)])
async def test_a_download_goes_on_when_the_broker_has_been_restarted(
    kind: str, region: Region, tmp_path: Path, new_device_id: Callable[[], DeviceId]
) -> None:
    async with AsyncExitStack() as stack:
        (folder := tmp_path / "broker").mkdir()
        if kind == "nats":
            broker: Any = await stack.enter_async_context(nats(folder))
            config = Lab(broker, region, tmp_path).config(new_device_id())
        else:
            require_programs("mosquitto", "mosquitto_passwd")
            broker = stack.enter_context(MosquittoLab(folder))
            config = broker.config(Lab(broker, region, tmp_path), new_device_id())
        server = await stack.enter_async_context(LabServer(broker, region))
        device = CountedDevice(config)
        await server.hold_blobs(BUNDLE)
        await server.withhold(BUNDLE)
        await server.direct(Action.OFFER, BUNDLE)
        async with device.powered():
            await device.until(lambda: len(device.delivered) >= len(CHUNKS) + 2)  # all but one, envelope, index, page

            if kind == "nats":
                await broker.stop()
                await broker.start()
            else:
                await asyncio.to_thread(broker.stop)
                await asyncio.to_thread(broker.start)
            await server.until(lambda: server.sessions == 2)
            await server.retain(f"tg/1/blob/{CHUNKS[-1].hex()}", BUNDLE.blobs[CHUNKS[-1]])
            await server.until(lambda: is_done(server, device))

    assert all(device.delivered[f"tg/1/blob/{digest.hex()}"] == 1 for digest in CHUNKS)
    assert device.image("b", "app") == BUNDLE.images["app"]


async def test_over_the_brokers_budget_everything_comes_over_http_and_nothing_is_asked_of_the_broker(
    lab: Lab, server: LabServer, blobs: BlobServer, http: HttpClient, new_device_id: Callable[[], DeviceId]
) -> None:
    device = CountedDevice(lab.config(new_device_id()), http=http)
    blobs.hold(BUNDLE)
    await server.direct(Action.OFFER, BUNDLE, http=blobs.source())

    async with device.powered():
        await server.until(lambda: is_done(server, device))

    assert device.image("b", "app") == BUNDLE.images["app"]
    assert not [topic for topic in device.requests if topic.startswith("tg/1/blob/")]
    assert sorted(path for _, path in blobs.asked) == sorted(f"/v1/blobs/{digest.hex()}" for digest in BUNDLE.blobs)


async def test_blobs_that_a_broker_has_damaged_come_over_http(
    lab: Lab, server: LabServer, blobs: BlobServer, http: HttpClient, new_device_id: Callable[[], DeviceId]
) -> None:
    """Flipped, truncated, endless, withdrawn, and not there at all."""
    device = CountedDevice(lab.config(new_device_id()), http=http)
    blobs.hold(BUNDLE)
    await server.hold_blobs(BUNDLE)
    good = BUNDLE.blobs[CHUNKS[0]]
    for number, payload in enumerate([bytes([good[0] ^ 1]) + good[1:], good[:-1], bytes(900_000), b"\x00", b""]):
        await server.retain(f"tg/1/blob/{CHUNKS[number].hex()}", payload)
    await server.direct(Action.OFFER, BUNDLE, http=blobs.source(Transport.MQTT))

    async with device.powered():
        await server.until(lambda: is_done(server, device))

    assert device.image("b", "app") == BUNDLE.images["app"]
    assert {f"/v1/blobs/{digest.hex()}" for digest in CHUNKS[:5]} <= {path for _, path in blobs.asked}


async def test_an_http_server_that_misbehaves_is_left_for_the_broker(
    lab: Lab, server: LabServer, blobs: BlobServer, http: HttpClient, new_device_id: Callable[[], DeviceId]
) -> None:
    """Flipped, truncated, endless and refused: each blob in one of these ways."""

    async def misbehave(request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        body = blobs.bodies[path]
        match int(path[-1], 16) % 4:
            case 0:
                return web.Response(body=bytes([body[0] ^ 1]) + body[1:])
            case 1:
                return web.Response(body=body[:-1])
            case 2:
                return web.Response(status=503)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:  # until the device hangs up
            await response.write(bytes(65_536))

    device = CountedDevice(lab.config(new_device_id()), http=http)
    blobs.hold(BUNDLE)
    blobs.answer = misbehave
    await server.offer(BUNDLE, http=blobs.source())

    async with device.powered():
        await server.until(lambda: is_done(server, device))

    assert device.image("b", "app") == BUNDLE.images["app"]
    assert blobs.asked


async def test_a_delta_at_the_broker_is_taken_instead_of_the_chunks(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    image = bytearray(BUNDLE.images["app"])
    for at in range(0, len(image), 10_000):
        image[at] ^= 0xFF
    following = make_bundle(2, "1.2.0", sizes=(("app", len(image)),), contents=(("app", bytes(image)),))
    offered, pieces = delta(BUNDLE, following)
    device = CountedDevice(lab.config(new_device_id()))
    await server.offer(BUNDLE)
    async with device.powered():
        await server.until(lambda: is_done(server, device))
        device.delivered.clear()
        server.reports.clear()

        for digest, piece in pieces.items():
            await server.retain(f"tg/1/blob/{digest.hex()}", piece)
        await server.offer(following, campaign=OTHER_CAMPAIGN, deltas=(offered,))
        await server.until(lambda: is_done(server, device))

    assert device.image("a", "app") == bytes(image)
    wanted = {following.named.digest, *pieces}
    assert set(device.delivered) == {f"tg/1/blob/{digest.hex()}" for digest in wanted}


@pytest.mark.parametrize("over", Transport)
async def test_a_halt_in_mid_download_ends_every_request_of_every_device(
    lab: Lab,
    server: LabServer,
    blobs: BlobServer,
    http: HttpClient,
    new_device_id: Callable[[], DeviceId],
    over: Transport,
) -> None:
    async def take_time(_request: web.Request) -> None:
        await asyncio.sleep(0.1)  # what a slow server does

    connect = slow_line(200_000)
    devices = [CountedDevice(lab.config(new_device_id()), http=http, connect=connect) for _ in range(HALTED_FLEET)]
    blobs.hold(BUNDLE)
    blobs.answer = take_time
    server.heartbeat_s = 1
    if over is Transport.MQTT:
        await server.offer(BUNDLE)
    else:
        await server.direct(Action.OFFER, BUNDLE, http=blobs.source())
    async with AsyncExitStack() as stack:
        for device in devices:
            await stack.enter_async_context(device.powered())
        for device in devices:
            await device.until(lambda device=device: len(device.requests) > 10)  # type: ignore[misc]

        await server.direct(Action.HALT, BUNDLE)
        for device in devices:
            await server.until(lambda device=device: server.states(device.config.device_id)[-1] is State.CANCELLED)  # type: ignore[misc]
        asked_of_server = len(blobs.asked)
        beats = {device.config.device_id: server.beats[device.config.device_id] for device in devices}
        await server.until(lambda: all(server.beats[device] >= before + 2 for device, before in beats.items()))

    assert {server.reports[device.config.device_id][-1].reason for device in devices} == {Reason.HALTED}
    assert all("halt_received" in device.facts for device in devices)
    assert [device.asked_after_halt for device in devices] == [[]] * HALTED_FLEET
    assert len(blobs.asked) == asked_of_server
    assert all(len(chunks_in(device, BUNDLE)) < len(CHUNKS) for device in devices)
