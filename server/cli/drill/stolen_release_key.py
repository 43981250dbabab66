"""One of two release keys is stolen, and the server with it; then the key is replaced, and the fleet goes on."""

import time
from contextlib import AsyncExitStack
from typing import Final

from firmware_store.bundle import replace_envelope
from firmware_store.documents import Kind, seal
from firmware_store.errors import InvalidInputError
from firmware_store.keys import Algorithm, SigningKey
from firmware_store.root import RoleName, Root
from firmware_store.root_walk import replace_key
from server.cli.client import BUNDLE_MEDIA_TYPE, Client
from server.cli.drill.attempts import Attempts
from server.cli.drill.ledger import strange_devices
from server.cli.drill.releases import signed_by
from server.cli.drill.scene import RUNNING, Scene, prepared, roll_out, serve
from server.cli.drill.table import Figures, Must, Row
from server.cli.drill.takeover import taken_over
from server.cli.drill.thief import Thief
from server.protocol.orders import Action

WAITING, NEXT = "1.2.0", "1.3.0"
SEQUENCES: Final = {RUNNING: 1, WAITING: 2, NEXT: 3}
BACK_S: Final = 30.0
ROOT_LIFE_S: Final = 86_400 * 365


async def play(devices: int) -> Figures:
    """Play it all; return the table."""
    begun = time.monotonic()
    async with prepared(devices) as scene, AsyncExitStack() as power:
        for version, sequence in SEQUENCES.items():
            await scene.release(version, sequence)
        stolen, kept = scene.vault_keys(RoleName.RELEASE)
        async with AsyncExitStack() as honest:
            client = await serve(scene, honest)
            scene.say(f"{devices} devices come online, and get release {RUNNING} from an honest server ...")
            await power.enter_async_context(scene.fleet())
            await roll_out(scene, client, scene.releases[RUNNING])
            rows = [await _upload(scene, client, stolen)]
        scene.say("One release key is stolen, and the whole server.")
        mark = scene.ledger.mark()
        async with taken_over(scene) as (broker, loot), loot.thief(scene, broker) as thief:
            await scene.expect("connected", scene.everybody, since=mark, within_s=BACK_S)
            attempts = Attempts(scene, rows)
            await _attack(scene, attempts, thief, stolen, kept)
            await _recover(scene, attempts, thief, stolen, kept)
        allowed = scene.releases[NEXT].images
        strange = strange_devices(scene.folder / "devices", scene.ledger.events, allowed=lambda _: allowed)
        return Figures("stolen-release-key", devices, time.monotonic() - begun, rows, strange)


async def _upload(scene: Scene, client: Client, stolen: SigningKey) -> Row:
    """The honest server is asked first: an administrator's token is no signature."""
    forged = signed_by(scene.releases[NEXT], [stolen, stolen])
    assert forged.bundle is not None
    good = scene.releases[NEXT].envelope
    replace_envelope(forged.bundle, forged.envelope)
    try:
        await client.upload("/v1/bundles", forged.bundle, BUNDLE_MEDIA_TYPE)
    except InvalidInputError as exc:
        stopped_by = {"the server": 1}
        scene.say(f"  an upload with the stolen key alone: {exc}")
    else:
        stopped_by = {}
    finally:
        replace_envelope(forged.bundle, good)
    return Row(
        "an upload to the honest server, by an administrator",
        Must.FAIL,
        devices=1,
        installed=0 if stopped_by else 1,
        stopped_by=stopped_by,
        expected=frozenset({"the server"}),
    )


async def _attack(scene: Scene, attempts: Attempts, thief: Thief, stolen: SigningKey, kept: SigningKey) -> None:
    forged = scene.releases[NEXT]
    online = [scene.server_key(role) for role in (RoleName.DIRECTIVE, RoleName.SESSION)]
    own = SigningKey.generate(Algorithm.ED25519)
    for name, signers in (
        ("a release signed by the stolen key", [stolen]),
        ("a release signed twice by the stolen key", [stolen, stolen]),
        ("a release signed by the stolen key and the server's", [stolen, *online]),
        ("a release signed by the stolen key and one of the thief's", [stolen, own]),
    ):
        await attempts.make(name, thief.offer(signed_by(forged, signers)), by={"bad_signature"})
    await thief.order(Action.NONE)
    forged_root = seal(Kind.ROOT, _successor(scene, kept, own).payload(), [stolen, *online])
    await attempts.make(
        "a root that puts the thief's key beside the stolen one",
        thief.retain(thief.topics.trust_root(2), forged_root),
        by={"bad_signature"},
    )
    await thief.retain(thief.topics.trust_root(2), b"")


async def _recover(scene: Scene, attempts: Attempts, thief: Thief, stolen: SigningKey, kept: SigningKey) -> None:
    """First the status takes the key back, at once; then the next root has another in its place.

    The documents even travel over the thief's broker: who brings them does not matter.
    """
    status = scene.status(1, kids=[stolen.public.kid])
    mark = scene.ledger.mark()
    await thief.retain(thief.topics.trust_status, scene.seal_status(status))
    await scene.expect("trust_changed", scene.everybody, since=mark, within_s=BACK_S, detail="root 1, status 1")
    await attempts.make(
        "a release that both had signed before, after the theft is known",
        thief.offer(scene.releases[WAITING]),
        by={"bad_signature"},
        note="the price: what the stolen key had signed is to be signed anew",
    )
    await thief.order(Action.NONE)
    new = SigningKey.generate(Algorithm.ESP256)
    root = _successor(scene, stolen, new)
    mark = scene.ledger.mark()
    await thief.retain(thief.topics.trust_root(2), seal(Kind.ROOT, root.payload(), scene.vault_keys(RoleName.ROOT)))
    await scene.expect("trust_changed", scene.everybody, since=mark, within_s=BACK_S, detail="root 2, status 1")
    await attempts.make(
        "a release that the key which stayed and the new one have signed",
        thief.offer(signed_by(scene.releases[NEXT], [kept, new])),
        must=Must.SUCCEED,
        note="no attack: the fleet goes on, although its server is still the thief's",
    )


def _successor(scene: Scene, lost: SigningKey, new: SigningKey) -> Root:
    issued = int(time.time())
    kid, expires = lost.public.kid, issued + ROOT_LIFE_S
    return replace_key(scene.root, kid, new.public, stolen=True, issued=issued, expires=expires)
