"""docs/howto/backup-and-restore.md, followed with a device that has heard of a halt which the backup does not hold."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.servers import QUICK_RULE, Api, make_bundle, own_server, sim_process
from tests.terminal import ROOT, Terminal, read_blocks

pytestmark = pytest.mark.slow

HOWTO = ROOT / "docs/howto/backup-and-restore.md"
PLAN = {"waves": [{"ratio": 1, "ramp_s": 3600}]}
WAIT_S = 60


def facts(ledger: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.read_text().splitlines()]


async def until_fact(ledger: Path, event: str, *, after: int = 0) -> None:
    async with asyncio.timeout(WAIT_S):
        while event not in [fact["event"] for fact in facts(ledger)[after:]]:
            await asyncio.sleep(0.1)


async def test_a_device_that_has_seen_a_halt_since_takes_the_restored_servers_next_order(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ledger.touch()
    back_up, as_file, restore, serve, look = read_blocks(HOWTO)
    port = free_port()
    with own_server() as server:
        environment = {
            "TIDEGATE_DATA_DIR": str(server.data_dir),
            "TIDEGATE_PORT": str(port),
            "TIDEGATE_HEARTBEAT_S": "1",
            "TIDEGATE_URL": f"http://127.0.0.1:{port}",
            "TIDEGATE_TOKEN": server.token,
        }
        reach = ["--devices", "1", "--server", server.url, "--token", server.token, "--ledger", str(ledger)]
        api = Api(server.url, server.token)
        with sim_process(tmp_path, *reach), Terminal(tmp_path, environment) as terminal:
            await until_fact(ledger, "connected")
            bundle = (await api.upload(make_bundle(tmp_path, server.keys).read_bytes())).body["id"]
            draft = {"name": "spring", "bundle": bundle, "cohort": "main", "regions": ["eu"], "plan": PLAN}
            campaign = (await api.post("/v1/campaigns", draft | {"policy": {"halt": QUICK_RULE}})).body["id"]
            assert (await api.post(f"/v1/campaigns/{campaign}/start", {})).status == 200
            await until_fact(ledger, "offered")

            said = terminal.run(back_up)
            file = terminal.run(as_file)
            assert (await api.post(f"/v1/campaigns/{campaign}/halt", {"reason": "it bricks"})).status == 200
            await until_fact(ledger, "halt_received")
            await api.close()
            with pytest.raises(AssertionError, match="Another Tidegate"):
                terminal.run("tidegate restore --replace backups/today")
            server.stop()
            heard = len(facts(ledger))
            restored = terminal.run(restore)
            terminal.run(serve)
            await until_fact(ledger, "hold_received", after=heard)
            shown, audited = terminal.run(look.replace("campaign ls", "campaign ls -o json")).split("\n]\n", 1)
            refused = [fact for fact in facts(ledger) if fact["event"] == "refused"]

    assert re.search(r"^sha256 [0-9a-f]{64}$", said, re.MULTILINE)
    assert "(not in it)" in file
    assert "stands still until somebody has looked at it: spring" in restored
    (campaign_now,) = json.loads(f"{shown}]")
    assert re.search(
        r"^Row \d+: restored from a backup of .*\n\d+ rows are as they were written", audited, re.MULTILINE
    )
    assert (campaign_now["state"], campaign_now["causes"]) == ("paused", ["restored"])
    assert refused == []
