"""The configuration in deploy/mosquitto on a real Mosquitto with mutual TLS: attempts to break its access rules."""

import contextlib
import datetime as dt
import getpass
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.mqtt_client import ConnectRefusedError, HungUpError, MqttClient

pytestmark = pytest.mark.peer

SHIPPED = Path(__file__).parents[2] / "deploy" / "mosquitto"
PATIENCE_S = 10
BASE = "tg/1/eu/device"
FORGED = b"forged"


class Authority:
    """Signs what its caller wants signed, which is the point: some of it is an attack."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        authority = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self._certificate = authority.sign(self._key, hashes.SHA256())
        self._write("ca.pem", self._certificate)
        self._revoked: list[int] = []
        self._write_revoked()

    def issue(self, common_name: str, *, file: str, revoked: bool = False) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = self._builder(subject, key).add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        if revoked:
            self._revoked.append(certificate.serial_number)
            self._write_revoked()
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self._folder / f"{file}.key").write_bytes(secret)
        return self._write(f"{file}.pem", certificate), self._folder / f"{file}.key"

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )

    def _write(self, name: str, what: x509.Certificate | x509.CertificateRevocationList) -> Path:
        (self._folder / name).write_bytes(what.public_bytes(serialization.Encoding.PEM))
        return self._folder / name

    def _write_revoked(self) -> None:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - dt.timedelta(hours=1)).next_update(now + dt.timedelta(hours=1))
        for serial in self._revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        self._write("crl.pem", builder.sign(self._key, hashes.SHA256()))


class Mosquitto:
    """A broker that runs the shipped configuration; only its paths and ports differ."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = Authority(folder)
        self.authority.issue("localhost", file="broker")
        self.authority.issue("stolen", file="stolen", revoked=True)
        self._names = iter(range(1_000_000))
        self.device_port, self.server_port = free_port(), free_port()
        shutil.copy(SHIPPED / "acl", folder)
        subprocess.run(
            ["mosquitto_passwd", "-b", "-c", folder / "passwords", "tidegate.server", "secret"],
            check=True,
            capture_output=True,
        )
        config = (SHIPPED / "mosquitto.conf").read_text()
        for shipped, ours in (
            ("/etc/mosquitto/tidegate", str(folder)),
            ("/var/lib/mosquitto/", f"{folder}/"),
            ("listener 8883", f"listener {self.device_port} 127.0.0.1"),
            ("listener 1883", f"listener {self.server_port}"),
        ):
            assert shipped in config
            config = config.replace(shipped, ours)
        (folder / "mosquitto.conf").write_text(f"{config}\nuser {getpass.getuser()}\n")

    def start(self) -> None:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(["mosquitto", "-c", self._folder / "mosquitto.conf"], stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.server_port)).close()
            except ConnectionRefusedError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def server(self, **options: object) -> MqttClient:
        arguments = {"client_id": "server", "username": "tidegate.server", "password": "secret", **options}
        return MqttClient("127.0.0.1", self.server_port, **arguments)

    def device(self, common_name: str, **options: object) -> MqttClient:
        files = self.authority.issue(common_name, file=f"device-{next(self._names)}")
        return self.connect(files, **{"client_id": "any", **options})

    def connect(self, files: tuple[Path, Path] | None, **options: object) -> MqttClient:
        context = ssl.create_default_context(cafile=self._folder / "ca.pem")
        if files:
            context.load_cert_chain(*files)
        return MqttClient("localhost", self.device_port, tls=context, **options)

    def stolen(self) -> MqttClient:
        return self.connect((self._folder / "stolen.pem", self._folder / "stolen.key"), client_id="stolen")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    if not (shutil.which("mosquitto") and shutil.which("mosquitto_passwd")):
        if os.environ.get("TIDEGATE_REQUIRE_PEERS") == "1":
            pytest.fail("mosquitto is not installed, and TIDEGATE_REQUIRE_PEERS=1 wants it")
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.stop()


def payloads_until(client: MqttClient, last: bytes) -> list[bytes]:
    return [payload for _, payload in client.receive_until(last)]


def test_a_device_may_do_what_it_needs(mosquitto: Mosquitto) -> None:
    readable = [f"{BASE}/dev1/down/ack", "tg/1/eu/cohort/stable/directive", "tg/1/trust/root/1", "tg/1/trust/status"]
    with mosquitto.server() as server, mosquitto.device("dev1") as device:
        server.subscribe("tg/1/+/device/+/up/+", qos=1)
        device.subscribe(*readable, f"tg/1/blob/{'0' * 64}")

        for topic in (*readable, f"tg/1/blob/{'0' * 64}"):
            server.publish(topic, topic.encode())
            assert device.receive() == (topic, topic.encode())
        for kind in ("hello", "beat", "report"):
            device.publish(f"{BASE}/dev1/up/{kind}", kind.encode())
            assert server.receive() == (f"{BASE}/dev1/up/{kind}", kind.encode())


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(
    "topic",
    [
        f"{BASE}/dev2/down/ack",
        f"{BASE}/dev2/down/#",
        f"{BASE}/+/down/ack",
        f"{BASE}/#",
        "tg/1/+/device/+/down/+",
        "tg/#",
        "#",
        "+/+/+/+/+/+/+",
        f"{BASE}/%u/down/ack",
        "$share/group/tg/1/eu/device/dev2/down/ack",
        "$share/group/tg/#",
    ],
)
def test_a_device_reads_nothing_but_its_own(mosquitto: Mosquitto, topic: str, qos: int) -> None:
    with mosquitto.server() as server, mosquitto.device("dev1") as thief:
        try:
            thief.subscribe(topic, qos=qos)
        except HungUpError:
            return
        server.publish(f"{BASE}/dev2/down/ack", b"secret")
        server.publish(f"{BASE}/dev2/up/report", b"secret")

        assert b"secret" not in [payload for _, payload in thief.drain()]


def test_retained_messages_of_others_stay_theirs(mosquitto: Mosquitto) -> None:
    with mosquitto.server() as server, mosquitto.device("dev1") as thief:
        server.publish(f"{BASE}/dev3/down/directive", b"secret", retain=True)
        thief.subscribe(f"{BASE}/+/down/directive", f"{BASE}/dev1/down/ack")
        server.publish(f"{BASE}/dev1/down/ack", b"end")

        assert payloads_until(thief, b"end") == []


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize(
    "topic",
    [
        f"{BASE}/dev2/up/report",
        f"{BASE}/dev2/down/directive",
        f"{BASE}/dev1/down/directive",
        "tg/1/eu/cohort/stable/directive",
        "tg/1/trust/status",
        "tg/1/blob/00",
        f"{BASE}/+/up/report",
        f"{BASE}/%u/up/report",
    ],
)
def test_a_device_writes_nothing_but_its_own(mosquitto: Mosquitto, topic: str, qos: int, retain: bool) -> None:
    with mosquitto.server() as server:
        server.subscribe("tg/#")
        with contextlib.suppress(HungUpError), mosquitto.device("dev1") as forger:
            forger.publish(topic, FORGED, qos=qos, retain=retain)
        with mosquitto.device("dev1") as forger:
            forger.publish(f"{BASE}/dev1/up/beat", b"end")

        assert FORGED not in payloads_until(server, b"end")

    with mosquitto.server() as late:
        late.subscribe("tg/#")
        late.publish("tg/end", b"end")

        assert FORGED not in payloads_until(late, b"end")


def test_a_last_will_reaches_no_further_than_its_device(mosquitto: Mosquitto) -> None:
    with mosquitto.server() as server:
        server.subscribe("tg/#")
        for topic in (f"{BASE}/dev2/up/gone", f"{BASE}/dev2/down/directive", "tg/1/eu/cohort/stable/directive"):
            with (
                contextlib.suppress(ConnectRefusedError),
                mosquitto.device("dev1", will=(topic, FORGED, 1, True)) as it,
            ):
                it.vanish()
        with mosquitto.device("dev4", will=(f"{BASE}/dev4/up/gone", b"end", 1, False)) as it:
            it.vanish()

        assert FORGED not in payloads_until(server, b"end")


def test_another_ones_client_id_takes_nothing_over(mosquitto: Mosquitto) -> None:
    with mosquitto.server() as server, mosquitto.device("dev2", clean_session=False) as victim:
        victim.subscribe(f"{BASE}/dev2/down/directive", qos=1)
        for client_id in ("dev2", "tidegate.server"):
            with mosquitto.device("dev1", client_id=client_id, clean_session=False) as thief:
                assert not thief.session_present
                thief.subscribe(f"{BASE}/dev1/down/end")
                server.publish(f"{BASE}/dev2/down/directive", b"secret")
                server.publish(f"{BASE}/dev1/down/end", b"end")

                assert payloads_until(thief, b"end") == []
            assert victim.receive() == (f"{BASE}/dev2/down/directive", b"secret")
            with mosquitto.device("dev1", clean_session=True):
                pass  # forgets the thief's own session


def test_a_user_name_beside_the_certificate_changes_nothing(mosquitto: Mosquitto) -> None:
    with mosquitto.server() as server, mosquitto.device("dev1", username="tidegate.server", password="secret") as thief:
        thief.subscribe(f"{BASE}/dev2/down/ack", f"{BASE}/dev1/down/end")
        server.publish(f"{BASE}/dev2/down/ack", b"secret")
        server.publish(f"{BASE}/dev1/down/end", b"end")

        assert payloads_until(thief, b"end") == []


@pytest.mark.parametrize("name", ["+", "#", "dev2/down/#", "+/down/+"])
def test_a_certificate_whose_name_is_a_pattern_reads_nothing(mosquitto: Mosquitto, name: str) -> None:
    with (
        contextlib.suppress(ConnectRefusedError),
        mosquitto.server() as server,
        mosquitto.device(name) as thief,
    ):
        thief.subscribe(f"{BASE}/dev2/down/ack", f"{BASE}/dev2/down/+")
        server.publish(f"{BASE}/dev2/down/ack", b"secret")

        assert thief.drain() == []


def test_without_a_certificate_nobody_comes_in(mosquitto: Mosquitto) -> None:
    with pytest.raises((ssl.SSLError, ConnectRefusedError, ConnectionError)), mosquitto.connect(None, client_id="x"):
        pass


def test_a_certificate_of_another_authority_is_refused(mosquitto: Mosquitto, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("dev1", file="rogue")

    with pytest.raises((ssl.SSLError, ConnectRefusedError, ConnectionError)), mosquitto.connect(files, client_id="x"):
        pass


def test_a_revoked_certificate_is_refused(mosquitto: Mosquitto) -> None:
    with pytest.raises((ssl.SSLError, ConnectRefusedError, ConnectionError)), mosquitto.stolen():
        pass


@pytest.mark.parametrize(("username", "password"), [(None, None), ("tidegate.server", "guess"), ("dev1", "secret")])
def test_the_servers_door_opens_to_its_password_only(
    mosquitto: Mosquitto, username: str | None, password: str | None
) -> None:
    with pytest.raises(ConnectRefusedError), mosquitto.server(username=username, password=password):
        pass
