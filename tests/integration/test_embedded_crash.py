"""kill -9 of the server that runs the embedded services, at any moment, and a start after it in the same folder."""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import asyncpg
import psutil
import pytest

from tests.embedded_services import Embedded
from tests.mqtt_client import MqttClient

PROGRAMS = ("postgres", "nats-server", "initdb")

SERVER = """
import asyncio, json, sys
from pathlib import Path

import asyncpg

from tests.embedded_services import Embedded
from tests.mqtt_client import MqttClient


async def main():
    async with Embedded(Path(sys.argv[1])) as services:
        device, server = services.issue_device_credential("dev1"), services.server_credential
        connection = await asyncpg.connect(services.database_url)
        await connection.execute("CREATE TABLE IF NOT EXISTS lamp (id int)")
        address = {"host": services.mqtt_host, "port": services.mqtt_port}
        keys = "username", "password", "client_id"
        print(json.dumps({**address, **{key: getattr(device, key) for key in keys}}), flush=True)
        with MqttClient(**address, **{key: getattr(server, key) for key in keys}) as mqtt:
            for number in range(1_000_000):
                await connection.execute("INSERT INTO lamp VALUES ($1)", number)
                mqtt.publish("tg/1/eu/device/dev1/down/directive", str(number).encode(), qos=1, retain=True)
                print(json.dumps(number), flush=True)


asyncio.run(main())
"""


def start_server(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def read_lines(output: IO[str], count: int) -> list[Any]:
    """Return ``count`` values that the server has printed; its log lines go to the same place."""
    values: list[Any] = []
    while len(values) < count:
        line = output.readline()
        assert line, "the server has ended"
        if line[0] in "{0123456789" and not line.startswith("20"):  # log lines begin with the year
            values.append(json.loads(line))
    return values


def kill(server: subprocess.Popen[str]) -> None:
    server.kill()
    server.wait()
    assert server.stdout is not None
    server.stdout.close()


def services_below(folder: Path) -> set[int]:
    found = set()
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] in PROGRAMS and Path(process.cwd()).is_relative_to(folder):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


async def test_a_killed_server_finds_its_data_port_and_credentials_again(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    assert server.stdout is not None
    device, *numbers = await asyncio.to_thread(read_lines, server.stdout, 20)
    kill(server)
    orphans = services_below(tmp_path)
    assert len(orphans) >= 2

    async with Embedded(tmp_path) as services:
        connection = await asyncpg.connect(services.database_url)
        stored = await connection.fetchval("SELECT max(id) FROM lamp")
        await connection.close()
        assert not orphans & services_below(tmp_path)
        assert stored >= numbers[-1]
        assert services.mqtt_port == device["port"]
        with MqttClient(**device) as client:
            client.subscribe("tg/1/eu/device/dev1/down/directive")
            _, retained = client.receive()
        assert int(retained) >= numbers[-1]
    assert services_below(tmp_path) == set()


async def test_a_server_killed_at_any_moment_of_its_start_starts_again(tmp_path: Path) -> None:
    moments = random.Random(1)
    for _ in range(5):
        server = start_server(tmp_path)
        try:
            await asyncio.to_thread(server.wait, moments.uniform(0.4, 1.6))
        except subprocess.TimeoutExpired:
            kill(server)
        else:
            pytest.fail("the server has ended by itself")

    async with Embedded(tmp_path) as services:
        connection = await asyncpg.connect(services.database_url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    assert services_below(tmp_path) == set()


async def test_a_killed_broker_and_database_recover_too(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    assert server.stdout is not None
    device, *numbers = await asyncio.to_thread(read_lines, server.stdout, 20)
    for pid in services_below(tmp_path):
        with contextlib.suppress(psutil.NoSuchProcess):  # its parent went first, and took it along
            psutil.Process(pid).kill()
    kill(server)

    async with Embedded(tmp_path) as services:
        connection = await asyncpg.connect(services.database_url)
        assert await connection.fetchval("SELECT max(id) FROM lamp") >= numbers[-1]
        await connection.close()
        with MqttClient(**device) as client:
            client.subscribe("tg/1/eu/device/dev1/down/directive")
            _, retained = client.receive()
        assert int(retained) >= numbers[-1]
