"""The server's own keys are replaced while it runs: what stands is signed anew, and it never falls silent by itself."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_store.documents import Kind
from firmware_store.errors import ConfigurationError, ConflictError, SignerUnavailableError, TrustError
from firmware_store.root import RoleName
from server.db.bundles import BundleRecord
from server.db.database import Database
from server.db.trust import TrustRepository
from server.domain.campaign import Cause, State
from server.domain.identity import CampaignId, DeviceId
from server.domain.plan import Plan, Policy, Wave
from server.protocol.messages import Counter
from server.protocol.orders import Action, Directive, read_welcome
from server.protocol.topics import CohortAudience
from server.services.authority import Authority, Mandate
from server.services.keyring import Keyring
from server.services.recall import Grounds, open_authority
from tests.records import EU, LAB, MAIN, US
from tests.service_world import World
from tests.trust_fleet import own_fleet

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))
EU_MAIN = CohortAudience(EU, MAIN)


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path / "blobs", keys=own_fleet(tmp_path / "keys"))
    await world.populate(3, EU, US)
    return world


async def offered(world: World, *, number: int = 5) -> tuple[CampaignId, BundleRecord]:
    release = await world.add_release(number)
    campaign = await world.start(release, AT_ONCE, POLICY, EU, US)
    await world.orchestrator.tick()
    return campaign, release


def replaced(world: World, role: RoleName = RoleName.DIRECTIVE, *, stolen: bool = True, given: bool = True) -> bytes:
    """Sign a root with another key of that role; ``given``: the server has it."""
    new = world.keys.new_key(role, into=world.keys.folder if given else None)
    return world.keys.publish(world.keys.rotated(world.keys.kid(role), new, stolen=stolen))


def order_for(world: World, mandate: Mandate) -> Directive:
    return mandate.read_directive(world.shelf.retained[world.topics.directive(EU_MAIN)])


# --- replacing a key ---


@pytest.mark.parametrize("role", [RoleName.DIRECTIVE, RoleName.SESSION])
async def test_a_root_under_which_the_server_could_not_sign_is_refused_with_what_to_do(
    world: World, role: RoleName
) -> None:
    await offered(world)
    before = world.shelf.retained.copy()

    with pytest.raises(ConflictError) as refusal:
        await world.trust.accept_root(replaced(world, role, given=False), actor="sam")

    assert f"Its {role} keys are: {world.keys.kid(role).hex()}" in str(refusal.value)
    assert f"put its file, {role}-2.pem for example, into the server's keys directory" in str(refusal.value)
    assert world.authority.root.version == 1
    assert world.shelf.retained == before


async def test_it_is_accepted_once_the_key_is_there_and_without_a_restart(world: World) -> None:
    new = world.keys.new_key(RoleName.DIRECTIVE)
    root = world.keys.publish(world.keys.rotated(world.keys.kid(RoleName.DIRECTIVE), new, stolen=True))
    with pytest.raises(ConflictError):
        await world.trust.accept_root(root, actor="sam")
    (world.keys.folder / "directive-2.pem").write_bytes(new.to_pem(None))
    (world.keys.folder / "directive-2.pem").chmod(0o600)

    await world.trust.accept_root(root, actor="sam")

    assert world.authority.mandate.directive.kids == {new.public.kid}
    assert world.authority.directive_epoch == 2


async def test_a_key_file_that_cannot_be_read_is_named_and_changes_nothing(world: World) -> None:
    new = world.keys.new_key(RoleName.DIRECTIVE, into=world.keys.folder)
    (world.keys.folder / "directive-2.pem").chmod(0o644)

    with pytest.raises(ConflictError, match="chmod 600"):
        await world.trust.accept_root(
            world.keys.seal_root(world.keys.rotated(world.keys.kid(RoleName.DIRECTIVE), new, stolen=True)), actor="sam"
        )

    await offered(world)


async def test_all_that_stands_is_signed_anew_under_the_new_epoch(world: World) -> None:
    await offered(world)
    old = world.authority.mandate
    stood = {region: world.order(region) for region in (EU, US)}
    published = len(world.shelf.published)

    await world.trust.accept_root(replaced(world), actor="sam")

    for region, before in stood.items():
        now = world.order(region)
        assert before is not None
        assert now is not None
        assert now.counter.epoch == 2
        assert replace(now, counter=before.counter, issued=before.issued, expires=before.expires) == before
    assert world.shelf.published[published][0] == world.topics.trust_root(2)
    with pytest.raises(TrustError):
        order_for(world, old)


async def test_halts_of_long_ago_are_signed_anew_as_well(world: World) -> None:
    campaign, _ = await offered(world)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    world.now += 30 * 86_400

    await world.trust.accept_root(replaced(world), actor="sam")

    order = world.order(EU)
    assert order is not None
    assert (order.action, order.campaign, order.counter.epoch) == (Action.HALT, campaign, 2)
    assert order.issued == int(world.now)
    assert order.expires > order.issued


async def test_a_key_that_is_replaced_in_peace_keeps_its_epoch(world: World) -> None:
    await offered(world)
    before = world.order(EU)

    await world.trust.accept_root(replaced(world, stolen=False), actor="sam")

    now = world.order(EU)
    assert before is not None
    assert now is not None
    assert now.counter.epoch == 1
    assert before.counter < now.counter


async def test_a_root_that_leaves_the_directive_key_alone_leaves_directives_alone(world: World) -> None:
    await offered(world)
    before = await world.directive_repository.all()

    await world.trust.accept_root(world.keys.publish(world.keys.following()), actor="sam")

    assert await world.directive_repository.all() == before


async def test_counters_that_a_thief_has_burnt_are_no_matter_in_the_next_epoch(world: World) -> None:
    """With the stolen key: a directive whose counter leaves no room above it."""
    await offered(world)
    order = world.order(EU)
    assert order is not None
    burnt = replace(order, counter=Counter(1, (1 << 63) - 1), action=Action.HOLD, ramp=None)
    topic = world.topics.directive(EU_MAIN)
    world.shelf.retained[topic] = await world.authority.sign_directive(burnt, None)
    await world.directives.repair(world.retained_directives(), now=world.now)
    assert world.order(EU) == order  # put right at the broker; devices that saw the other one obey it still

    await world.trust.accept_root(replaced(world), actor="sam")

    now = world.order(EU)
    assert now is not None
    assert (now.action, now.counter.epoch) == (Action.OFFER, 2)
    assert now.counter.counter < 1 << 62


async def test_an_offer_that_may_not_be_repeated_becomes_a_hold(world: World) -> None:
    """The status has expired while the root is replaced: what stands must be signed, and must not start anybody."""
    await offered(world)
    await world.trust.accept_status(world.keys.status(), actor="sam")
    world.now += 8 * 86_400

    await world.trust.accept_root(replaced(world), actor="sam")

    order = world.order(EU)
    assert order is not None
    assert (order.action, order.counter.epoch) == (Action.HOLD, 2)


async def test_with_no_key_left_for_an_old_root_a_server_does_not_start(world: World) -> None:
    (world.keys.folder / "directive-1.pem").unlink()
    world.keys.new_key(RoleName.DIRECTIVE, into=world.keys.folder)

    with pytest.raises(ConfigurationError, match="directive key is not one that root 1 names"):
        await restart(world)


async def test_two_rotations_later_a_restart_walks_the_same_way(world: World) -> None:
    campaign, _ = await offered(world)
    await world.trust.accept_root(replaced(world), actor="sam")
    new = world.keys.new_key(RoleName.DIRECTIVE, into=world.keys.folder, number=3)
    await world.trust.accept_root(
        world.keys.publish(world.keys.rotated(world.keys.kid(RoleName.DIRECTIVE), new, stolen=True)), actor="sam"
    )

    authority = await restart(world)

    assert (authority.root.version, authority.directive_epoch) == (3, 3)
    order = order_for(world, authority.mandate)
    assert (order.action, order.campaign) == (Action.OFFER, campaign)


async def restart(world: World) -> Authority:
    grounds = Grounds(Keyring.open(world.keys.folder), world.keys.pinned)
    authority, _ = await open_authority(
        grounds, TrustRepository(world.store), world.blobs, now=int(world.now), production=False
    )
    return authority


# --- a status that takes the server's own keys ---


async def test_a_status_may_silence_a_stolen_server(world: World) -> None:
    """Nothing that it signs counts any more; so it says nothing, and says so."""
    campaign, release = await offered(world)
    stood = world.order(EU)

    await world.trust.accept_status(
        world.keys.status(
            digests=[release.manifest_digest], revoked_kids=frozenset({world.keys.kid(RoleName.DIRECTIVE)})
        ),
        actor="sam",
    )

    assert (await world.campaign(campaign)).state is State.HALTED
    assert not world.authority.mandate.directive
    with pytest.raises(SignerUnavailableError, match="Publish a root that names a key of this server"):
        await world.authority.sign_directive(replace(stood, action=Action.HALT), State.HALTED)  # type: ignore[type-var]


async def test_with_a_second_key_what_stands_is_signed_by_that_one(world: World) -> None:
    first, second = world.keys.kid(RoleName.DIRECTIVE), world.keys.new_key(RoleName.DIRECTIVE, into=world.keys.folder)
    role = world.keys.root.roles[RoleName.DIRECTIVE]
    both = world.keys.following(
        keys={**world.keys.root.keys, second.public.kid: second.public},
        roles={
            **world.keys.root.roles,
            RoleName.DIRECTIVE: replace(role, kids=tuple(sorted([first, second.public.kid]))),
        },
    )
    await world.trust.accept_root(world.keys.publish(both), actor="sam")
    await world.authority.under_with_keys(world.authority.trust)
    world.authority._keyring.load()
    await offered(world)

    await world.trust.accept_status(world.keys.status(revoked_kids=frozenset({first})), actor="sam")

    assert world.authority.mandate.directive.kids == {second.public.kid}
    order = world.order(EU)
    assert order is not None
    assert order.action is Action.OFFER


# --- a signer that is another program ---


def command(folder: Path, key: str, switch: Path) -> str:
    """Name a signer that holds the key outside of this process, and only signs while ``switch`` is there."""
    script = folder / f"sign-{key}.py"
    script.write_text(
        "import sys\n"
        f"from pathlib import Path\n"
        "from firmware_store.keys import load_key\n"
        f"if not Path({str(switch)!r}).exists(): sys.exit('nobody is there')\n"
        f"sys.stdout.buffer.write(load_key(Path({str(folder / key)!r}), None).sign(sys.stdin.buffer.read()))\n"
    )
    return f"command:{folder / key}.pub {sys.executable} {script}"


@pytest.fixture
async def outside(world: World, tmp_path: Path) -> Path:
    """A world whose directives are signed by a command, for as long as a file exists."""
    switch = tmp_path / "somebody-is-there"
    switch.touch()
    key = world.keys.of(RoleName.DIRECTIVE)[0]
    (world.keys.folder / "directive-1.pem.pub").write_bytes(key.public.to_pem())
    keyring = Keyring.open(world.keys.folder, directive=command(world.keys.folder, "directive-1.pem", switch))
    world.authority._keyring = keyring
    world.authority.adopt(world.authority.under(world.authority.trust))
    assert world.authority.mandate.directive.blocks
    return switch


async def test_a_command_signs_what_a_device_takes(world: World, outside: Path) -> None:
    assert outside.exists()

    campaign, _ = await offered(world)

    order = world.order(EU)
    assert order is not None
    assert (order.action, order.campaign) == (Action.OFFER, campaign)


async def test_a_revocation_takes_effect_while_nobody_signs_and_the_halt_follows(world: World, outside: Path) -> None:
    campaign, release = await offered(world)
    outside.unlink()

    await world.trust.accept_status(world.keys.status(digests=[release.manifest_digest]), actor="sam")

    assert (await world.campaign(campaign)).state is State.HALTED
    assert world.topics.trust_status in world.shelf.retained
    assert order_for(world, world.authority.mandate).action is Action.OFFER

    outside.touch()
    await world.orchestrator.tick()

    assert {order.action for region in (EU, US) if (order := world.order(region))} == {Action.HALT}


async def test_a_halt_by_hand_is_kept_while_nobody_signs(world: World, outside: Path) -> None:
    campaign, _ = await offered(world)
    outside.unlink()

    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    await world.orchestrator.tick()
    assert order_for(world, world.authority.mandate).action is Action.OFFER
    assert (await world.campaign(campaign)).state is State.HALTED
    outside.touch()
    await world.orchestrator.tick()

    order = world.order(EU)
    assert order is not None
    assert (order.action, order.halted != ()) == (Action.HALT, True)


async def test_a_pause_that_nobody_signs_has_not_happened(world: World, outside: Path) -> None:
    campaign, _ = await offered(world)
    outside.unlink()

    with pytest.raises(SignerUnavailableError):
        await world.campaigns.pause(campaign, caller="ann", reason="hm")

    assert (await world.campaign(campaign)).state is State.RUNNING


async def test_devices_are_judged_while_nobody_signs_that_an_expired_status_holds(world: World, outside: Path) -> None:
    campaign, _ = await offered(world)
    await world.live(20)
    await world.trust.accept_status(world.keys.status(expires=int(world.now) + 50), actor="sam")
    outside.unlink()

    await world.live(200)

    rule = world.evidence.rule(campaign)
    assert rule is not None
    assert rule.now == pytest.approx(world.now, abs=1)
    assert (await world.campaign(campaign)).state is State.RUNNING  # a hold needs a signature
    outside.touch()
    await world.live(5)
    assert (await world.campaign(campaign)).causes == {Cause.TRUST}


async def test_a_session_key_may_be_a_command_too(world: World, tmp_path: Path) -> None:
    switch = tmp_path / "somebody-is-there"
    switch.touch()
    (world.keys.folder / "session-1.pem.pub").write_bytes(world.keys.of(RoleName.SESSION)[0].public.to_pem())
    signer = command(world.keys.folder, "session-1.pem", switch)
    world.authority._keyring = Keyring.open(world.keys.folder, session=signer)
    world.authority.adopt(world.authority.under(world.authority.trust))
    world.shelf.published.clear()
    device = DeviceId("eu-001")

    await world.connect(device)
    async with asyncio.timeout(10):
        while not world.shelf.published:
            await asyncio.sleep(0.01)

    ((topic, sealed),) = world.shelf.published
    assert topic == world.topics.welcome(EU, device)
    assert read_welcome(world.authority.root.unseal(Kind.WELCOME, sealed).value).device == device
    switch.unlink()
    await world.connect(device)
    async with asyncio.timeout(10):
        while world.presence._signing:
            await asyncio.sleep(0.01)
    assert len(world.shelf.published) == 1


async def test_a_root_is_not_taken_while_what_stands_cannot_be_signed_anew(world: World, outside: Path) -> None:
    """What is signed under the old epoch would be void, and nothing would stand in its place."""
    await offered(world)
    epoch = replace(world.keys.root.roles[RoleName.DIRECTIVE], epoch=2)
    root = world.keys.publish(world.keys.following(roles={**world.keys.root.roles, RoleName.DIRECTIVE: epoch}))
    outside.unlink()

    with pytest.raises(SignerUnavailableError):
        await world.trust.accept_root(root, actor="sam")
    assert world.authority.root.version == 1
    outside.touch()
    await world.trust.accept_root(root, actor="sam")

    assert world.authority.directive_epoch == 2
