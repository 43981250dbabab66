"""Attacks of one device on the others, and of strangers on all of them, on the real embedded broker."""

import base64
import contextlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import pytest

from firmware_store.errors import InvalidInputError
from server.domain.identity import DeviceId, Region
from server.embedded import EmbeddedBroker, MqttCredential
from server.embedded.credentials import SERVER_NAME, BrokerKeys
from server.embedded.nats_jwt import KeyKind, NKey, Permissions, _part, scoped_user_token, user_token
from tests.mqtt_client import REFUSED, ConnectRefusedError, HungUpError, MqttClient

Connect = Callable[..., AbstractContextManager[MqttClient]]


@pytest.fixture
def connect(broker: EmbeddedBroker) -> Connect:
    def connect_with(credential: MqttCredential, **options: object) -> MqttClient:
        arguments = {
            "client_id": credential.client_id,
            "username": credential.username,
            "password": credential.password,
        }
        return MqttClient(broker.mqtt_host, broker.mqtt_port, **{**arguments, **options})

    return connect_with


FORGED = b"forged"


class Device:
    def __init__(self, region: Region, device_id: DeviceId, credential: MqttCredential) -> None:
        self.id = device_id
        self.base = f"tg/1/{region}/device/{device_id}"
        self.credential = credential


@pytest.fixture
def devices(broker: EmbeddedBroker, region: Region, new_device_id: Callable[[], DeviceId]) -> tuple[Device, Device]:
    """The attacker and the victim."""
    attacker, victim = new_device_id(), new_device_id()
    return (
        Device(region, attacker, broker.issue_device_credential(attacker)),
        Device(region, victim, broker.issue_device_credential(victim)),
    )


@pytest.fixture
def keys(broker: EmbeddedBroker) -> BrokerKeys:
    return broker._known_access()._keys


def test_a_device_may_do_what_it_needs(
    broker: EmbeddedBroker, devices: tuple[Device, Device], connect: Connect, region: Region
) -> None:
    device, _ = devices
    needed = [f"{device.base}/down/{kind}" for kind in ("welcome", "ack", "directive")]
    needed += [
        f"tg/1/{region}/cohort/stable/directive",
        "tg/1/trust/root/+",
        "tg/1/trust/status",
        f"tg/1/blob/{'0' * 64}",
    ]
    with connect(broker.server_credential) as server, connect(device.credential) as client:
        assert server.subscribe(f"tg/1/{region}/device/+/up/+", qos=1) == [1]
        assert client.subscribe(*needed) == [0] * len(needed)
        assert client.subscribe(f"{device.base}/down/directive", qos=1) == [1]

        for topic in needed[:4]:
            server.publish(topic.replace("+", "1"), topic.encode())
            assert client.receive() == (topic, topic.encode())
        for kind in ("hello", "beat", "report"):
            client.publish(f"{device.base}/up/{kind}", kind.encode())
            assert server.receive() == (f"{device.base}/up/{kind}", kind.encode())


@pytest.mark.parametrize(
    "topic",
    [
        "{victim}/down/welcome",
        "{victim}/down/+",
        "{victim}/down/#",
        "{victim}/up/+",
        "{victim}/#",
        "tg/1/{region}/device/+/down/directive",
        "tg/1/{region}/device/+/up/report",
        "tg/1/+/device/+/down/+",
        "tg/1/{region}/device/#",
        "tg/1/{region}/device/*/down/directive",
        "tg/1/{region}/device/>",
        "tg/1/{region}/#",
        "tg/1/{region}/+/+/+/+",
        "tg/1/trust/#",
        "tg/1/blob/#",
        "tg/#",
        "tg/+/+/device/+/down/+",
        "#",
        "+/#",
        "+/1/+/device/+/down/+",
        ">",
        "*/1/{region}/device/x/down/y",
        "{attacker}/up/+",
        "tg.1.{region}.device.{victim_id}.down.ack",
        "tg/1/{region}/device/{{name()}}/down/ack",
        "$MQTT/sub/#",
        "$MQTT/sub/+",
        "$MQTT/msgs/#",
        "$MQTT/rmsgs/#",
        "$MQTT/JSA/#",
        "$SYS/#",
        "$SYS/ACCOUNT/#",
        "$JS/#",
        "$JS/API/#",
        "$share/group/tg/1/+/device/+/up/+",
        "_INBOX/#",
    ],
)
@pytest.mark.parametrize("qos", [0, 1])
def test_a_device_reads_nothing_but_its_own(
    devices: tuple[Device, Device], connect: Connect, region: Region, topic: str, qos: int
) -> None:
    attacker, victim = devices
    wanted = topic.format(attacker=attacker.base, victim=victim.base, victim_id=victim.id, region=region)
    with connect(attacker.credential) as client:
        assert client.subscribe(wanted, qos=qos) == [REFUSED]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize(
    "topic",
    [
        "{victim}/up/report",
        "{victim}/down/directive",
        "{attacker}/down/directive",
        "tg/1/{region}/cohort/stable/directive",
        "tg/1/trust/status",
        "tg/1/trust/root/2",
        "tg/1/blob/00",
    ],
)
def test_a_device_writes_nothing_but_its_own(
    broker: EmbeddedBroker,
    devices: tuple[Device, Device],
    connect: Connect,
    region: Region,
    topic: str,
    qos: int,
    retain: bool,
) -> None:
    attacker, victim = devices
    forbidden = topic.format(attacker=attacker.base, victim=victim.base, region=region)
    with connect(broker.server_credential) as server:
        assert server.subscribe(f"tg/1/{region}/#", "tg/1/trust/#", "tg/1/blob/#") == [0, 0, 0]
        with contextlib.suppress(HungUpError), connect(attacker.credential) as client:
            client.publish(forbidden, FORGED, qos=qos, retain=retain)
        with connect(attacker.credential) as client:
            client.publish(f"{attacker.base}/up/beat", b"end")

        assert FORGED not in payloads_until(server, b"end")

    with connect(broker.server_credential, client_id=f"late-{attacker.id}") as late:
        late.subscribe(forbidden)
        late.publish(forbidden, b"end")

        assert FORGED not in payloads_until(late, b"end")


@pytest.mark.parametrize(
    "topic",
    [
        "tg/1/{region}/device/*/up/report",
        "tg/1/{region}/device/+/up/report",
        "tg/1/{region}/device/>",
        "tg/1/{region}/device/{attacker_id}.{victim_id}/up/report",
        "tg/1/{region}/device/{attacker_id}/{victim_id}/up/report",
        "tg/1/{region}/device//up/report",
        "tg/1/{region}/device/{{{{name()}}}}/up/report",
    ],
)
def test_a_topic_that_is_a_pattern_reaches_nobody(
    broker: EmbeddedBroker, devices: tuple[Device, Device], connect: Connect, region: Region, topic: str
) -> None:
    attacker, victim = devices
    forbidden = topic.format(region=region, attacker_id=attacker.id, victim_id=victim.id)
    with connect(broker.server_credential) as server:
        assert server.subscribe("tg/#") == [0]
        with contextlib.suppress(HungUpError), connect(attacker.credential) as client:
            client.publish(forbidden, FORGED)
        with connect(attacker.credential) as client:
            client.publish(f"{attacker.base}/up/beat", b"end")

        assert FORGED not in payloads_until(server, b"end")


def test_a_message_too_large_ends_the_session_of_its_sender_only(
    broker: EmbeddedBroker, devices: tuple[Device, Device], connect: Connect
) -> None:
    attacker, victim = devices
    with connect(victim.credential) as bystander, connect(broker.server_credential) as server:
        bystander.subscribe(f"{victim.base}/down/ack")
        # the broker may hang up before it has read it all
        with connect(attacker.credential) as client, contextlib.suppress(ConnectionError):
            client.publish(f"{attacker.base}/up/report", bytes(2 * 1024 * 1024), qos=0)
            client.await_hanging_up()
        server.publish(f"{victim.base}/down/ack", b"still here")

        assert bystander.receive() == (f"{victim.base}/down/ack", b"still here")


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize(
    "topic", ["{victim}/up/gone", "{victim}/down/directive", "tg/1/{region}/cohort/stable/directive"]
)
def test_a_last_will_reaches_no_further_than_its_device(
    broker: EmbeddedBroker, devices: tuple[Device, Device], connect: Connect, region: Region, topic: str, retain: bool
) -> None:
    attacker, victim = devices
    forbidden = topic.format(victim=victim.base, region=region)
    own = f"{attacker.base}/up/gone"
    with connect(broker.server_credential) as server:
        assert server.subscribe(f"tg/1/{region}/#") == [0]
        # under two client ids: to take over a session fires no will
        with (
            contextlib.suppress(ConnectRefusedError),
            connect(
                attacker.credential, client_id=f"first-{attacker.id}", will=(forbidden, FORGED, 1, retain)
            ) as client,
        ):
            client.vanish()
        with connect(attacker.credential, will=(own, b"end", 1, retain)) as client:
            client.vanish()

        assert FORGED not in payloads_until(server, b"end")

    with connect(broker.server_credential, client_id=f"late-{attacker.id}") as late:
        late.subscribe(forbidden)
        late.publish(forbidden, b"end")

        assert FORGED not in payloads_until(late, b"end")


def test_a_username_of_another_device_changes_nothing(
    broker: EmbeddedBroker, devices: tuple[Device, Device], connect: Connect
) -> None:
    attacker, victim = devices
    with connect(attacker.credential, username=victim.id) as client:
        assert client.subscribe(f"{victim.base}/down/ack") == [REFUSED]
        assert client.subscribe(f"{attacker.base}/down/ack") == [0]


def test_the_client_ids_of_others_cannot_be_guessed(broker: EmbeddedBroker, devices: tuple[Device, Device]) -> None:
    attacker, victim = devices
    ids = [attacker.credential.client_id, victim.credential.client_id, broker.server_credential.client_id]

    assert len({client_id[-24:] for client_id in ids}) == 3
    assert all(
        len(client_id.removeprefix(name)) == 25 for client_id, name in zip(ids, (attacker.id, victim.id), strict=False)
    )


def test_a_session_taken_over_by_its_client_id_gives_nothing_away(
    broker: EmbeddedBroker, devices: tuple[Device, Device], connect: Connect
) -> None:
    attacker, victim = devices
    with connect(victim.credential, clean_session=False) as client:
        client.subscribe(f"{victim.base}/down/directive", qos=1)
    with connect(broker.server_credential) as server:
        server.publish(f"{victim.base}/down/directive", b"queued")
        with connect(attacker.credential, client_id=victim.credential.client_id, clean_session=False) as thief:
            thief.subscribe(f"{attacker.base}/down/ack")
            server.publish(f"{victim.base}/down/directive", b"live")
            server.publish(f"{attacker.base}/down/ack", b"end")

            assert thief.receive_until(b"end") == []


def test_the_servers_session_gives_nothing_to_a_device(
    broker: EmbeddedBroker, devices: tuple[Device, Device], connect: Connect, region: Region
) -> None:
    attacker, victim = devices
    own = broker.server_credential
    session = f"session-{region}"
    with connect(own, client_id=session, clean_session=False) as server:
        server.subscribe(f"tg/1/{region}/device/+/up/+", qos=1)
    with connect(victim.credential) as client:
        client.publish(f"{victim.base}/up/report", b"secret")
    with connect(attacker.credential, client_id=session, clean_session=False) as thief, connect(own) as server:
        thief.subscribe(f"{attacker.base}/down/ack")
        server.publish(f"{attacker.base}/down/ack", b"end")

        assert thief.receive_until(b"end") == []


@pytest.mark.parametrize(
    "name", ["*", "+", "#", ">", "a.b", "a/b", "$SYS", "%2e", "", "ab", "A23", "-abc", "abc\n", "{{name()}}", "x" * 65]
)
def test_no_credential_is_issued_for_a_name_that_is_a_pattern(broker: EmbeddedBroker, name: str) -> None:
    with pytest.raises(InvalidInputError):
        broker.issue_device_credential(name)


def test_an_expired_credential_is_refused(
    broker: EmbeddedBroker, connect: Connect, new_device_id: Callable[[], DeviceId]
) -> None:
    credential = broker.issue_device_credential(new_device_id(), valid_for=timedelta(seconds=-1))

    with pytest.raises(ConnectRefusedError), connect(credential):
        pass


def test_a_credential_of_another_operator_is_refused(devices: tuple[Device, Device], connect: Connect) -> None:
    attacker, _ = devices
    rogue = NKey.generate(KeyKind.ACCOUNT)
    subject = rogue.derive_public(KeyKind.USER, attacker.id)
    everything = Permissions(publish=(">",), subscribe=(">",))
    token = user_token(rogue, subject=subject, name=attacker.id, permissions=everything, now=datetime.now(UTC))

    with pytest.raises(ConnectRefusedError), connect(attacker.credential, password=token):
        pass


def test_a_rogue_signer_that_names_our_account_is_refused(
    devices: tuple[Device, Device], connect: Connect, keys: BrokerKeys
) -> None:
    attacker, victim = devices
    rogue = NKey.generate(KeyKind.ACCOUNT)
    token = scoped_user_token(
        rogue,
        account=keys._account.public,
        subject=rogue.derive_public(KeyKind.USER, victim.id),
        name=victim.id,
        now=datetime.now(UTC),
    )

    with pytest.raises(ConnectRefusedError), connect(attacker.credential, password=token):
        pass


def test_the_device_key_cannot_grant_more_than_its_template(
    devices: tuple[Device, Device], connect: Connect, keys: BrokerKeys
) -> None:
    attacker, _ = devices
    everything = Permissions(publish=(">",), subscribe=(">",))
    token = user_token(
        keys._device_signer,
        subject=keys._device_signer.derive_public(KeyKind.USER, attacker.id),
        name=attacker.id,
        permissions=everything,
        now=datetime.now(UTC),
    )

    with pytest.raises(ConnectRefusedError), connect(attacker.credential, password=token):
        pass


@pytest.mark.parametrize("password", ["", "x", "a.b.c", None])
def test_nobody_comes_in_without_a_token(
    devices: tuple[Device, Device], connect: Connect, password: str | None
) -> None:
    attacker, _ = devices

    with pytest.raises(ConnectRefusedError), connect(attacker.credential, password=password):
        pass


def test_a_token_with_another_name_put_in_is_refused(devices: tuple[Device, Device], connect: Connect) -> None:
    attacker, victim = devices
    header, claims, signature = attacker.credential.password.split(".")
    forged = json.loads(_decode(claims)) | {"name": victim.id}
    token = ".".join((header, _part(json.dumps(forged).encode()), signature))

    with pytest.raises(ConnectRefusedError), connect(attacker.credential, password=token):
        pass


def test_the_server_has_a_name_that_no_device_can_have(broker: EmbeddedBroker) -> None:
    with pytest.raises(InvalidInputError):
        broker.issue_device_credential(SERVER_NAME)


def payloads_until(client: MqttClient, last: bytes) -> list[bytes]:
    return [payload for _, payload in client.receive_until(last)]


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
