"""Devices that run something else than they should, were not heard for long, or never came: by REST and by command."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from server.cli import device as cli
from server.cli import inventory
from server.domain.identity import HardwareClass
from server.embedded import EmbeddedPostgres
from server.protocol.messages import Hello, Slot, encode_hello
from tests.integration.test_rest_campaigns import bundle, create, order
from tests.mqtt_client import MqttClient
from tests.servers import HARDWARE, VENDOR, Api, ServerProcess, unique

__all__ = ["bundle"]

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> Run:
    """Gives what a command prints for programs."""

    def command(app: Callable[..., None], **options: Any) -> list[dict[str, Any]]:
        capsys.readouterr()
        app(token=server.token, server=server.url, output="jsonl", **options)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return command


def say_hello(credential: dict[str, Any], device: str, region: str) -> None:
    slot = Slot("a", 0, "1.0.0", b"f" * 32, "confirmed")
    hello = Hello(b"bootboot", VENDOR, HardwareClass(HARDWARE), "0.1", (slot,), "a", bytes(16))
    named = {name: credential[name] for name in ("client_id", "username", "password")}
    with MqttClient(credential["host"], credential["port"], **named) as client:
        client.publish(f"tg/1/{region}/device/{device}/up/hello", encode_hello(hello))


async def let_time_pass(server: ServerProcess, device: str, *, days: int) -> None:
    """It was heard so long ago, as far as the database knows."""
    url = EmbeddedPostgres.running_url(server.data_dir)
    assert url is not None
    connection = await asyncpg.connect(url)
    try:
        ago = timedelta(days=days)
        await connection.execute("UPDATE device SET last_seen = now() - $2::interval WHERE id = $1", device, ago)
    finally:
        await connection.close()


async def test_a_device_is_listed_where_somebody_has_to_look_after_it(
    server: ServerProcess, admin: Api, bundle: str, run: Run
) -> None:
    region, cohort, there, never = unique("r"), unique("c"), unique("gw"), unique("gw")
    credential = await admin.add_device(there, region, cohort)
    await admin.add_device(never, region, cohort)
    await asyncio.to_thread(say_hello, credential, there, region)
    plan = {"waves": [{"devices": [there], "ramp_s": 0}, {"ratio": 1.0}]}
    campaign = await create(admin, bundle, cohort=cohort, regions=[region], plan=plan)
    assert (await order(admin, campaign, "start")).status == 200
    mine = {"filter": f"cohort = {cohort}"}

    async with asyncio.timeout(30):
        while not (found := (await admin.get("/v1/inventory/drift", params=mine)).body["devices"]):
            await asyncio.sleep(0.1)
    counted = (await admin.get("/v1/inventory/drift/summary")).body
    listed = await asyncio.to_thread(run, inventory.drift, **mine)
    parts = (await asyncio.to_thread(run, inventory.drift, count=True))[0]["parts"]
    await let_time_pass(server, there, days=40)
    unseen = [await asyncio.to_thread(run, cli.unseen, days=days) for days in (30, 50)]
    never_seen = await asyncio.to_thread(run, cli.never_seen)

    assert [(one["device"], one["runs"], one["should_run"]) for one in found] == [(there, "1.0.0", "1.1.0")]
    assert listed == found
    (part,) = [part for part in counted["parts"] if part["cohort"] == cohort]
    assert (part["region"], part["devices"], part["drifting"], part["campaign"]) == (region, 1, 1, campaign)
    assert part in parts
    assert [there in {one["id"] for one in some} for some in unseen] == [True, False]
    assert never in {one["id"] for one in never_seen}
    assert there not in {one["id"] for one in never_seen}
    await order(admin, campaign, "cancel")
