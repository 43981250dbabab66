"""Attacks on the two doors of a real server: by devices at its broker, and by callers of its API."""

import asyncio
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from firmware_store.bundle import read_envelope, replace_envelope
from firmware_store.documents import Kind
from firmware_store.keys import load_key
from firmware_store.root import RoleName, key_file, open_root
from firmware_store.suit import sign_envelope
from server.domain.execution import State
from server.domain.identity import DeviceId, Region
from server.protocol.messages import Gone, Hello, Report, Slot, encode_gone, encode_hello, encode_report
from server.protocol.orders import read_welcome
from tests.agent_world import CAMPAIGN
from tests.mqtt_client import MqttClient
from tests.servers import HARDWARE, VENDOR, Api, ServerProcess, make_bundle, unique

HERE, ELSEWHERE = "attack-here", "attack-elsewhere"
PATIENCE_S = 20


@dataclass
class Intruder:
    """A device of the fleet that has turned against its server: it has its own credential, and nothing else."""

    id: str
    credential: dict[str, Any]
    nonce: bytes = b"nonce of session"

    def connect(self) -> MqttClient:
        chosen = {name: self.credential[name] for name in ("client_id", "username", "password")}
        return MqttClient(self.credential["host"], self.credential["port"], **chosen)

    def topic(self, kind: str, region: str = HERE) -> str:
        return f"tg/1/{region}/device/{self.id}/{kind}"

    def hello(self) -> bytes:
        slot = Slot("a", 0, "1.0.0", b"", "confirmed")
        return encode_hello(Hello(b"bootboot", VENDOR, HARDWARE, "0.1", (slot,), "a", self.nonce))


@pytest.fixture
async def intruder(admin: Api) -> Intruder:
    name = unique("intruder")
    return Intruder(name, await admin.add_device(name, HERE))


async def dropped(admin: Api, reason: str) -> float:
    text = (await admin.get("/metrics")).body.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tidegate_messages_dropped_total" and sample.labels["reason"] == reason
    )


async def until_dropped(admin: Api, reason: str, count: float) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await dropped(admin, reason) < count:
            await asyncio.sleep(0.02)


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "a depth bomb": b"\x81" * 4000 + b"\x01",
    "2^64 items": b"\x9b" + b"\xff" * 8,
    "2^64 bytes": b"\x5b" + b"\xff" * 8,
    "a map of itself": b"\xa1\x01\xa1\x01\xa0",
    "a shared reference": b"\x82\xd8\x1c\x80\xd8\x1d\x00",
    "more than 4 KiB": b"\x59\x13\x88" + bytes(5000),
    "text": b"hello",
}


@pytest.mark.parametrize("payload", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_from_a_device_is_counted_and_stops_nothing(
    admin: Api, intruder: Intruder, payload: bytes
) -> None:
    before = await dropped(admin, "malformed")
    with intruder.connect() as device:
        for kind in ("hello", "beat", "report", "gone"):
            device.publish(intruder.topic(f"up/{kind}"), payload)
        await until_dropped(admin, "malformed", before + 4)

        assert device.subscribe(intruder.topic("down/welcome")) == [0]
        device.publish(intruder.topic("up/hello"), intruder.hello())
        assert device.receive()[0] == intruder.topic("down/welcome")


async def test_a_device_that_speaks_on_another_regions_topic_stays_where_it_is(
    admin: Api, server: ServerProcess, intruder: Intruder
) -> None:
    """The server takes region and cohort from its own record; the answer says so, signed."""
    before = await dropped(admin, "other_region")
    with intruder.connect() as device:
        device.subscribe(intruder.topic("down/welcome", ELSEWHERE))
        device.publish(intruder.topic("up/hello", ELSEWHERE), intruder.hello())
        _, sealed = device.receive()

    root = open_root((server.keys / "root.cbor").read_bytes(), now=None)
    welcome = read_welcome(root.unseal(Kind.WELCOME, sealed).value)
    assert (welcome.device, welcome.region) == (DeviceId(intruder.id), Region(HERE))
    assert await dropped(admin, "other_region") == before + 1
    assert (await admin.get(f"/v1/devices/{intruder.id}")).body["region"] == HERE


async def test_a_report_of_a_campaign_that_is_not_there_changes_nothing(admin: Api, intruder: Intruder) -> None:
    report = Report(1, CAMPAIGN, b"m" * 32, 1, State.CONFIRMED)
    with intruder.connect() as device:
        device.subscribe(intruder.topic("down/ack"))
        device.publish(intruder.topic("up/report"), encode_report(report))

        assert device.receive()[0] == intruder.topic("down/ack")  # it shall not be sent for ever
    assert (await admin.get(f"/v1/campaigns/cmp_{CAMPAIGN.hex}")).status == 404


async def test_a_forged_last_will_ends_no_session(admin: Api, intruder: Intruder) -> None:
    """Only the nonce of the present session counts, and only its own device and the server know it."""
    with intruder.connect() as device:
        device.subscribe(intruder.topic("down/welcome"))
        device.publish(intruder.topic("up/hello"), intruder.hello())
        device.receive()
        device.publish(intruder.topic("up/gone"), encode_gone(Gone(b"bootboot", b"another session!")))
        before = await dropped(admin, "malformed")
        device.publish(intruder.topic("up/beat"), b"behind it")
        await until_dropped(admin, "malformed", before + 1)

        assert (await admin.get(f"/v1/devices/{intruder.id}")).body["online"]


# --- at the API: whoever has a token, for something else --------------------------------------------------------------


async def test_a_gzip_bomb_is_not_unpacked(admin: Api) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    answer = await admin.call("POST", "/v1/devices", data=bomb, headers=headers)

    assert answer.status in {400, 415}
    assert (await admin.get("/readyz")).status == 200


def zip_with_a_path() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../../escaped", b"escaped")
        archive.writestr("/tmp/escaped", b"escaped")
    return file.getvalue()


def tar_with_a_path() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (("../../escaped", tarfile.REGTYPE), ("link", tarfile.SYMTYPE), ("device", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            archive.addfile(member)
    return file.getvalue()


def multipart_without_end() -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../escaped"\r\n\r\nescaped'


@pytest.mark.parametrize("build", [zip_with_a_path, tar_with_a_path, multipart_without_end])
async def test_an_upload_with_paths_in_it_writes_no_file(
    admin: Api, server: ServerProcess, build: Callable[[], bytes]
) -> None:
    before = files_below(server.folder)

    assert (await admin.upload(build())).status == 422
    assert (await admin.upload(build(), **{"Content-Type": "multipart/form-data; boundary=x"})).status == 415
    assert files_below(server.folder) == before
    assert not Path("/tmp/escaped").exists()


def files_below(folder: Path) -> set[Path]:
    """Everything a bundle could have been written to; the database and the broker write their own."""
    return {path for path in folder.rglob("*") if not {"postgres", "broker"} & set(path.relative_to(folder).parts)}


@pytest.mark.parametrize("name", ["../../keys/root.cbor", "..", "%2e%2e%2fkeys", "\0", "bun_../../etc/passwd"])
async def test_an_id_in_a_url_is_never_a_path(admin: Api, name: str) -> None:
    for kind in ("bundles", "campaigns", "devices"):
        url = URL(f"/v1/{kind}/{quote(name, safe='')}", encoded=True)

        assert (await admin.get(url)).status in {404, 422}


async def test_the_keys_of_the_server_sign_no_upload(admin: Api, server: ServerProcess, tmp_path: Path) -> None:
    """Who owns the server's keys and an administrator's token still has no release: the server itself refuses."""
    bundle = make_bundle(tmp_path, server.keys, signers=(1,))
    for role in (RoleName.DIRECTIVE, RoleName.SESSION):
        key = load_key(key_file(server.keys, role), None)
        replace_envelope(bundle, sign_envelope(read_envelope(bundle), key))

    answer = await admin.upload(bundle.read_bytes())

    assert (answer.status, answer.body["type"]) == (422, "https://tidegate.dev/problems/not-trusted")
