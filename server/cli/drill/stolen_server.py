"""Everything the server had is stolen: its keys, its database, its blobs, its broker. And one of two release keys.

What was never on the server: the other release key, the root keys, the status key. They lie in the vault.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from firmware_store.documents import Kind
from firmware_store.keys import Algorithm, SigningKey
from firmware_store.root import RoleName, Root
from server.cli.client import Client
from server.cli.drill.attempts import Attempts
from server.cli.drill.ledger import strange_devices
from server.cli.drill.recorder import Recorder
from server.cli.drill.releases import (
    HARDWARE,
    OTHER_HARDWARE,
    signed_by,
    with_chunks_exchanged,
    with_chunks_of,
)
from server.cli.drill.scene import (
    COHORT,
    REGIONS,
    RUNNING,
    SLOW_PLAN,
    STATUS_AGE_S,
    Scene,
    prepared,
    publish_status,
    roll_out,
    serve,
    start_campaign,
)
from server.cli.drill.table import Figures, Must, Row
from server.cli.drill.takeover import taken_over
from server.cli.drill.thief import Thief
from server.domain.identity import DeviceId
from server.embedded import EmbeddedBroker
from server.protocol.orders import Action

OLD, HALTED, REVOKED, OTHER_CLASS, NEW = "1.0.5", "1.2.0", "1.3.0", "1.4.0", "1.5.0"
SEQUENCES: Final = {OLD: 1, RUNNING: 2, HALTED: 3, REVOKED: 4, OTHER_CLASS: 5, NEW: 6}

SHOWN_ON: Final = 5
"""On so many devices the table shows what such a thief can do."""
LAST_STATUS_S: Final = 4
"""How long the last status is still valid that reaches the devices."""
FALSE_S: Final = -300
HALT_S: Final = 15.0
BACK_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Before:
    """What was heard on the air before the theft."""

    recorded: Mapping[str, bytes]
    """Offers of the release that was halted then, by their topics."""
    older_status: bytes
    status: bytes


async def play(devices: int) -> Figures:
    """Play it all; return the table."""
    begun = time.monotonic()
    async with prepared(devices) as scene, AsyncExitStack() as power:
        for version, sequence in SEQUENCES.items():
            await scene.release(version, sequence, hardware=OTHER_HARDWARE if version == OTHER_CLASS else HARDWARE)
        async with AsyncExitStack() as honest:
            client = await serve(scene, honest)
            scene.say(f"{devices} devices come online, and get release {RUNNING} from an honest server ...")
            await power.enter_async_context(scene.fleet())
            before = await _before_the_theft(scene, client)
        scene.say("The server is stolen: its keys, database, blobs and broker are the thief's now.")
        mark = scene.ledger.mark()
        async with taken_over(scene) as (broker, loot):
            await scene.expect("connected", scene.everybody, since=mark, within_s=BACK_S)
            async with loot.thief(scene, broker) as thief:
                rows = await _attack(scene, broker, thief, before, power)
            devices_in_order = list(loot.devices)
        return Figures("stolen-server", devices, time.monotonic() - begun, rows, _strange(scene, devices_in_order))


# --- before ---


async def _before_the_theft(scene: Scene, client: Client) -> Before:
    """A good release, then one that is halted before anybody starts; a device that only listens records its offer."""
    await roll_out(scene, client, scene.releases[RUNNING])
    halted = scene.releases[HALTED]
    spy = {"id": "gw-spy", "region": REGIONS[0], "cohort": COHORT}
    added = (await client.post("/v1/devices", {"devices": [spy]}))["devices"][0]
    async with Recorder(added["credential"], root=scene.root, cohort=COHORT, regions=REGIONS) as recorder:
        campaign = await start_campaign(client, halted, SLOW_PLAN)
        recorded = await recorder.record(
            lambda order: order.action is Action.OFFER and order.manifest_digest == halted.manifest_digest
        )
    mark = scene.ledger.mark()
    await client.post(f"/v1/campaigns/{campaign}/halt", {"reason": "a drill"})
    await scene.expect("halt_received", scene.everybody, since=mark, within_s=HALT_S)
    older = await publish_status(scene, client, scene.status(1))
    return Before(recorded, older, await publish_status(scene, client, scene.status(2, REVOKED)))


# --- the attacks ---


async def _attack(
    scene: Scene, broker: EmbeddedBroker, thief: Thief, before: Before, power: AsyncExitStack
) -> list[Row]:
    attempts = Attempts(scene)
    await _forge_releases(scene, attempts, thief)
    await _mix_releases(scene, attempts, thief)
    await _forge_documents(scene, attempts, thief, before)
    await attempts.make("an offer that was recorded before the halt", _replay(thief, before.recorded), by={"replayed"})
    await thief.order(Action.NONE)
    await _offer_again(scene, attempts, thief)
    await _lie_about_time(scene, attempts, thief, broker, power)
    return attempts.rows


async def _forge_releases(scene: Scene, attempts: Attempts, thief: Thief) -> None:
    """Releases that lack a signature, an age, a class or a blessing."""
    new, old = scene.releases[NEW], scene.releases[OLD]
    one = scene.vault_keys(RoleName.RELEASE)[0]
    online = [scene.server_key(role) for role in (RoleName.DIRECTIVE, RoleName.SESSION)]
    for name, signers in (
        ("a release that nobody signed", []),
        ("a release signed by the server's own keys", online),
        ("a release signed twice by one release key", [one, one]),
        ("a release signed by one release key and the server's", [one, *online]),
    ):
        await attempts.make(name, thief.offer(signed_by(new, signers)), by={"bad_signature"})
    await attempts.make("an older release", thief.offer(old), by={"older_sequence"})
    await attempts.make(
        "an older release under a higher number", thief.offer(old, sequence_number=99), by={"older_sequence"}
    )
    await attempts.make("a release for other hardware", thief.offer(scene.releases[OTHER_CLASS]), by={"wrong_class"})
    await attempts.make("a revoked release", thief.offer(scene.releases[REVOKED]), by={"revoked"})
    await thief.order(Action.NONE)


async def _mix_releases(scene: Scene, attempts: Attempts, thief: Thief) -> None:
    """Genuine parts that do not belong together."""
    new, running = scene.releases[NEW], scene.releases[RUNNING]
    await attempts.make(
        "the manifest of one release, the envelope of another",
        thief.offer(new, manifest_digest=scene.releases[OTHER_CLASS].manifest_digest),
        by={"digest_mismatch"},
    )
    for name, mixed in (
        ("the envelope of one release, the chunks of another", with_chunks_of(new, running)),
        ("two chunks of one release in each other's place", with_chunks_exchanged(new)),
    ):
        await attempts.make(name, thief.offer(mixed), by={"chunk_mismatch"})
        await thief.order(Action.NONE)  # or it would be tried again
    await thief.hold(new)  # what is swapped under a digest does not come back by itself


async def _forge_documents(scene: Scene, attempts: Attempts, thief: Thief, before: Before) -> None:
    """Documents of other roles, and old ones."""
    own_root = thief.sign(Kind.ROOT, _own_root(scene).payload())
    own_status = thief.sign(Kind.STATUS, scene.status(99).payload())
    await attempts.make(
        "a root of its own",
        thief.retain(thief.topics.trust_root(2), own_root),
        by={"bad_signature", "bad_succession"},
    )
    await thief.retain(thief.topics.trust_root(2), b"")
    await attempts.make(
        "a status of its own, which revokes nothing",
        thief.retain(thief.topics.trust_status, own_status),
        by={"bad_signature"},
    )
    await attempts.make(
        "an older status, which revokes nothing",
        thief.retain(thief.topics.trust_status, before.older_status),
        by={"replayed"},
    )
    await thief.retain(thief.topics.trust_status, before.status)


def _own_root(scene: Scene) -> Root:
    """The thief's key in the place of the second release key."""
    own = SigningKey.generate(Algorithm.ED25519).public
    release = scene.root.roles[RoleName.RELEASE]
    kept, lost = release.kids
    keys = {kid: key for kid, key in scene.root.keys.items() if kid != lost}
    role = replace(release, kids=tuple(sorted((kept, own.kid))))
    return replace(
        scene.root, version=2, keys={**keys, own.kid: own}, roles={**scene.root.roles, RoleName.RELEASE: role}
    )


async def _replay(thief: Thief, recorded: Mapping[str, bytes]) -> None:
    for topic, body in recorded.items():
        await thief.retain(topic, body)


async def _offer_again(scene: Scene, attempts: Attempts, thief: Thief) -> None:
    """A halted release is a signed one: until the status revokes it, the directive key can offer it anew."""
    halted, few = scene.releases[HALTED], list(thief.devices)[:SHOWN_ON]
    await attempts.make(
        "the halted release, offered anew",
        thief.offer(halted, to=few),
        must=Must.BE_SHOWN,
        on=few,
        note="it has both release signatures, and its revocation was not signed yet",
    )
    await thief.order(Action.NONE, to=few)
    await thief.retain(thief.topics.trust_status, scene.seal_status(scene.status(3, REVOKED, HALTED)))
    await attempts.make(
        "the halted release, once its revocation was signed",
        thief.offer(halted),
        by={"revoked"},
        on=list(thief.devices)[SHOWN_ON:],
    )
    await thief.order(Action.NONE)


async def _lie_about_time(
    scene: Scene, attempts: Attempts, thief: Thief, broker: EmbeddedBroker, power: AsyncExitStack
) -> None:
    """A device has no clock: it knows the time from welcomes, and from what was signed. The thief signs welcomes.

    With the status of the vault withheld, whatever was revoked since is not known. That is why a status expires.
    """
    new, few = scene.releases[NEW], sorted(thief.devices)[-SHOWN_ON:]
    last = scene.status(4, REVOKED, HALTED, life_s=STATUS_AGE_S + LAST_STATUS_S)
    await thief.retain(thief.topics.trust_status, scene.seal_status(last))
    await asyncio.sleep(max(0.0, last.expires + 1 - time.time()))
    await attempts.make(
        "a release under a status that has expired (newer ones withheld)", thief.offer(new), by={"expired"}
    )
    await thief.order(Action.NONE, issued=int(time.time()) + FALSE_S)
    thief.false_time_s = FALSE_S
    mark = scene.ledger.mark()
    await broker.stop()  # so that every device begins a new session, and is told the time again
    await broker.start()
    await scene.expect("connected", scene.everybody, since=mark, within_s=BACK_S)
    issued = int(time.time()) + FALSE_S
    await attempts.make(
        "the same, and a false time for devices that have been on", thief.offer(new, issued=issued), by={"expired"}
    )
    await thief.order(Action.NONE, issued=issued)
    await power.aclose()
    await power.enter_async_context(scene.fleet())
    await attempts.make(
        "the same, and a false time for devices that have just been switched on",
        thief.offer(new, to=few, issued=issued),
        must=Must.BE_SHOWN,
        on=few,
        note="no earlier than the newest document they hold; the release has both release signatures",
    )


# --- afterwards ---


def _strange(scene: Scene, devices: Sequence[DeviceId]) -> list[str]:
    """Everybody runs the release that was rolled out, but for the few on whom something was shown."""
    everywhere = scene.releases[RUNNING].images
    shown = dict.fromkeys(devices[:SHOWN_ON], scene.releases[HALTED].images)
    for device in sorted(devices)[-SHOWN_ON:]:
        shown[device] = shown.get(device, frozenset()) | scene.releases[NEW].images
    return strange_devices(
        scene.folder / "devices",
        scene.ledger.events,
        allowed=lambda device: everywhere | shown.get(DeviceId(device), frozenset()),
    )
