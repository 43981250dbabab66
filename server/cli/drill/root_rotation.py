"""The directive key is stolen; the root is rotated twice while half of the devices are away, and they catch up.

The thief also has the server's way into the broker: a key that nobody hears would order nothing anyway.
"""

import json
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from firmware_store.documents import Kind, seal
from firmware_store.keys import Algorithm, SigningKey, save_key
from firmware_store.root import RoleName, Root, key_file
from firmware_store.root_walk import replace_key
from server.api.trust import ROOT_MEDIA_TYPE
from server.cli.client import Client
from server.cli.drill.attempts import Attempts
from server.cli.drill.ledger import strange_devices
from server.cli.drill.scene import COHORT, RUNNING, Scene, prepared, roll_out, serve
from server.cli.drill.table import Figures, Must, Row
from server.cli.drill.thief import Thief
from server.domain.identity import CampaignId, DeviceId
from server.embedded.broker import LOOPBACK
from server.embedded.credentials import BrokerKeys
from server.mqtt.session import BrokerAccess
from server.protocol.messages import Counter
from server.protocol.orders import Action
from server.protocol.topics import Audience

SHOWN, NEXT = "1.2.0", "1.3.0"
SEQUENCES: Final = {RUNNING: 1, SHOWN: 2, NEXT: 3}
SHOWN_ON: Final = 3
BACK_S: Final = 30.0
ROOT_LIFE_S: Final = 86_400 * 365
STAYS, LEAVES = "stays.jsonl", "leaves.jsonl"


@dataclass(frozen=True, slots=True)
class Halves:
    """The devices that stay and those that leave; ``power`` keeps on whatever is to stay on."""

    staying: Sequence[DeviceId]
    away: Sequence[DeviceId]
    power: AsyncExitStack


async def play(devices: int) -> Figures:
    """Play it all; return the table."""
    begun = time.monotonic()
    async with prepared(devices) as scene, AsyncExitStack() as power:
        for version, sequence in SEQUENCES.items():
            await scene.release(version, sequence)
        async with AsyncExitStack() as honest, AsyncExitStack() as leaving:
            client = await serve(scene, honest)
            scene.say(f"{devices} devices come online, and get release {RUNNING}.")
            halves = _split(scene, power)
            await leaving.enter_async_context(scene.fleet(LEAVES))
            await power.enter_async_context(scene.fleet(STAYS))
            await roll_out(scene, client, scene.releases[RUNNING])
            await leaving.aclose()
            scene.say(f"{len(halves.away)} devices leave. The directive key is stolen.")
            attempts = Attempts(scene)
            async with _thief(scene) as thief:
                await _before_the_rotation(scene, attempts, thief, halves.staying)
                scene.say("The root is rotated twice: another directive key, then another root key.")
                newest = await _publish(scene, client, halves.staying)
                await _after_the_rotation(scene, attempts, thief, halves, newest)
            attempts.rows.append(await _release_again(scene, client))
        allowed = scene.releases[NEXT].images
        strange = strange_devices(scene.folder / "devices", scene.ledger.events, allowed=lambda _: allowed)
        return Figures("root-rotation", devices, time.monotonic() - begun, attempts.rows, strange)


def _split(scene: Scene, power: AsyncExitStack) -> Halves:
    lines = (scene.folder / "fleet.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    halves: dict[str, list[str]] = {STAYS: [], LEAVES: []}
    for number, line in enumerate(lines):
        halves[LEAVES if number // 2 % 2 else STAYS].append(line)  # some of each region
    for name, half in halves.items():
        (scene.folder / name).touch(mode=0o600)  # it holds credentials
        (scene.folder / name).write_text("".join(half), encoding="utf-8")
    staying, away = ([DeviceId(json.loads(line)["id"]) for line in halves[name]] for name in (STAYS, LEAVES))
    return Halves(staying, away, power)


def _thief(scene: Scene) -> Thief:
    """The stolen key, and the server's way into the broker, whose settings lay beside it."""
    folder = scene.server_folder / "broker"
    own = BrokerKeys.load_or_create(folder / "keys.json").server("tg/1", now=datetime.now(UTC))
    counters: dict[Audience, Counter] = {}
    return Thief(
        BrokerAccess(LOOPBACK, int((folder / "port").read_text()), f"{own.client_id}-2", own.username, own.password),
        root=scene.root,
        directive=scene.server_key(RoleName.DIRECTIVE),
        session=None,
        cohort=COHORT,
        devices=scene.devices,
        counters=counters,
    )


async def _before_the_rotation(scene: Scene, attempts: Attempts, thief: Thief, staying: Sequence[DeviceId]) -> None:
    """Until somebody notices, the key is a key: it can offer what the release keys have signed."""
    few = staying[:SHOWN_ON]
    await attempts.make(
        "before the rotation: a signed release that nobody has rolled out",
        thief.offer(scene.releases[SHOWN], to=few),
        must=Must.BE_SHOWN,
        on=few,
        note="what the directive key alone is good for: a choice among signed releases, upwards",
    )
    await thief.order(Action.NONE, to=few)


def _rotate_twice(scene: Scene) -> list[bytes]:
    """Root 2 has another directive key, and the stolen one is dead; root 3 has another root key, in good order."""
    before = scene.vault_keys(RoleName.ROOT)
    directive = SigningKey.generate(Algorithm.ED25519)
    second = _replaced(scene.root, scene.server_key(RoleName.DIRECTIVE), directive, stolen=True)
    save_key(key_file(scene.server_folder / "keys", RoleName.DIRECTIVE, 2), directive, None, dev=True)
    new = SigningKey.generate(Algorithm.ESP256)
    third = _replaced(second, before[0], new, stolen=False)
    key_file(scene.vault, RoleName.ROOT, 1).unlink()
    save_key(key_file(scene.vault, RoleName.ROOT, 3), new, None, dev=True)
    return [
        seal(Kind.ROOT, second.payload(), before),
        seal(Kind.ROOT, third.payload(), [*before, new]),
    ]


def _replaced(root: Root, old: SigningKey, new: SigningKey, *, stolen: bool) -> Root:
    issued = int(time.time())
    return replace_key(root, old.public.kid, new.public, stolen=stolen, issued=issued, expires=issued + ROOT_LIFE_S)


async def _publish(scene: Scene, client: Client, staying: Sequence[DeviceId]) -> str:
    """Give the server its new key and both roots, and wait until the devices that are there have walked to the last.

    The server is not started anew: under the new root it signs with the new key whatever stands.
    """
    mark, roots = scene.ledger.mark(), _rotate_twice(scene)
    for version, root in enumerate(roots, start=2):
        file = scene.folder / f"root-{version}.cbor"
        file.write_bytes(root)
        await client.upload("/v1/trust/root", file, ROOT_MEDIA_TYPE)
    newest = f"root {len(roots) + 1}, no status"
    await _expect_root(scene, staying, newest, mark)
    return newest


async def _after_the_rotation(scene: Scene, attempts: Attempts, thief: Thief, halves: Halves, newest: str) -> None:
    """The stolen key orders again and again: those who stayed, those who come back, and everybody."""
    offered = scene.releases[SHOWN]
    await attempts.make(
        "after it: the same, to devices that stayed", thief.offer(offered), by={"bad_signature"}, on=halves.staying
    )
    await attempts.make(
        "the same, waiting for devices that come back after two rotations",
        _come_back(scene, thief, halves, newest),
        by={"bad_signature"},
        on=halves.away,
        may_be_silent=True,
        note="a device may hear the order before it has walked to the new root, and then holds it for void",
    )
    await attempts.make("the same, once they have caught up", thief.offer(offered), by={"bad_signature"})


async def _come_back(scene: Scene, thief: Thief, halves: Halves, newest: str) -> CampaignId:
    campaign = await thief.offer(scene.releases[SHOWN])
    mark = scene.ledger.mark()
    await halves.power.enter_async_context(scene.fleet(LEAVES))
    await _expect_root(scene, halves.away, newest, mark)
    return campaign


async def _expect_root(scene: Scene, devices: Sequence[DeviceId], newest: str, mark: int) -> None:
    names = {str(device) for device in devices}
    await scene.expect("trust_changed", names, since=mark, within_s=BACK_S, detail=newest)


async def _release_again(scene: Scene, client: Client) -> Row:
    """The new key orders, and everybody obeys."""
    release = scene.releases[NEXT]
    mark = scene.ledger.mark()
    await roll_out(scene, client, release)
    confirmed = scene.ledger.devices("confirmed", since=mark, version=NEXT)
    return Row(
        "a release by the new directive key",
        Must.SUCCEED,
        devices=len(scene.devices),
        installed=len(confirmed),
        stopped_by={},
        note="no attack: everybody has caught up",
    )
