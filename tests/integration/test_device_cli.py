"""``tidegate device`` against the real API: the operator's side and the device's."""

import asyncio
import json
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from device_sim.gateway import device_folder as identity
from device_sim.gateway.device_folder import DeviceFolder
from firmware_store.errors import AuthenticationError, ConfigurationError, ConflictError, InvalidInputError
from firmware_store.root import ROOT_FILE
from server.cli import device
from server.cli.enrol import enrol_device
from server.domain.identity import DeviceId
from server.embedded import EmbeddedBroker
from server.services.device_ca import load_device_ca
from tests.enrolment_world import EnrolmentWorld, enrolment_world

NewId = Callable[[], DeviceId]


@pytest.fixture
async def world(database: str, broker: EmbeddedBroker, tmp_path: Path) -> AsyncIterator[EnrolmentWorld]:
    async with enrolment_world(database, tmp_path / "server", broker=broker) as running:
        yield running


class Operator:
    """Runs commands as a person would; what they print on standard output is returned."""

    def __init__(self, world: EnrolmentWorld, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = str(world._client.make_url("")).rstrip("/")
        self._token = world._token
        self._capsys = capsys

    async def run(self, command: Callable[..., None], *arguments: Any, token: bool = True, **options: Any) -> str:
        self._capsys.readouterr()
        given = {"token": self._token} if token else {}
        await asyncio.to_thread(command, *arguments, server=self.url, **given, **options)
        return self._capsys.readouterr().out

    async def claim(self, name: str) -> str:
        lines = (await self.run(device.claim, name)).splitlines()
        return lines[-1]

    async def enrol(self, name: str, out: Path) -> None:
        await self.run(device.enrol, token=False, claim=await self.claim(name), id=name, out=out)


@pytest.fixture
def operator(world: EnrolmentWorld, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(world, capsys)


def assert_belongs_together(folder: Path) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(folder / "device.pem", folder / "device.key")


def serial(folder: Path) -> int:
    return x509.load_pem_x509_certificates((folder / "device.pem").read_bytes())[0].serial_number


def is_let_in(world: EnrolmentWorld, folder: Path) -> bool:
    from tests.mqtt_client import ConnectRefusedError

    try:
        with world.connect(json.loads((folder / "identity.json").read_text())["broker"]):
            return True
    except ConnectRefusedError:
        return False


async def test_a_device_is_claimed_enrolled_renewed_and_revoked(
    world: EnrolmentWorld, operator: Operator, new_device_id: NewId, tmp_path: Path
) -> None:
    name, out = new_device_id(), tmp_path / "device"
    await world.add(name)
    await operator.enrol(name, out)
    first = serial(out)

    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == dict.fromkeys(
        ("device.key", "device.pem", "identity.json", ROOT_FILE), 0o600
    )
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert (out / ROOT_FILE).read_bytes() == world.parts.context.authority.root_bytes
    assert_belongs_together(out)
    assert is_let_in(world, out)

    await operator.run(device.renew, token=False, out=out)
    assert serial(out) == first
    await operator.run(device.renew, token=False, out=out, now=True)
    assert serial(out) != first
    assert not (out / "next.key").exists()
    assert_belongs_together(out)
    assert is_let_in(world, out)

    await operator.run(device.revoke, name, reason="stolen", output="json")
    assert not is_let_in(world, out)
    with pytest.raises(AuthenticationError):
        await operator.run(device.renew, token=False, out=out, now=True)
    revoked = x509.load_pem_x509_crl((await operator.run(device.crl, token=False)).encode())
    assert {entry.serial_number for entry in revoked} == {first, serial(out)}


async def test_a_certificate_that_is_due_is_renewed_unasked(
    world: EnrolmentWorld, operator: Operator, new_device_id: NewId, tmp_path: Path
) -> None:
    name, out = new_device_id(), tmp_path / "device"
    await world.add(name)
    world.enrolment._clock = (datetime.now(UTC) - timedelta(days=60)).timestamp
    await operator.enrol(name, out)
    world.enrolment._clock = lambda: datetime.now(UTC).timestamp()
    first = serial(out)
    await operator.run(device.renew, token=False, out=out)

    assert serial(out) != first


async def test_a_lost_answer_is_made_up_for_by_doing_it_again(
    world: EnrolmentWorld, operator: Operator, new_device_id: NewId, tmp_path: Path
) -> None:
    name, out = new_device_id(), tmp_path / "device"
    await world.add(name)
    token = await operator.claim(name)
    await operator.run(device.enrol, token=False, claim=token, id=name, out=out)
    for lost in ("device.pem", "identity.json", ROOT_FILE):
        (out / lost).unlink()
    await operator.run(device.enrol, token=False, claim=token, id=name, out=out)

    assert_belongs_together(out)
    assert is_let_in(world, out)


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("is_renewal", [False, True], ids=["enrolment", "renewal"])
async def test_the_power_may_go_between_any_two_files(
    world: EnrolmentWorld,
    operator: Operator,
    new_device_id: NewId,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    is_renewal: bool,
) -> None:
    name, out = new_device_id(), tmp_path / "device"
    await world.add(name)
    token = await operator.claim(name)

    async def enrol() -> None:
        await operator.run(device.enrol, token=False, claim=token, id=name, out=out)

    async def renew() -> None:
        await operator.run(device.renew, token=False, out=out, now=True)

    if is_renewal:
        await enrol()
    step = renew if is_renewal else enrol
    written = 0

    def fail_after(write: Callable[..., None]) -> Callable[..., None]:
        def write_or_fail(*arguments: Any, **options: Any) -> None:
            nonlocal written
            if written == after:
                raise PowerCutError
            written += 1
            write(*arguments, **options)

        return write_or_fail

    with monkeypatch.context() as patch:
        for writer in ("write_new_file", "replace_file"):
            patch.setattr(identity, writer, fail_after(getattr(identity, writer)))
        with pytest.raises(PowerCutError):
            await step()
    if is_renewal or not DeviceFolder(out).is_enrolled:
        await step()

    assert_belongs_together(out)
    assert is_let_in(world, out)
    assert not (out / "next.key").exists()


class PowerCutError(Exception):
    pass


async def test_a_folder_is_enrolled_once(
    world: EnrolmentWorld, operator: Operator, new_device_id: NewId, tmp_path: Path
) -> None:
    name, out = new_device_id(), tmp_path / "device"
    await world.add(name)
    await operator.enrol(name, out)
    token = await operator.claim(name)
    with pytest.raises(ConflictError):
        await operator.run(device.enrol, token=False, claim=token, id=name, out=out)

    await operator.run(device.enrol, token=False, claim=token, id=name, out=tmp_path / "other")


async def test_a_trust_root_from_the_factory_stays(
    world: EnrolmentWorld, operator: Operator, new_device_id: NewId, tmp_path: Path
) -> None:
    name, out = new_device_id(), tmp_path / "device"
    await world.add(name)
    out.mkdir()
    (out / ROOT_FILE).write_bytes(b"from the factory")
    await operator.enrol(name, out)

    assert (out / ROOT_FILE).read_bytes() == b"from the factory"


async def test_a_folder_that_is_not_enrolled_cannot_renew(operator: Operator, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not enrolled"):
        await operator.run(device.renew, token=False, out=tmp_path / "nothing", now=True)


async def test_a_damaged_identity_says_what_to_do(
    world: EnrolmentWorld, operator: Operator, new_device_id: NewId, tmp_path: Path
) -> None:
    name, out = new_device_id(), tmp_path / "device"
    await world.add(name)
    await operator.enrol(name, out)
    (out / "identity.json").write_text("{}")

    with pytest.raises(ConfigurationError, match="enrol again"):
        await operator.run(device.renew, token=False, out=out)


@pytest.mark.parametrize("url", ["http://ota.example.com", "http://127.0.0.1.example.com:8080", "ftp://127.0.0.2"])
def test_nothing_is_sent_over_a_way_that_others_can_read(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        device.enrol(claim="tgc_x", id="pump-1", out=tmp_path / "device", server=url)

    assert not (tmp_path / "device").exists()


@pytest.mark.parametrize("name", ["*", "A23", "a.b", "../x"])
def test_a_hostile_id_does_not_leave_the_machine(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        device.enrol(claim="tgc_x", id=name, out=tmp_path / "device", server="http://127.0.0.1:1")

    assert not (tmp_path / "device").exists()


def test_the_authority_of_production_is_encrypted_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "passphrase").write_text("correct horse\n")
    keys = tmp_path / "keys"
    device.init(keys, passphrase_file=tmp_path / "passphrase", name="Acme pumps")
    before = (keys / "device-ca-key.pem").read_bytes()

    assert capsys.readouterr().out.strip() == str(keys / "device-ca.pem")
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in before
    assert stat.S_IMODE((keys / "device-ca-key.pem").stat().st_mode) == 0o600
    assert load_device_ca(keys, passphrase=b"correct horse", production=True) is not None
    certificate = x509.load_pem_x509_certificate((keys / "device-ca.pem").read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=Acme pumps"
    with pytest.raises(ConflictError):
        device.init(keys, passphrase_file=tmp_path / "passphrase")
    assert (keys / "device-ca-key.pem").read_bytes() == before


def test_an_authority_without_a_passphrase_is_not_made_for_production(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("\n")

    with pytest.raises(ConfigurationError):
        device.init(tmp_path / "keys", passphrase_file=tmp_path / "passphrase")
    with pytest.raises(ConfigurationError):
        enrol_device(
            DeviceId("pump-1"),
            "tgc_x",
            tmp_path / "passphrase",
            server="http://127.0.0.1:1",
            algorithm=identity.Algorithm.ESP256,
            allow_http=False,
        )


async def test_the_authoritys_certificate_can_be_exported(world: EnrolmentWorld, operator: Operator) -> None:
    shown = x509.load_pem_x509_certificate((await operator.run(device.show_ca, token=False)).encode())

    assert shown == await world.ca()
    assert shown.public_bytes(serialization.Encoding.DER)
