"""docs/howto/real-postgresql-and-mosquitto.md, followed to the letter on a real PostgreSQL and a real Mosquitto."""

import asyncio
import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.ports import free_port
from tests.terminal import ROOT, Terminal, read_blocks

pytestmark = [pytest.mark.peer, pytest.mark.slow]

HOWTO = ROOT / "docs/howto/real-postgresql-and-mosquitto.md"
ONLINE_S = 30


class Postgres(NamedTuple):
    folder: Path
    port: int
    version: int


def find(program: str) -> Path:
    """Return a peer's program, which .ci/run has installed; elsewhere it may be missing."""
    folders = [*map(str, Path("/usr/lib/postgresql").glob("*/bin")), "/usr/sbin", os.environ["PATH"]]
    found = shutil.which(program, path=os.pathsep.join(folders))
    if found is None and os.environ.get("TIDEGATE_REQUIRE_PEERS"):
        pytest.fail(f"{program} is not installed")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return Path(found)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Everybody may write here: as root, both servers run as users of their own."""
    with tempfile.TemporaryDirectory(prefix="tidegate-howto-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def postgres(folder: Path) -> Iterator[Postgres]:
    """A cluster that is not ours: its administrator comes in by the socket, everybody else needs a password."""
    programs = find("initdb").resolve().parent
    port = free_port()
    data = folder / "cluster"
    account = pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else None

    def run(*command: str | Path) -> str:
        return subprocess.run(
            command, check=True, cwd="/", user=account, stdin=subprocess.DEVNULL, capture_output=True, text=True
        ).stdout

    run(programs / "initdb", "-D", data, "-U", "postgres", "-N", "--auth-local=trust", "--auth-host=scram-sha-256")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    subprocess.run(
        [programs / "pg_ctl", "-D", data, "-l", folder / "postgres.log", "-o", options, "-w", "start"],
        check=True,
        cwd="/",
        user=account,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    version = re.search(r"(\d+)\.", run(programs / "postgres", "--version"))
    assert version is not None
    try:
        yield Postgres(folder, port, int(version[1]))
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")


async def until_online(terminal: Terminal, device: str) -> dict[str, object]:
    async with asyncio.timeout(ONLINE_S):
        while True:
            (shown,) = json.loads(terminal.run(f"tidegate device show {device} -o json"))
            if shown["online"]:
                return dict(shown)
            await asyncio.sleep(0.2)


def follow(terminal: Terminal, blocks: Sequence[str]) -> list[str]:
    said = []
    for block in blocks:
        said.append(terminal.run(block))
        for token in re.findall(r"first admin token \(shown once\): (\S+)", said[-1]):
            terminal.replace.append(("tg_...", token))
    return said


async def test_the_howto_leads_to_a_device_that_is_online(postgres: Postgres, folder: Path) -> None:
    find("mosquitto")
    port, broker = free_port(), free_port()
    environment = {
        "PGHOST": str(folder),
        "PGPORT": str(postgres.port),
        "PGUSER": "postgres",
        "REPOSITORY": str(ROOT),
        "TIDEGATE_PORT": str(port),
        "TIDEGATE_URL": f"http://127.0.0.1:{port}",
    }
    examples = [("5432", str(postgres.port)), ("1883", str(broker)), ("8080", str(port))]
    with Terminal(folder, environment, examples) as terminal:
        role, migrate, *rest = read_blocks(HOWTO)
        first, again = follow(terminal, [role, migrate])[1], terminal.run("tidegate db migrate")
        said = follow(terminal, rest)
        shown = await until_online(terminal, "pump-0017")

    assert postgres.version >= 15
    assert "applied 0001_create_core" in first
    assert again.strip() == "up to date"
    assert any('"ready":true' in text for text in said)
    assert any('"credential": null' in text for text in said)
    assert shown["hardware"] == "gw100-rev-b"
