"""Attacks on the server by messages: each is counted by its reason, none is stored, and the server lives.

The attacker is a stranger with a server's rights at the broker, which is more than any device has, so that nothing but
the server itself stands in the way.
"""

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from urllib.parse import quote
from uuid import uuid4

import cbor2
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from firmware_store.documents import Kind
from firmware_store.root import Root, open_root
from server.domain.execution import State
from server.domain.identity import CampaignId, HardwareClass
from server.embedded import EmbeddedBroker, EmbeddedPostgres
from server.protocol.messages import (
    Beat,
    Counter,
    Gone,
    Hello,
    Report,
    Slot,
    encode_beat,
    encode_gone,
    encode_hello,
    encode_report,
)
from server.protocol.orders import Welcome, read_welcome
from tests.conftest import execute, with_database
from tests.mqtt_client import MqttClient
from tests.servers import HARDWARE, VENDOR, Api, ServerProcess, open_folder, unique

WAIT_S = 20
_nonces = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(postgres: EmbeddedPostgres, broker: EmbeddedBroker) -> AsyncIterator[ServerProcess]:
    """A server of its own, on the tests' database and broker."""
    name = f"attacked_{os.getpid()}"
    await execute(postgres.database_url, f"CREATE DATABASE {name} TEMPLATE template STRATEGY FILE_COPY")
    own = broker.server_credential
    login = f"{quote(own.username, safe='')}:{quote(own.password, safe='')}"
    process = ServerProcess(
        open_folder(),
        heartbeat_s="2",
        database_url=with_database(postgres.database_url, name),
        mqtt_url=f"mqtt://{login}@{broker.mqtt_host}:{broker.mqtt_port}",
        mqtt_client_id=own.client_id,
    )
    process.start()
    yield process
    assert process.stop() == 0
    shutil.rmtree(process.folder)
    await execute(postgres.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def admin(server: ServerProcess) -> AsyncIterator[Api]:
    api = Api(server.url, server.token)
    yield api
    await api.close()


def as_stranger(broker: EmbeddedBroker) -> MqttClient:
    own = broker.server_credential
    return MqttClient(
        broker.mqtt_host,
        broker.mqtt_port,
        client_id=f"{own.client_id}-{unique('attacker')}",
        username=own.username,
        password=own.password,
    )


@pytest.fixture
def attacker(broker: EmbeddedBroker) -> Iterator[MqttClient]:
    with as_stranger(broker) as client:
        yield client


@pytest.fixture
def root(server: ServerProcess) -> Root:
    return open_root((server.keys / "root.cbor").read_bytes(), now=int(time.time()))


class Victim:
    """A device that is known to the server, and the words it would say."""

    def __init__(self) -> None:
        self.id, self.region = unique("gw"), unique("r")
        self.nonce = sha256(self.id.encode()).digest()[:16]

    def topic(self, kind: str, region: str | None = None) -> str:
        return f"tg/1/{region or self.region}/device/{self.id}/up/{kind}"

    def hello(self, **members: object) -> bytes:
        slot = Slot("a", 0, "1.0.0", b"", "confirmed")
        given = {"boot_id": b"bootboot", "vendor": VENDOR, "hardware": HardwareClass(HARDWARE), "agent_version": "1"}
        given |= {"slots": (slot,), "booted": "a", "nonce": self.nonce} | members
        return encode_hello(Hello(**given))


@pytest.fixture
async def victim(admin: Api) -> Victim:
    device = Victim()
    answer = await admin.post(
        "/v1/devices", {"devices": [{"id": device.id, "region": device.region, "cohort": "main"}]}
    )
    assert answer.status == 201, answer
    return device


async def metric(admin: Api, name: str, **labels: str) -> float:
    text = (await admin.get("/metrics")).body.decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


async def dropped(admin: Api, reason: str) -> float:
    return await metric(admin, "tidegate_messages_dropped_total", reason=reason)


async def until_dropped(admin: Api, reason: str, count: float) -> None:
    """Wait until so many have been dropped for the reason, and hold that there are no more."""
    async with asyncio.timeout(WAIT_S):
        while await dropped(admin, reason) < count:
            await asyncio.sleep(0.05)
    assert await dropped(admin, reason) == count


async def greet(attacker: MqttClient, victim: Victim, root: Root, *, region: str | None = None) -> Welcome:
    """Say hello as the device, and return the welcome that the living server signs for it."""

    def talk() -> Welcome:
        attacker.subscribe(f"tg/1/{region or victim.region}/device/{victim.id}/down/welcome")
        victim.nonce = sha256(str(next(_nonces)).encode()).digest()[:16]
        attacker.publish(victim.topic("hello", region), victim.hello())
        while True:
            welcome = read_welcome(root.unseal(Kind.WELCOME, attacker.receive()[1]).value)
            if welcome.nonce == victim.nonce:
                return welcome

    return await asyncio.to_thread(talk)


def say(attacker: MqttClient, topic: str, *payloads: bytes) -> None:
    for payload in payloads:
        attacker.publish(topic, payload)


# --- who ---


async def test_an_unknown_device_is_not_heard(admin: Api, attacker: MqttClient, victim: Victim, root: Root) -> None:
    before = await dropped(admin, "unknown_device")
    stranger = Victim()

    say(attacker, stranger.topic("hello"), stranger.hello())
    say(attacker, stranger.topic("beat"), encode_beat(Beat(b"bootboot", 5)))
    say(attacker, stranger.topic("gone"), encode_gone(Gone(b"bootboot", b"n" * 16)))
    say(attacker, stranger.topic("report"), b"\xa0")

    await until_dropped(admin, "unknown_device", before + 4)
    assert (await admin.get(f"/v1/devices/{stranger.id}")).status == 404
    await greet(attacker, victim, root)


HOSTILE_TOPICS = [
    "tg/1/eu/device/NO-SUCH-NAME/up/beat",
    "tg/1/eu/device/../up/beat",
    "tg/1/EU/device/gw-0001/up/beat",
    "tg/1//device/gw-0001/up/beat",
    "tg/1/eu/device//up/beat",
    "tg/1/eu/device/gw-0001/up/unheard-of",
    "tg/1/eu/device/gw-0001/up/directive",
    "tg/1/eu/device/gw-0001/up/",
    "tg/1/eu/device/\u202egw-0001/up/hello",
    "tg/1/eu/device/" + "a" * 300 + "/up/hello",
]


async def test_a_hostile_topic_is_not_heard(admin: Api, attacker: MqttClient, victim: Victim, root: Root) -> None:
    before = await dropped(admin, "topic")

    for topic in HOSTILE_TOPICS:
        say(attacker, topic, victim.hello())

    await until_dropped(admin, "topic", before + len(HOSTILE_TOPICS))
    await greet(attacker, victim, root)


async def test_a_device_on_another_regions_topic_is_told_where_it_belongs(
    admin: Api, attacker: MqttClient, victim: Victim, root: Root
) -> None:
    before, elsewhere = await dropped(admin, "other_region"), unique("r")

    welcome = await greet(attacker, victim, root, region=elsewhere)
    say(attacker, victim.topic("beat", elsewhere), encode_beat(Beat(b"bootboot", 5, Counter(0, 1 << 40))))

    assert welcome.region == victim.region
    await until_dropped(admin, "other_region", before + 2)
    assert (await admin.get(f"/v1/devices/{victim.id}")).body["region"] == victim.region


async def test_a_last_will_of_another_session_takes_nobody_offline(
    admin: Api, attacker: MqttClient, victim: Victim, root: Root
) -> None:
    await greet(attacker, victim, root)
    before = await metric(admin, "tidegate_messages_total", kind="gone")

    say(attacker, victim.topic("gone"), encode_gone(Gone(b"bootboot", b"another session!")))

    async with asyncio.timeout(WAIT_S):
        while await metric(admin, "tidegate_messages_total", kind="gone") == before:
            await asyncio.sleep(0.05)
    assert (await admin.get(f"/v1/devices/{victim.id}")).body["online"] is True


# --- what ---


def nest(depth: int) -> bytes:
    return b"\x81" * depth + b"\xa0"


MALFORMED = {
    "nothing": b"",
    "no map": b"\x01",
    "garbage": random.Random(5).randbytes(900),
    "half a message": encode_beat(Beat(b"bootboot", 5))[:-3],
    "an empty map": b"\xa0",
    "a map without an end": b"\xbf" + b"\x01\x02" * 50,
    "a text without an end": b"\xa1\x02\x7f" + b"\x61a" * 50 + b"\xff",
    "an array of four billion": b"\xa1\x05\x9a\xff\xff\xff\xff",
    "a text of an exabyte": b"\xa1\x02\x7b\x10\x00\x00\x00\x00\x00\x00\x00",
    "a hundred maps in each other": nest(100),
    "four thousand arrays in each other": nest(4000),
    "the same key twice": b"\xa2\x01\x01\x01\x02",
    "a float where a number must be": cbor2.dumps({1: 1.5, 2: b"x"}),
    "true where a number must be": cbor2.dumps({1: True}),
    "a number beyond 64 bits": cbor2.dumps({1: 1 << 70, 2: 1 << 80}),
    "a decimal with an exponent of a quintillion": b"\xa1\x01\xc4\x82\x1b\x0d\xe0\xb6\xb3\xa7\x64\x00\x00\x01",
    "a value that holds itself": b"\xa1\x05\xd8\x1c\x81\xd8\x1d\x00",
    "a pattern that takes for ever": cbor2.dumps({5: cbor2.CBORTag(35, "(a+)+" * 200 + "$")}),
    "more than four kibibytes": cbor2.dumps({2: "x" * 4096}),
    "sixty kibibytes": b"\xa1\x02\x79\xf0\x00" + b"x" * 0xF000,
    "a megabyte of garbage, nearly": random.Random(6).randbytes(1_000_000),
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_message_is_counted_and_forgotten(
    admin: Api, attacker: MqttClient, victim: Victim, root: Root, payload: bytes
) -> None:
    before = await dropped(admin, "malformed")

    for kind in ("hello", "beat", "report", "gone"):
        say(attacker, victim.topic(kind), payload)

    await until_dropped(admin, "malformed", before + 4)
    await greet(attacker, victim, root)


async def test_a_mebibyte_of_garbage_costs_the_attacker_its_session_and_nobody_else(
    admin: Api, attacker: MqttClient, victim: Victim, root: Root, broker: EmbeddedBroker
) -> None:
    def be_greedy() -> None:
        with as_stranger(broker) as greedy:
            with contextlib.suppress(ConnectionError):  # the broker may hang up before all of it is sent
                greedy.publish(victim.topic("hello"), bytes(1 << 20), qos=0)
            greedy.await_hanging_up()

    async with asyncio.timeout(WAIT_S):
        await asyncio.to_thread(be_greedy)

    await greet(attacker, victim, root)


async def test_a_nul_in_a_label_is_refused_and_stops_nobody_else(
    admin: Api, attacker: MqttClient, victim: Victim, root: Root
) -> None:
    before = await dropped(admin, "refused_by_store")

    say(attacker, victim.topic("hello"), victim.hello(labels={"site": "\0"}))

    await until_dropped(admin, "refused_by_store", before + 1)
    await greet(attacker, victim, root)


async def test_a_report_of_a_campaign_that_was_never_started_changes_nothing(
    admin: Api, attacker: MqttClient, victim: Victim, root: Root
) -> None:
    before = await metric(admin, "tidegate_reports_total", outcome="unknown_campaign")
    report = Report(1, CampaignId(uuid4()), b"m" * 32, 1, State.CONFIRMED)

    say(attacker, victim.topic("report"), encode_report(report))

    async with asyncio.timeout(WAIT_S):
        while await metric(admin, "tidegate_reports_total", outcome="unknown_campaign") == before:
            await asyncio.sleep(0.05)
    await greet(attacker, victim, root)


async def test_a_flood_of_garbage_is_worked_off(admin: Api, attacker: MqttClient, victim: Victim, root: Root) -> None:
    before = await dropped(admin, "malformed")

    await asyncio.to_thread(
        lambda: [attacker.publish(victim.topic("beat"), b"\xff" * 50, qos=0) for _ in range(20_000)]
    )

    await greet(attacker, victim, root)
    async with asyncio.timeout(WAIT_S):
        while await dropped(admin, "malformed") < before + 19_000:
            await asyncio.sleep(0.05)


async def test_a_beat_from_the_far_future_does_not_lift_the_counters(
    admin: Api, attacker: MqttClient, victim: Victim, root: Root
) -> None:
    """Beats are not signed: whoever is believed about a counter could use all of them up."""
    await greet(attacker, victim, root)

    say(attacker, victim.topic("beat"), encode_beat(Beat(b"bootboot", 5, Counter(0, (1 << 63) - 1))))

    welcome = await greet(attacker, victim, root)
    assert welcome.cohort_counter == Counter()
