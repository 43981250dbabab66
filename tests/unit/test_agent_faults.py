"""The simulator's faults, ledger and devices file."""

import json
from pathlib import Path
from uuid import UUID

import pytest

from device_sim.agent.events import Note
from device_sim.faults import DeviceFaults, Fault, FaultKind
from device_sim.inventory import read_devices
from device_sim.ledger import Ledger
from firmware_store.errors import InvalidInputError
from server.domain.identity import CampaignId, DeviceId, HardwareClass
from server.protocol.reasons import Reason

HARDWARE = HardwareClass("gw100-rev-c")
DEVICES = [DeviceId(f"gw-{number:04}") for number in range(2000)]


def struck(text: str, *, seed: int = 1, hardware: HardwareClass = HARDWARE) -> set[DeviceId]:
    fault = Fault.parse(text)
    return {device for device in DEVICES if fault.strikes(device, hardware, seed=seed)}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("brick@1.2.0=30%", Fault(FaultKind.BRICK, 0.3, "1.2.0")),
        ("brick@1.2.0[hw=gw100-rev-c]=50%", Fault(FaultKind.BRICK, 0.5, "1.2.0", "gw100-rev-c")),
        ("unhealthy@2.0.0-rc.1=100%", Fault(FaultKind.UNHEALTHY, 1.0, "2.0.0-rc.1")),
        ("noboot@1.2.0=0.5%", Fault(FaultKind.NOBOOT, 0.005, "1.2.0")),
        ("slow=20%:32KiB/s", Fault(FaultKind.SLOW, 0.2, bytes_per_s=32 * 1024)),
        ("slow[hw=gw100-rev-b]=1%:9B/s", Fault(FaultKind.SLOW, 0.01, "", "gw100-rev-b", 9)),
    ],
)
def test_a_fault_is_read(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize(
    "text",
    ["", "brick", "brick@1.2.0", "brick@1.2.0=30", "brick@1.2.0=101%", "melt@1.2.0=3%", "slow=3%", "slow=3%:0B/s"],
)
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        Fault.parse(text)


def test_about_as_many_devices_are_struck_as_asked_for() -> None:
    assert 520 < len(struck("brick@1.2.0=30%")) < 680
    assert len(struck("brick@1.2.0=0%")) == 0
    assert len(struck("brick@1.2.0=100%")) == len(DEVICES)


def test_the_same_seed_strikes_the_same_devices() -> None:
    assert struck("brick@1.2.0=30%") == struck("brick@1.2.0=30%")
    assert struck("brick@1.2.0=30%") != struck("brick@1.2.0=30%", seed=2)


def test_a_higher_ratio_only_adds_devices() -> None:
    assert struck("brick@1.2.0=10%") < struck("brick@1.2.0=30%")


def test_faults_strike_independently_of_each_other() -> None:
    assert len(struck("brick@1.2.0=50%") & struck("unhealthy@1.2.0=50%")) < 600


def test_a_fault_of_other_hardware_strikes_nobody() -> None:
    assert struck("brick@1.2.0[hw=gw100-rev-b]=100%") == set()


def test_a_device_has_its_faults_in_their_version_only() -> None:
    texts = ("brick@1.2.0=100%", "unhealthy@1.3.0=100%", "noboot@1.4.0=100%", "slow=100%:2KiB/s", "slow=100%:1KiB/s")
    faults = DeviceFaults.of([Fault.parse(text) for text in texts], DEVICES[0], HARDWARE, seed=0)

    assert (faults.bricks("1.2.0"), faults.bricks("1.1.0")) == (True, False)
    assert (faults.is_unhealthy("1.3.0"), faults.is_unhealthy("1.2.0")) == (True, False)
    assert (faults.boots("1.4.0"), faults.boots("1.3.0")) == (False, True)
    assert faults.bytes_per_s == 1024
    assert DeviceFaults().bytes_per_s is None


def test_the_ledger_has_a_line_a_fact(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.write(DEVICES[0], Note("connected"))
    ledger.write(DEVICES[0], Note("stopped", CampaignId(UUID(int=5)), "1.2.0", "b", Reason.HALTED))
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    ledger.close()

    first, second = (json.loads(line) for line in lines)
    assert {key: value for key, value in first.items() if key != "t"} == {"device": "gw-0000", "event": "connected"}
    assert second["campaign"] == "00000000-0000-0000-0000-000000000005"
    assert (second["version"], second["slot"], second["reason"]) == ("1.2.0", "b", "halted")
    assert second["t"] >= first["t"] > 1.6e9


def test_a_devices_file_is_read(tmp_path: Path) -> None:
    line = {
        "id": "gw-0001",
        "region": "eu",
        "cohort": "main",
        "vendor": "acme.example",
        "hardware": "gw100-rev-c",
        "host": "127.0.0.1",
        "port": 1883,
        "username": "gw-0001",
        "password": "secret",
        "client_id": "gw-0001-abc",
        "topic_root": "tg/1",
        "unknown": "ignored",
    }
    (tmp_path / "fleet.jsonl").write_text(json.dumps(line) + "\n\n")

    (entry,) = read_devices(tmp_path / "fleet.jsonl")
    config = entry.config(directory=tmp_path, root_bytes=b"", host=None, port=2883)

    assert (config.device_id, config.client_id, config.port) == ("gw-0001", "gw-0001-abc", 2883)
    assert config.directory == tmp_path / "gw-0001"


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "gw-0001"}', "7"])
def test_a_line_that_is_no_device_is_told_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "fleet.jsonl").write_text("\n" + line)

    with pytest.raises(InvalidInputError, match="line 2"):
        read_devices(tmp_path / "fleet.jsonl")


def test_a_hostile_device_id_does_not_become_a_folder(tmp_path: Path) -> None:
    line = {"id": "../../etc", "region": "eu", "cohort": "main", "vendor": "v", "hardware": "h", "host": "", "port": 1}
    (tmp_path / "fleet.jsonl").write_text(json.dumps(line))
    (entry,) = read_devices(tmp_path / "fleet.jsonl")

    with pytest.raises(InvalidInputError):
        entry.config(directory=tmp_path, root_bytes=b"", host=None, port=None)
