"""docs/howto/implement-a-device.md, followed with a simulated device: it keeps every rule of the exam."""

import asyncio
import shutil
from pathlib import Path

import pytest

from device_sim.conformance.rules import RULES
from tests.servers import Api, make_bundle, own_server, simulated
from tests.terminal import ROOT, Terminal, read_blocks

pytestmark = pytest.mark.slow

HOWTO = ROOT / "docs/howto/implement-a-device.md"
WAIT_S = 30


async def test_our_own_device_keeps_every_rule(tmp_path: Path) -> None:
    add, examine = read_blocks(HOWTO)
    with own_server() as server:
        shutil.copy(make_bundle(tmp_path, server.keys), tmp_path / "release.tgb")
        given = {"TIDEGATE_URL": server.url, "TIDEGATE_TOKEN": server.token, "TIDEGATE_DATA_DIR": str(server.data_dir)}
        api = Api(server.url, server.token)
        with (
            simulated(server, tmp_path, devices=1, regions=["eu"], factory=b"the factory's image " * 1000),
            Terminal(tmp_path, given) as terminal,
        ):
            async with asyncio.timeout(WAIT_S):
                while not (found := (await api.get("/v1/devices", params={"filter": "online = true"})).body["devices"]):
                    await asyncio.sleep(0.1)
            await api.close()
            added = terminal.run(add)
            server.stop()
            terminal.replace = [("gw-17", found[0]["id"]), ("--cohort lab", "--cohort main")]
            said = terminal.run(f"{examine.strip()} || true")

    assert "password" in added
    told = [line.split() for line in said.splitlines() if line.startswith(("pass", "FAIL", "skipped"))]
    assert told == [["pass", rule.id] for rule in RULES], said
