"""What stands before a thief comes: keys in a vault, a real server, real devices, and a release that they run."""

import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from firmware_store.documents import Kind, seal
from firmware_store.errors import StoreUnavailableError
from firmware_store.keys import Kid, SigningKey, load_key
from firmware_store.root import ROOT_FILE, RoleName, Root, init_dev_keys, key_file, open_root
from firmware_store.status import Status
from server.api.trust import STATUS_MEDIA_TYPE
from server.cli.client import BUNDLE_MEDIA_TYPE, Client
from server.cli.demo import stage
from server.cli.drill.ledger import Ledger
from server.cli.drill.releases import HARDWARE, VENDOR, Release, make_release, write_images
from server.domain.halt import HaltPolicy
from server.domain.identity import Cohort, DeviceId, Region

REGIONS: Final = (Region("eu"), Region("us"))
COHORT: Final = Cohort("gateways")
FACTORY, RUNNING = "1.0.0", "1.1.0"

HEARTBEAT_S: Final = 2
REBOOT_S: Final = "0.3"
KEYS_AGE_S: Final = 3600
STATUS_AGE_S: Final = 600
STATUS_LIFE_S: Final = 86_400
ONLINE_S: Final = 30.0
INSTALL_S: Final = 45.0
DOCUMENT_S: Final = 15.0
OFFLINE_ROLES: Final = (RoleName.ROOT, RoleName.RELEASE, RoleName.STATUS)

PLAN: Final = {"waves": [{"ratio": 1.0, "ramp_s": 2, "soak_s": 0}]}
SLOW_PLAN: Final = {"waves": [{"ratio": 1.0, "ramp_s": 86_400, "soak_s": 0}]}
"""Nobody is due before somebody halts it."""
POLICY: Final = {"halt": HaltPolicy().scaled(1 / 60).model_dump(), "trial_s": 1, "watch_s": 0}


@dataclass
class Scene:
    """The drill's folder, and everything in it that is not the server's."""

    folder: Path
    root: Root
    console: Console
    devices: Mapping[DeviceId, Region]
    ledger: Ledger
    releases: dict[str, Release] = field(default_factory=dict)

    @property
    def server_folder(self) -> Path:
        """What a thief of the server finds: keys, database, broker, blobs."""
        return self.folder / "server"

    @property
    def vault(self) -> Path:
        """Keys that were never on the server."""
        return self.folder / "vault"

    @property
    def pinned_root(self) -> Path:
        """What the factory has put into every device, whatever the server's root is by now."""
        return self.folder / "releases" / ROOT_FILE

    def vault_keys(self, role: RoleName) -> list[SigningKey]:
        return [load_key(path, None) for path in sorted(self.vault.glob(f"{role}-*.pem"))]

    def server_key(self, role: RoleName) -> SigningKey:
        return load_key(key_file(self.server_folder / "keys", role), None)

    async def release(self, version: str, sequence: int, **options: str) -> Release:
        """Build a release and have both people sign it."""
        signers = self.vault_keys(RoleName.RELEASE)
        made = await make_release(
            self.folder / "releases", version, sequence, root=self.root, signers=signers, **options
        )
        self.releases[version] = made
        return made

    def status(self, version: int, *revoked: str, life_s: int = STATUS_LIFE_S, kids: Collection[Kid] = ()) -> Status:
        """Return a status that takes some releases back, and some keys; signed some minutes ago."""
        issued = int(time.time()) - STATUS_AGE_S
        return Status(
            version=version,
            issued=issued,
            expires=issued + life_s,
            fleet=self.root.fleet,
            revoked_digests=frozenset(self.releases[name].manifest_digest for name in revoked),
            revoked_kids=frozenset(kids),
        )

    def seal_status(self, status: Status) -> bytes:
        return seal(Kind.STATUS, status.payload(), self.vault_keys(RoleName.STATUS))

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    @property
    def everybody(self) -> set[str]:
        return {str(device) for device in self.devices}

    @property
    def factory(self) -> dict[str, Path]:
        return write_images(self.folder / "releases", FACTORY)

    @asynccontextmanager
    async def fleet(self, devices_file: str = "fleet.jsonl") -> AsyncIterator[None]:
        """Run the devices of a file for the block, and begin when all of them have reached the broker."""
        mark = self.ledger.mark()
        names = {json.loads(line)["id"] for line in (self.folder / devices_file).read_text().splitlines()}
        async with stage.fleet(
            self.folder,
            seed=1,
            factory=self.factory,
            devices_file=devices_file,
            root=self.pinned_root,
            options=("--reboot-s", REBOOT_S),
        ):
            await self.expect("connected", names, since=mark, within_s=ONLINE_S)
            yield

    async def expect(self, event: str, devices: set[str], *, since: int, within_s: float, **members: str) -> None:
        """Wait until something has happened on all of these devices.

        Raises:
            StoreUnavailableError: it did not; the drill cannot go on.
        """

        def missing() -> set[str]:
            return devices - self.ledger.devices(event, since=since, **members)

        if not await self.ledger.until(lambda: not missing(), within_s=within_s):
            told = ", ".join(sorted(missing())[:5])
            raise StoreUnavailableError(
                f"{len(missing())} of {len(devices)} devices are not {event} within {within_s:.0f} s: {told}"
            )


@asynccontextmanager
async def prepared(devices: int) -> AsyncIterator[Scene]:
    """Make keys, put those that belong offline into the vault, and name the devices; all of it is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-drill-"))
    try:
        keys = folder / "server" / "keys"
        init_dev_keys(keys, fleet=None, now=int(time.time()) - KEYS_AGE_S)
        (folder / "vault").mkdir(mode=0o700)
        for role in OFFLINE_ROLES:
            for path in keys.glob(f"{role}-*.pem"):
                shutil.move(path, folder / "vault" / path.name)
        root = open_root((keys / ROOT_FILE).read_bytes(), now=None)
        (folder / "releases").mkdir()
        shutil.copy(keys / ROOT_FILE, folder / "releases")
        named = {DeviceId(f"gw-{number:04}"): REGIONS[number % len(REGIONS)] for number in range(devices)}
        yield Scene(folder, root, Console(stderr=True), named, Ledger(folder / "ledger.jsonl"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def serve(scene: Scene, stack: AsyncExitStack) -> Client:
    """Start the server and add the devices; it ends with ``stack``."""
    served = await stack.enter_async_context(stage.server(scene.server_folder, heartbeat_s=HEARTBEAT_S, keep=False))
    client = await stack.enter_async_context(Client(served.url, served.token))
    wanted = [{"id": device, "region": region, "cohort": COHORT} for device, region in scene.devices.items()]
    answer = await client.post("/v1/devices", {"devices": wanted})
    write_devices(scene.folder / "fleet.jsonl", answer["devices"])
    return client


def write_devices(file: Path, added: Sequence[Mapping[str, Any]]) -> None:
    """Write what `tidegate sim fleet` needs to be these devices."""
    file.touch(mode=0o600)  # it holds credentials
    with file.open("w", encoding="utf-8") as stream:
        for device in added:
            who = {name: device[name] for name in ("id", "region", "cohort")}
            stream.write(json.dumps({**who, "vendor": VENDOR, "hardware": HARDWARE, **device["credential"]}) + "\n")


async def publish_status(scene: Scene, client: Client, status: Status) -> bytes:
    """Sign a status in the vault, give it to the server, and wait until every device has it; return its bytes."""
    mark = scene.ledger.mark()
    file = scene.folder / f"status-{status.version}.cbor"
    file.write_bytes(scene.seal_status(status))
    await client.upload("/v1/trust/status", file, STATUS_MEDIA_TYPE)
    told = f"root {scene.root.version}, status {status.version}"
    await scene.expect("trust_changed", scene.everybody, since=mark, within_s=DOCUMENT_S, detail=told)
    return file.read_bytes()


async def start_campaign(client: Client, release: Release, plan: Mapping[str, Any] = PLAN) -> str:
    """Upload a release, and start a campaign for everybody; return its id."""
    assert release.bundle is not None
    bundle = await client.upload("/v1/bundles", release.bundle, BUNDLE_MEDIA_TYPE)
    draft = {
        "name": f"gateways to {release.version}",
        "bundle": bundle["id"],
        "cohort": COHORT,
        "regions": REGIONS,
        "plan": plan,
        "policy": POLICY,
        "reason": "a drill",
    }
    campaign = await client.post("/v1/campaigns", draft)
    await client.post(f"/v1/campaigns/{campaign['id']}/start", {"reason": "a drill"})
    return str(campaign["id"])


async def roll_out(scene: Scene, client: Client, release: Release) -> None:
    """Bring a release to every device, and end its campaign."""
    mark = scene.ledger.mark()
    campaign = await start_campaign(client, release)
    await scene.expect("confirmed", scene.everybody, since=mark, within_s=INSTALL_S, version=release.version)
    if (await client.get(f"/v1/campaigns/{campaign}"))["state"] != "finished":
        await client.post(f"/v1/campaigns/{campaign}/cancel", {"reason": "everybody has it"})
