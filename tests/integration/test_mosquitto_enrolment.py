"""Devices with certificates from our own enrolment on a real Mosquitto: what each may do, and how it is shut out.

The list of revoked certificates travels as it does in production: by deploy/mosquitto/update-crl.
"""

import asyncio
import contextlib
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from firmware_store.keys import Algorithm, SigningKey
from server.domain.identity import DeviceId
from tests.enrolment_world import DeviceSide, EnrolmentWorld, enrolment_world
from tests.mosquitto_peer import SHIPPED, Authority, Files, Mosquitto, require_programs
from tests.mqtt_client import ConnectRefusedError, HungUpError, MqttClient

pytestmark = pytest.mark.peer

BASE = "tg/1/eu/device"
PATIENCE_S = 20
NewId = Callable[[], DeviceId]
TLS_REFUSALS = (ssl.SSLError, ConnectRefusedError, ConnectionError, HungUpError)


@dataclass
class Site:
    """An enrolment API and a Mosquitto that believes its CA."""

    world: EnrolmentWorld
    broker: Mosquitto
    folder: Path

    async def device(self, name: str, algorithm: Algorithm = Algorithm.ESP256) -> Files:
        return (await self.world.enrolled(name, algorithm=algorithm)).keep(self.folder)

    def connect(self, files: Files | None, **options: object) -> MqttClient:
        return self.broker.connect(files, **options)

    def is_let_in(self, files: Files) -> bool:
        try:
            with self.connect(files) as client:
                client.drain()
                return True
        except TLS_REFUSALS:
            return False

    async def update_crl(self, url: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the shipped script; it says what it would have done to Mosquitto, and that is done."""
        environment = {
            **os.environ,
            "TIDEGATE_URL": url or str(self.world._client.make_url("")),
            "MOSQUITTO_RESTART": "echo restart",
            "MOSQUITTO_RELOAD": "echo reload",
        }
        done = await asyncio.to_thread(
            lambda: subprocess.run(
                [SHIPPED / "update-crl", self.broker.folder],
                check=False,
                capture_output=True,
                text=True,
                env=environment,
                timeout=PATIENCE_S,
            )
        )
        if done.stdout == "restart\n":
            self.broker.stop()
            self.broker.start()
        elif done.stdout == "reload\n":
            self.broker.reload()
        return done


@pytest.fixture
async def site(database: str, tmp_path: Path) -> AsyncIterator[Site]:
    require_programs("mosquitto", "mosquitto_passwd", "openssl", "curl")
    folder = tmp_path / "mosquitto"
    (tmp_path / "public").mkdir()
    folder.mkdir()
    public = Authority(tmp_path / "public")  # signs the broker, as in production somebody else does
    for issued, name in zip(public.issue("localhost", file="broker"), ("broker.pem", "broker.key"), strict=True):
        shutil.copy(issued, folder / name)
    async with enrolment_world(database, tmp_path) as world:
        (folder / "ca.pem").write_bytes((await world.knock("GET", "/v1/enrol/ca")).body)
        broker = Mosquitto(folder, trusted_ca=tmp_path / "public" / "ca.pem")
        site = Site(world, broker, tmp_path)
        assert (await site.update_crl()).returncode == 0
        with broker:
            yield site


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_an_enrolled_device_may_do_what_it_needs(site: Site, algorithm: Algorithm) -> None:
    files = await site.device("pump-1", algorithm)
    with site.broker.server() as server, site.connect(files) as device:
        server.subscribe("tg/1/+/device/+/up/+", qos=1)
        device.subscribe(f"{BASE}/pump-1/down/directive", "tg/1/eu/cohort/main/directive")
        server.publish(f"{BASE}/pump-1/down/directive", b"for me")
        server.publish("tg/1/eu/cohort/main/directive", b"for us")
        device.publish(f"{BASE}/pump-1/up/hello", b"hello")

        assert device.receive() == (f"{BASE}/pump-1/down/directive", b"for me")
        assert device.receive() == ("tg/1/eu/cohort/main/directive", b"for us")
        assert server.receive() == (f"{BASE}/pump-1/up/hello", b"hello")


async def test_a_device_cannot_speak_or_listen_as_another(site: Site) -> None:
    thief, victim = await site.device("pump-1"), await site.device("pump-2")
    with site.broker.server() as server, site.connect(victim) as device:
        server.subscribe("tg/#")
        device.subscribe(f"{BASE}/pump-2/down/directive")
        with site.connect(thief, username="pump-2") as attacker:
            attacker.subscribe(f"{BASE}/pump-2/down/directive", f"{BASE}/+/down/+", "#")
            for topic in (f"{BASE}/pump-2/up/report", f"{BASE}/pump-2/down/directive", "tg/1/trust/status"):
                attacker.publish(topic, b"forged", retain=True)
            attacker.publish(f"{BASE}/pump-1/up/beat", b"end")

            assert server.receive_until(b"end") == []
            server.publish(f"{BASE}/pump-2/down/directive", b"secret")
            assert device.receive() == (f"{BASE}/pump-2/down/directive", b"secret")
            assert attacker.drain() == []


@pytest.mark.parametrize("client_id", ["pump-2", "tidegate.server", "+", "#", "*", ">", "a/b", "a.b", "UPPER", "a\0b"])
async def test_a_device_cannot_take_anothers_session_over(site: Site, client_id: str) -> None:
    thief, victim = await site.device("pump-1"), await site.device("pump-2")
    topic = f"{BASE}/pump-2/down/directive"
    with site.broker.server() as server, site.connect(victim, clean_session=False) as device:
        device.subscribe(topic, qos=1)
        with (
            contextlib.suppress(*TLS_REFUSALS),
            site.connect(thief, client_id=client_id, clean_session=False) as attacker,
        ):
            assert not attacker.session_present
            server.publish(topic, b"secret")
            assert attacker.drain() == []
        server.publish(topic, b"end")

        assert device.receive_until(b"end") in ([], [(topic, b"secret")])


async def test_an_expired_certificate_is_refused(site: Site) -> None:
    site.world.enrolment._clock = (datetime.now(UTC) - timedelta(days=90, minutes=1)).timestamp
    expired = await site.device("pump-1")
    site.world.enrolment._clock = lambda: datetime.now(UTC).timestamp()

    assert not site.is_let_in(expired)
    assert site.is_let_in(await site.device("pump-2"))


async def test_a_revoked_device_is_thrown_off_and_others_come_back(site: Site) -> None:
    stolen, honest = await site.device("pump-1"), await site.device("pump-2")
    assert site.is_let_in(honest)
    with site.connect(stolen) as session:
        await site.world.revoke("pump-1")
        updated = await site.update_crl()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(session.await_hanging_up)

    assert updated.stdout == "restart\n"
    assert not site.is_let_in(stolen)
    assert site.is_let_in(honest)


async def test_a_revoked_device_comes_back_with_a_new_claim_only(site: Site) -> None:
    device = await site.world.enrolled("pump-1")
    await site.world.revoke("pump-1")
    await site.update_crl()
    (site.folder / "again").mkdir()
    again = DeviceSide("pump-1")
    await site.world.enrol(again, await site.world.claim("pump-1"))

    assert not site.is_let_in(device.keep(site.folder))
    assert site.is_let_in(again.keep(site.folder / "again"))


async def test_a_renewed_certificate_and_the_old_one_are_good_side_by_side(site: Site) -> None:
    device = await site.world.enrolled("pump-1")
    old = device.keep(site.folder)
    (site.folder / "new").mkdir()
    await site.world.renew(device, SigningKey.generate(Algorithm.ESP256))

    assert site.is_let_in(old)
    assert site.is_let_in(device.keep(site.folder / "new"))


async def test_a_fresh_list_without_news_ends_no_session(site: Site) -> None:
    files = await site.device("pump-1")
    with site.connect(files) as session:
        site.world.enrolment._crl = None  # as an hour later
        updated = await site.update_crl()
        same = await site.update_crl()

        assert (updated.stdout, same.stdout) == ("reload\n", "")
        assert session.drain() == []
    assert site.is_let_in(files)


async def test_a_list_read_again_is_enforced_without_a_restart(site: Site) -> None:
    stolen = await site.device("pump-1")
    await site.world.revoke("pump-1")
    fetched = (await site.world.knock("GET", "/v1/enrol/crl")).body
    (site.broker.folder / "crl.pem").write_bytes(fetched)
    site.broker.reload()
    async with asyncio.timeout(PATIENCE_S):
        while site.is_let_in(stolen):
            await asyncio.sleep(0.05)


def _serve(folder: Path, body: bytes) -> Iterator[str]:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_list_that_is_forged_old_or_missing_is_not_taken(site: Site, tmp_path: Path) -> None:
    stolen = await site.device("pump-1")
    older = (site.broker.folder / "crl.pem").read_bytes()
    await site.world.revoke("pump-1")
    await site.update_crl()
    ours = (site.broker.folder / "crl.pem").read_bytes()
    forged = (tmp_path / "public" / "crl.pem").read_bytes()  # well signed, by another authority

    for body in (older, forged, b"", b"nonsense", ours[:-80]):
        with contextlib.contextmanager(_serve)(tmp_path, body) as url:
            refused = await site.update_crl(url)
        assert refused.returncode == 1, body
        assert "stays as it was" in refused.stderr
    unreachable = await site.update_crl("http://127.0.0.1:1")

    assert unreachable.returncode == 1
    assert (site.broker.folder / "crl.pem").read_bytes() == ours
    assert [path.name for path in site.broker.folder.glob(".crl*")] == []
    assert not site.is_let_in(stolen)


@pytest.mark.parametrize(("purpose", "good"), [("sslclient", True), ("sslserver", False), ("crlsign", False)])
async def test_a_devices_certificate_is_for_a_client_and_nothing_else(site: Site, purpose: str, good: bool) -> None:
    chain, _ = await site.device("pump-1")
    verified = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", site.broker.folder / "ca.pem", chain],
        check=False,
        capture_output=True,
        text=True,
    )

    assert (verified.returncode == 0) is good, verified.stderr


async def test_a_device_cannot_sign_another(site: Site, tmp_path: Path) -> None:
    chain, key = await site.device("pump-1")
    (tmp_path / "rogue").mkdir()
    _, rogue_key = Authority(tmp_path / "rogue").issue("pump-2", file="rogue")
    request = ["openssl", "req", "-new", "-key", rogue_key, "-subj", "/CN=pump-2", "-out", tmp_path / "csr"]
    sign = ["openssl", "x509", "-req", "-in", tmp_path / "csr", "-CA", chain, "-CAkey", key, "-set_serial", "7"]
    subprocess.run(request, check=True, capture_output=True)
    signed = subprocess.run(sign, check=True, capture_output=True).stdout
    (tmp_path / "rogue.pem").write_bytes(signed + chain.read_bytes())

    assert not site.is_let_in((tmp_path / "rogue.pem", rogue_key))
