"""A real server for tests: ``tidegate serve`` in a process of its own, and a client of its REST API."""

import asyncio
import itertools
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from firmware_store.bundle import build_bundle, read_envelope, replace_envelope
from firmware_store.keys import load_key
from firmware_store.root import RoleName, init_dev_keys, key_file
from firmware_store.suit import sign_envelope
from server.domain.halt import HaltPolicy

ROOT = Path(__file__).parent.parent
START_S, STOP_S = 60.0, 30.0
QUICK_RULE = {**HaltPolicy().scaled(1 / 180).model_dump(), "reboot_s": 2, "g1_s": 5}
"""The halt rule for simulated devices that reboot in a second: a small fleet gets through in a minute."""
POUR_S = 20.0
VENDOR, HARDWARE = "acme.example", "gw100-rev-b"

_numbers = itertools.count(1)


class ServerProcess:
    """``start()`` and ``kill()`` as often as a test likes, always on the same data directory.

    ``url`` and ``token`` (the first admin's) are there after the first start; ``log`` is what it says on stderr.
    ``port``: where REST listens; 0: any free one, each time.
    """

    def __init__(self, folder: Path, *, port: int = 0, **settings: str) -> None:
        self._port = port
        self.folder = folder
        self.data_dir = folder / "data"
        self.log = folder / "server.log"
        self.url = ""
        self.token = ""
        self._printed = b""
        self._settings = {f"TIDEGATE_{name.upper()}": value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self.keys = self.data_dir / "keys"
        init_dev_keys(self.keys, fleet=None, now=int(time.time()) - 60)

    def start(self) -> None:
        """Return when it listens."""
        self.launch()
        self.await_serving()

    def launch(self) -> None:
        """Return while it still starts."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server", "serve", "--port", str(self._port), "--data-dir", str(self.data_dir)],
                cwd=ROOT,
                env={**environment, **self._settings},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._printed = b""

    def await_standby(self) -> None:
        """Return when it stands by."""
        self.url = self._await_line(r"standing by on (\S+)")

    def await_serving(self) -> None:
        """Return when it listens."""
        self.url = self._await_line(r"listening on (\S+)")
        if not self.token:
            self.token = self._await_line(r"first admin token .*: (\S+)")

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kill -9: the server has no chance to say or write anything; its database and broker live on."""
        assert self._process is not None
        self._process.kill()
        self._end()

    def freeze(self) -> None:
        """It does nothing more until it is woken, and does not know that."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code of a server that ends by itself."""
        return self._end()

    def stop(self) -> int:
        """Ask it to stop, as a supervisor does; returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._end()

    def _end(self) -> int:
        assert self._process is not None
        code = self._process.wait(STOP_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def _await_line(self, pattern: str) -> str:
        """Read what it prints, for a bounded time."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not (found := re.search(pattern.encode(), self._printed)):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    break
                data = os.read(self._process.stdout.fileno(), 4096)
                if not data:
                    break
                self._printed += data
        if not found:
            self._process.kill()
            self._end()
            raise AssertionError(f"the server did not start: {self.log.read_text()[-3000:]}")
        return found[1].decode()


@contextmanager
def own_server(**settings: str) -> Iterator[ServerProcess]:
    """A running server that a test may change, kill and start again; it goes with its folder."""
    server = ServerProcess(open_folder(), heartbeat_s="1", **settings)
    server.start()
    try:
        yield server
    finally:
        if server.is_alive:
            server.stop()
        shutil.rmtree(server.folder)


@cache
def shared_server() -> ServerProcess:
    """The one that all tests share which do not kill it; they keep to ids of their own."""
    server = ServerProcess(open_folder(), heartbeat_s="1", webhook_networks="127.0.0.0/8")
    server.start()
    return server


def stop_shared_server() -> None:
    """For the end of the run, whether or not a test has asked for it."""
    if shared_server.cache_info().currsize:
        server = shared_server()
        shared_server.cache_clear()
        server.stop()
        shutil.rmtree(server.folder)


def open_folder() -> Path:
    """A short path that PostgreSQL's account may enter when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-test-"))
    folder.chmod(0o711)
    return folder


def unique(prefix: str) -> str:
    """A name that nothing else of the run has; it fits a device, a region and a cohort."""
    return f"{prefix}-{next(_numbers)}-{os.getpid()}"


def make_bundle(
    folder: Path,
    keys: Path,
    *,
    version: tuple[int, ...] = (1, 1, 0),
    content: Mapping[str, bytes] | None = None,
    signers: Sequence[int] = (1, 2),
    hardware: Sequence[str] = (HARDWARE,),
) -> Path:
    """Build a bundle that nothing else of the run equals, and sign it with some of the release keys."""
    number = next(_numbers)
    path = folder / f"bundle-{number}.tgb"
    images = {}
    for name, data in (content or {"app": b"the app of bundle %d. " % number * 3000}).items():
        images[name] = folder / f"{name}-{number}.img"
        images[name].write_bytes(data)
    build_bundle(
        path,
        images=images,
        vendor=VENDOR,
        models=list(hardware),
        version=version,
        sequence_number=number,
        description=None,
    )
    for signer in signers:
        key = load_key(key_file(keys, RoleName.RELEASE, signer), None)
        replace_envelope(path, sign_envelope(read_envelope(path), key))
    return path


class Answer(NamedTuple):
    """What came back; ``body`` is parsed where it is JSON, and bytes elsewhere."""

    status: int
    body: Any
    headers: Mapping[str, str]


@contextmanager
def simulated(
    server: ServerProcess,
    folder: Path,
    *,
    devices: int,
    regions: Sequence[str],
    factory: bytes,
    options: Sequence[str] = (),
) -> Iterator[None]:
    """Let simulated devices live for the block, in a process of their own; they add themselves to the server."""
    image = folder / "factory.img"
    image.write_bytes(factory)
    given = ["--devices", str(devices), "--server", server.url, "--token", server.token]
    given += ["--vendor", VENDOR, "--hardware", HARDWARE]
    given += ["--factory", f"app={image}", "--reboot-s", "0.7", "--seed", "1", *options]
    for region in regions:
        given += ["--region", region]
    with sim_process(folder, *given):
        yield


@contextmanager
def sim_process(folder: Path, *options: str) -> Iterator[None]:
    """Run `tidegate sim fleet` for the block, with the devices' own folders and its log in ``folder``."""
    command = [sys.executable, "-m", "server", "sim", "fleet", "--dir", str(folder / "devices"), *options]
    with (folder / "sim.log").open("w+") as log:
        sim = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        sim.send_signal(signal.SIGTERM)
        sim.wait(STOP_S)


async def pour(url: str, path: str, headers: Mapping[str, str]) -> int:
    """Post a body that never ends until the server answers; return the status, and hang up at once.

    An HTTP client would keep the connection until what it had buffered is sent, which nobody reads.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    given = {"Host": "tidegate", "Transfer-Encoding": "chunked", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())

    async def endless() -> None:
        writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode())
        while True:
            writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
            await writer.drain()

    pouring = asyncio.create_task(endless())
    try:
        async with asyncio.timeout(POUR_S):
            return int((await reader.readline()).split()[1])
    finally:
        pouring.cancel()
        await asyncio.gather(pouring, return_exceptions=True)
        writer.transport.abort()


class Api:
    """A caller with a token, or with none."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session = aiohttp.ClientSession(url, headers=headers, timeout=aiohttp.ClientTimeout(total=30))

    async def close(self) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        if method not in {"GET", "HEAD"}:
            # Most tests order without having looked: If-Match says so. Of what is read, S3 would take it at its word.
            options["headers"] = {"If-Match": "*"} | dict(options.get("headers") or {})
        async with self._session.request(method, path, **options) as response:
            data = await response.read()
            is_json = response.content_type.endswith("json")
            body = await response.json(content_type=None) if is_json else data
            return Answer(response.status, body, response.headers)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: object = None, **options: Any) -> Answer:
        return await self.call("POST", path, json=body, **options)

    async def upload(self, data: Any, **headers: str) -> Answer:
        """Send a bundle; ``data`` is bytes, a file or an asynchronous iterator."""
        given = {"Content-Type": "application/vnd.tidegate.bundle"} | headers
        return await self.call("POST", "/v1/bundles", data=data, headers=given)

    async def add_device(self, device: str, region: str, cohort: str = "main") -> dict[str, Any]:
        """Add one, and return its credential."""
        answer = await self.post("/v1/devices", {"devices": [{"id": device, "region": region, "cohort": cohort}]})
        assert answer.status == 201, answer
        credential: dict[str, Any] = answer.body["devices"][0]["credential"]
        return credential
