"""The agent as a process on a real server and broker: enrolled by a claim, killed in mid-install, and confirmed."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from device_sim.agent.boot_environment import EnvironmentFile
from server.cli import agent
from tests.servers import HARDWARE, QUICK_RULE, ROOT, VENDOR, Api, ServerProcess, make_bundle, shared_server, unique

pytestmark = pytest.mark.slow

WAIT_S = 60.0
APP = os.urandom(6_000_000)  # takes half a second to come, in which the agent is killed
POLICY = {"halt": QUICK_RULE, "trial_s": 1, "confirm_s": 120, "watch_s": 1}


class Machine:
    """A machine that boots, and runs the agent for as long as it is on."""

    def __init__(self, folder: Path, device: str, server: ServerProcess, claim: str) -> None:
        self.state = folder / "state"
        self.log = folder / "agent.log"
        self.config = folder / "agent.toml"
        (folder / "claim").write_text(claim)
        (folder / "claim").chmod(0o600)
        checks = folder / "health.d"
        checks.mkdir()
        self.checked = folder / "checked"
        (checks / "10-app").write_text(f"#!/bin/sh\necho checked >> {self.checked}\n")
        (checks / "10-app").chmod(0o755)
        self.config.write_text(
            f'state = "state"\nidentity = "identity"\nroot = "{server.keys / "root.cbor"}"\n'
            f'device = "{device}"\nvendor = "{VENDOR}"\nhardware = "{HARDWARE}"\nhttp = false\n'
            '[slots]\nkind = "files"\n'
            f'[enrolment]\nserver = "{server.url}"\nclaim_file = "claim"\n'
            '[health]\ndirectory = "health.d"\n'
            '[reboot]\ncommand = ["sh", "-c", "kill -TERM $PPID"]\n'
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind(str(folder / "notify"))
        self._ear.setblocking(False)
        self._environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "4000000"}

    def boot(self) -> None:
        agent.boot(config=self.config)
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "server", "agent", "run", "--config", str(self.config), "--log-json"]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stderr=log
            )

    def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(WAIT_S)

    def cut(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)
        self._ear.close()

    def heard(self) -> list[bytes]:
        """What it has said to systemd since the last time."""
        said: list[bytes] = []
        with suppress(BlockingIOError):
            while True:
                said.append(self._ear.recv(100))
        return said

    @property
    def notes(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line)["what"] for line in lines if '"agent_note"' in line]

    @property
    def is_off(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    @property
    def has_begun_to_write(self) -> bool:
        image = self.state / "slots/b/app.img"
        return image.exists() and image.stat().st_blocks > 0

    async def until(self, *, note: str = "", off: bool = False, writing: bool = False) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not (
                    (note and note in self.notes) or (off and self.is_off) or (writing and self.has_begun_to_write)
                ):
                    assert off or not self.is_off
                    await asyncio.sleep(0.01)
        except (TimeoutError, AssertionError):
            pytest.fail(self.log.read_text()[-5000:])


async def test_an_agent_that_is_killed_in_mid_install_goes_on_reboots_and_confirms(tmp_path: Path) -> None:
    server = shared_server()
    device, region = unique("gw"), unique("e2e")
    bundle = make_bundle(tmp_path, server.keys, content={"app": APP})
    api = Api(server.url, server.token)
    power = ExitStack()
    try:
        await api.add_device(device, region)
        claim = (await api.post(f"/v1/devices/{device}/claim", {})).body["claim"]
        machine = Machine(tmp_path, device, server, claim)
        power.callback(machine.cut)
        machine.boot()
        await machine.until(note="connected")
        with bundle.open("rb") as file:
            uploaded = (await api.upload(file)).body["id"]
        plan = {"waves": [{"ratio": 1, "ramp_s": 1, "soak_s": 1}]}
        draft = {"name": device, "bundle": uploaded, "cohort": "main", "regions": [region]}
        created = await api.post("/v1/campaigns", draft | {"plan": plan, "policy": POLICY})
        assert created.status == 201, created
        assert (await api.post(f"/v1/campaigns/{created.body['id']}/start", {})).status == 200

        await machine.until(writing=True)
        assert machine.end(signal.SIGKILL) == -signal.SIGKILL
        assert {b"READY=1", b"WATCHDOG=1"} == set(machine.heard())
        state_after_kill = EnvironmentFile(machine.state).read().slots["b"].state
        machine.start()
        await machine.until(off=True)  # the reboot's command has ended it
        machine.boot()
        await machine.until(note="confirmed")
        assert machine.end(signal.SIGTERM) == 0
        assert machine.heard()[-1] == b"STOPPING=1"
    finally:
        power.close()
        await api.close()

    environment = EnvironmentFile(machine.state).read()
    assert state_after_kill == "installing"
    assert (environment.booted, environment.slots["b"].state, environment.slots["b"].version) == (
        "b",
        "confirmed",
        "1.1.0",
    )
    assert (machine.state / "slots/b/app.img").read_bytes() == APP
    assert machine.checked.read_text().count("checked") >= 1
    assert [note for note in machine.notes if note in {"started", "written", "rebooting", "trial", "confirmed"}] == [
        "started",
        "written",
        "rebooting",
        "trial",
        "confirmed",
    ]
