"""The configuration in deploy/mosquitto on a real Mosquitto with mutual TLS: attempts to break its access rules."""

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mosquitto_peer import Authority, Mosquitto, require_programs
from tests.mqtt_client import ConnectRefusedError, HungUpError, MqttClient

pytestmark = pytest.mark.peer

BASE = "tg/1/eu/device"
FORGED = b"forged"


class Lab(Mosquitto):
    """A broker that believes an authority which signs anything."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.authority.issue("localhost", file="broker")
        self.authority.issue("stolen", file="stolen", revoked=True)
        self._names = iter(range(1_000_000))
        super().__init__(folder)

    def device(self, common_name: str, **options: object) -> MqttClient:
        return self.connect(self.authority.issue(common_name, file=f"device-{next(self._names)}"), **options)

    def stolen(self) -> MqttClient:
        return self.connect((self.folder / "stolen.pem", self.folder / "stolen.key"), client_id="stolen")


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    require_programs("mosquitto", "mosquitto_passwd")
    with Lab(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


def payloads_until(client: MqttClient, last: bytes) -> list[bytes]:
    return [payload for _, payload in client.receive_until(last)]


def test_a_device_may_do_what_it_needs(mosquitto: Lab) -> None:
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
def test_a_device_reads_nothing_but_its_own(mosquitto: Lab, topic: str, qos: int) -> None:
    with mosquitto.server() as server, mosquitto.device("dev1") as thief:
        try:
            thief.subscribe(topic, qos=qos)
        except HungUpError:
            return
        server.publish(f"{BASE}/dev2/down/ack", b"secret")
        server.publish(f"{BASE}/dev2/up/report", b"secret")

        assert b"secret" not in [payload for _, payload in thief.drain()]


def test_retained_messages_of_others_stay_theirs(mosquitto: Lab) -> None:
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
def test_a_device_writes_nothing_but_its_own(mosquitto: Lab, topic: str, qos: int, retain: bool) -> None:
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


def test_a_last_will_reaches_no_further_than_its_device(mosquitto: Lab) -> None:
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


def test_another_ones_client_id_takes_nothing_over(mosquitto: Lab) -> None:
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


def test_a_user_name_beside_the_certificate_changes_nothing(mosquitto: Lab) -> None:
    with mosquitto.server() as server, mosquitto.device("dev1", username="tidegate.server", password="secret") as thief:
        thief.subscribe(f"{BASE}/dev2/down/ack", f"{BASE}/dev1/down/end")
        server.publish(f"{BASE}/dev2/down/ack", b"secret")
        server.publish(f"{BASE}/dev1/down/end", b"end")

        assert payloads_until(thief, b"end") == []


@pytest.mark.parametrize("name", ["+", "#", "dev2/down/#", "+/down/+"])
def test_a_certificate_whose_name_is_a_pattern_reads_nothing(mosquitto: Lab, name: str) -> None:
    with (
        contextlib.suppress(ConnectRefusedError),
        mosquitto.server() as server,
        mosquitto.device(name) as thief,
    ):
        thief.subscribe(f"{BASE}/dev2/down/ack", f"{BASE}/dev2/down/+")
        server.publish(f"{BASE}/dev2/down/ack", b"secret")

        assert thief.drain() == []


def test_without_a_certificate_nobody_comes_in(mosquitto: Lab) -> None:
    with pytest.raises((ssl.SSLError, ConnectRefusedError, ConnectionError)), mosquitto.connect(None, client_id="x"):
        pass


def test_a_certificate_of_another_authority_is_refused(mosquitto: Lab, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("dev1", file="rogue")

    with pytest.raises((ssl.SSLError, ConnectRefusedError, ConnectionError)), mosquitto.connect(files, client_id="x"):
        pass


def test_a_revoked_certificate_is_refused(mosquitto: Lab) -> None:
    with pytest.raises((ssl.SSLError, ConnectRefusedError, ConnectionError)), mosquitto.stolen():
        pass


@pytest.mark.parametrize(("username", "password"), [(None, None), ("tidegate.server", "guess"), ("dev1", "secret")])
def test_the_servers_door_opens_to_its_password_only(
    mosquitto: Lab, username: str | None, password: str | None
) -> None:
    with pytest.raises(ConnectRefusedError), mosquitto.server(username=username, password=password):
        pass
