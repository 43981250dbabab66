"""What stands around the agent on a real machine: its configuration, its gates, its health checks, its watchdogs."""

import asyncio
import socket
import stat
from base64 import b64encode
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_sim.agent.boot_environment import EnvironmentFile, SlotInfo, SlotState
from device_sim.agent.device import DeviceConfig
from device_sim.agent.file_slots import provision
from device_sim.agent.health import UnhealthyError, ask_health
from device_sim.agent.runner import Runner
from device_sim.gateway import gateway
from device_sim.gateway.config import AgentConfig, GatesTable, read_config
from device_sim.gateway.device_folder import DeviceFolder
from device_sim.gateway.gates import battery_percent, find_obstacle
from device_sim.gateway.gateway import Gateway
from device_sim.gateway.health_checks import HealthChecks, find_checks
from device_sim.gateway.settings import device_config, sole_agent
from device_sim.gateway.watchdog import ServiceManager, keep_alive
from firmware_store.errors import ConfigurationError, ConflictError
from server.protocol.messages import MAX_DETAIL_CHARACTERS
from server.protocol.reasons import Reason
from tests.agent_world import dev_keys
from tests.ports import free_port

LEAST = """
state = "state"
root = "root.cbor"
device = "gw-0001"
region = "eu"
cohort = "main"
vendor = "acme.example"
hardware = "gw100-rev-b"
[slots]
kind = "files"
[broker]
host = "broker.example"
tls = false
port = 1883
"""


def configured(folder: Path, text: str = LEAST) -> AgentConfig:
    path = folder / "agent.toml"
    path.write_text(text)
    return read_config(path)


def test_the_least_configuration_is_enough_and_its_paths_are_beside_it(tmp_path: Path) -> None:
    (tmp_path / "root.cbor").write_bytes(dev_keys().root_bytes)
    settings = device_config(configured(tmp_path))

    assert settings.directory == tmp_path / "state"
    assert (settings.device_id, settings.region, settings.cohort) == ("gw-0001", "eu", "main")
    assert (settings.host, settings.port, settings.tls) == ("broker.example", 1883, None)
    assert settings.durable


def test_the_example_is_one() -> None:
    config = read_config(Path(__file__).parents[2] / "deploy/agent/agent.toml")

    assert config.slots.kind == "files"
    assert config.gates.windows[0].duration_s == 10_800


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("kind = ", "kind = 3 #"), "slots"),
        (('device = "gw-0001"', 'device = "*"'), "device"),
        (("tls = false", "tsl = false"), "broker.tsl"),
        (("port = 1883", "port = 0"), "broker.port"),
        (("[slots]", "[gates]\nwindows = [{opens = 'never', duration_s = 60}]\n[slots]"), "gates.windows"),
        (("[slots]", "[gates]\ntime_zone = 'Europe/Nowhere'\n[slots]"), "gates.time_zone"),
        (("[slots]", "[slots"), "TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        configured(tmp_path, LEAST.replace(*change))


PARTITIONS = """[slots]
kind = "u-boot"
a = {app = "parts/a"}
b = {app = "parts/b"}
"""


def test_partitions_are_beside_the_file_that_names_them(tmp_path: Path) -> None:
    config = configured(tmp_path, LEAST.replace('[slots]\nkind = "files"\n', PARTITIONS))

    assert config.slots.kind == "u-boot"
    assert (config.slots.a, config.slots.b) == ({"app": tmp_path / "parts/a"}, {"app": tmp_path / "parts/b"})


@pytest.mark.parametrize(
    ("b", "said"),
    [('{app = "parts/a"}', "of its own"), ('{app = "./parts/../parts/a"}', "of its own"), ('{os = "parts/b"}', "same")],
)
def test_no_partition_is_in_both_slots_and_none_is_missing_in_one(tmp_path: Path, b: str, said: str) -> None:
    text = LEAST.replace('[slots]\nkind = "files"\n', PARTITIONS).replace('{app = "parts/b"}', b)

    with pytest.raises(ConfigurationError, match=said):
        configured(tmp_path, text)


@pytest.mark.parametrize("missing", ["root.cbor", "region", "broker"])
def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    (tmp_path / "root.cbor").write_bytes(dev_keys().root_bytes)
    text = LEAST
    if missing == "root.cbor":
        (tmp_path / missing).unlink()
    elif missing == "region":
        text = text.replace('region = "eu"\n', "")
    else:
        text = text.partition("[broker]")[0]

    with pytest.raises(ConfigurationError, match=missing):
        device_config(configured(tmp_path, text))


def test_a_password_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root.cbor").write_bytes(dev_keys().root_bytes)
    (tmp_path / "password").write_text("secret\n")
    config = configured(tmp_path, LEAST + 'username = "u"\npassword_file = "password"\n')
    (tmp_path / "password").chmod(0o600)
    assert device_config(config).password == "secret"

    (tmp_path / "password").chmod(0o644)

    with pytest.raises(ConfigurationError, match="chmod"):
        device_config(config)


def test_two_agents_do_not_share_their_slots(tmp_path: Path) -> None:
    with sole_agent(tmp_path), pytest.raises(ConflictError), sole_agent(tmp_path):
        pass
    with sole_agent(tmp_path):
        pass


def supply(folder: Path, name: str, **facts: str) -> None:
    (folder / name).mkdir(parents=True)
    for fact, value in facts.items():
        (folder / name / fact).write_text(f"{value}\n")


def test_the_emptiest_battery_counts_unless_the_mains_feed_the_device(tmp_path: Path) -> None:
    assert battery_percent(tmp_path / "none") == 100
    supply(tmp_path, "BAT0", type="Battery", capacity="80")
    supply(tmp_path, "BAT1", type="Battery", capacity="23")
    supply(tmp_path, "mouse", type="Battery", capacity="5", scope="Device")
    supply(tmp_path, "AC", type="Mains", online="0")
    assert battery_percent(tmp_path) == 23

    gates = GatesTable(battery_percent_least=40, power_supplies=tmp_path)
    obstacle = find_obstacle(gates, tmp_path)
    assert obstacle is not None
    assert obstacle.reason is Reason.OUTSIDE_WINDOW
    assert "23 %" in obstacle.detail

    (tmp_path / "AC/online").write_text("1\n")
    assert find_obstacle(gates, tmp_path) is None


def test_a_medium_that_is_nearly_full_shuts_the_gate(tmp_path: Path) -> None:
    obstacle = find_obstacle(GatesTable(free_bytes_least=1 << 60), tmp_path)

    assert obstacle is not None
    assert obstacle.reason is Reason.STORAGE_FULL
    assert find_obstacle(GatesTable(free_bytes_least=1), tmp_path) is None


def script(folder: Path, name: str, text: str, *, mode: int = 0o755) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(mode)


def test_only_executables_with_plain_names_are_checks_in_their_order(tmp_path: Path) -> None:
    for name in ("20-app", "10-net", "30-app.dpkg-new", "editor~", ".hidden"):
        script(tmp_path, name, "true")
    script(tmp_path, "15-note", "true", mode=0o644)
    (tmp_path / "dir").mkdir()

    assert [path.name for path in find_checks(tmp_path)] == ["10-net", "20-app"]


async def test_a_folder_of_checks_that_is_not_there_makes_a_release_unhealthy_and_stops_no_agent(
    tmp_path: Path,
) -> None:
    checks = HealthChecks(tmp_path / "health.d", timeout_s=1)

    assert checks.longest_s > 0
    with pytest.raises(UnhealthyError, match="cannot read"):
        await checks.check()


async def test_checks_run_in_order_until_one_says_no_and_why(tmp_path: Path) -> None:
    script(tmp_path, "10-first", f"echo first >> {tmp_path}/ran")
    script(tmp_path, "20-second", f"echo second >> {tmp_path}/ran; echo the modem; echo is mute >&2; exit 3")
    script(tmp_path, "30-third", f"echo third >> {tmp_path}/ran")

    with pytest.raises(UnhealthyError) as said:
        await HealthChecks(tmp_path, timeout_s=20).check()

    assert str(said.value) == "20-second: exit code 3: the modem is mute"
    assert (tmp_path / "ran").read_text().split() == ["first", "second"]
    answer = await ask_health("gw", HealthChecks(tmp_path, timeout_s=20).check)
    assert (answer.healthy, answer.detail) == (False, str(said.value))


async def test_a_check_that_says_too_much_keeps_its_end_and_fits_a_report(tmp_path: Path) -> None:
    script(
        tmp_path,
        "10-loud",
        "for i in 1 2 3 4 5 6 7 8 9; do echo aaaaaaaaaabbbbbbbbbbccccccccccdddd; done; exit 1",
    )

    with pytest.raises(UnhealthyError) as said:
        await HealthChecks(tmp_path, timeout_s=20).check()

    assert len(str(said.value)) == MAX_DETAIL_CHARACTERS
    assert str(said.value).endswith("dddd")


async def test_a_check_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    script(tmp_path, "10-hang", f"(echo $$ > {tmp_path}/pid; exec sleep 1000)")

    with pytest.raises(UnhealthyError, match="not done after"):
        await HealthChecks(tmp_path, timeout_s=0.3).check()

    state = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


async def test_without_checks_a_device_that_is_welcome_is_healthy(tmp_path: Path) -> None:
    assert await HealthChecks(None, timeout_s=1).check()
    assert await HealthChecks(tmp_path, timeout_s=1).check()
    with pytest.raises(UnhealthyError):
        await HealthChecks(tmp_path / "missing", timeout_s=1).check()


async def test_systemd_is_told_that_the_agent_lives(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as ear:
        ear.bind(str(tmp_path / "notify"))
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"})
        assert manager.interval_s == 0.01
        manager.tell("READY=1")
        task = asyncio.create_task(keep_alive(manager, None, interval_s=1, ends_in_order=lambda: True))
        heard = [await asyncio.to_thread(ear.recv, 100) for _ in range(3)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


async def test_a_certificate_that_is_due_is_renewed_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {
        "device": "gw-0001",
        "region": "eu",
        "cohort": "main",
        "certificate": "-",
        "renew_at": "2020-01-01T00:00:00+00:00",
        "expires_at": "2020-02-01T00:00:00+00:00",
        "root": b64encode(dev_keys().root_bytes).decode(),
        "broker": {
            "host": "127.0.0.1",
            "port": free_port(),
            "tls": False,
            "username": "u",
            "password": "first",
            "client_id": None,
            "topic_root": "tg/1",
        },
    }
    DeviceFolder(tmp_path / "identity").keep(answer)
    provision(tmp_path / "state", durable=False)
    config = configured(
        tmp_path,
        'state = "state"\nidentity = "identity"\nvendor = "acme.example"\nhardware = "gw100"\n'
        'slots = {kind = "files"}\nenrolment = {server = "https://updates.example"}\n',
    )
    used: list[str | None] = []
    is_used = asyncio.Event()

    def connect(settings: DeviceConfig) -> None:
        used.append(settings.password)
        if settings.password == "second":
            is_used.set()

    def renew() -> None:
        later = {"renew_at": "2100-01-01T00:00:00+00:00", "broker": {**answer["broker"], "password": "second"}}
        DeviceFolder(config.identity or tmp_path).keep({**answer, **later})

    class Watched(Runner):
        def __init__(self, settings: DeviceConfig, *arguments: Any, **options: Any) -> None:
            connect(settings)
            super().__init__(settings, *arguments, **options)

    monkeypatch.setattr(gateway, "RENEWAL_LOOK_S", 0.02)
    monkeypatch.setattr(gateway, "Runner", Watched)
    device = Gateway(config, manager=ServiceManager({}), renew=renew)
    task = asyncio.create_task(device.run())
    async with asyncio.timeout(20):
        await is_used.wait()
        device.stop()
        await task

    assert used == ["first", "second"]


async def test_nobody_there_to_tell_is_no_error(tmp_path: Path) -> None:
    ServiceManager({}).tell("READY=1")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).tell("READY=1")

    assert ServiceManager({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).interval_s is None


@pytest.mark.parametrize("in_order", [True, False])
async def test_the_kernels_watchdog_is_fed_and_stopped_only_in_order(tmp_path: Path, in_order: bool) -> None:
    device = tmp_path / "watchdog"
    device.touch()
    fed = keep_alive(ServiceManager({}), device, interval_s=0.01, ends_in_order=lambda: in_order)
    task = asyncio.create_task(fed)
    async with asyncio.timeout(10):
        while stat.S_ISREG(device.stat().st_mode) and device.stat().st_size < 3:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    written = device.read_bytes()
    assert written.endswith(b"V") == in_order
    assert set(written.removesuffix(b"V")) == {0}


@pytest.mark.parametrize("found", [SlotState.TRIAL, SlotState.CONFIRMED])
async def test_an_agent_that_cannot_go_on_restarts_the_device_while_its_release_is_on_trial(
    tmp_path: Path, found: SlotState
) -> None:
    store, marker = EnvironmentFile(tmp_path / "state", durable=False), tmp_path / "rebooted"
    provision(tmp_path / "state", durable=False)
    running = SlotInfo("b", found, 1, "1.1.0", b"d" * 32)
    store.write(replace(store.read().with_slot(running), booted="b"))
    reboot = f"[reboot]\ncommand = ['touch', '{marker}']\ntimeout_s = 60\n"
    device = Gateway(configured(tmp_path, LEAST + reboot), manager=ServiceManager({}), renew=lambda: None)

    task = asyncio.create_task(device.run())
    async with asyncio.timeout(20):
        while not marker.exists() and not task.done():
            await asyncio.sleep(0.01)
        device.stop()
        with pytest.raises(ConfigurationError, match=r"root\.cbor"):  # the new image came without it
            await task

    assert marker.exists() == (found is SlotState.TRIAL)
