"""What a server believes after a start: the root it was given, and of the database only what it can verify."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from firmware_store.errors import ConfigurationError
from firmware_store.root import RoleName
from server.db.database import Database
from server.db.trust import TrustRepository
from server.domain.trust import Trust
from server.services.recall import open_authority, read_grounds, recall
from tests.service_world import World
from tests.trust_fleet import TrustFleet, own_fleet

DAY_S = 86_400


@pytest.fixture
def world(store: Database, tmp_path: Path) -> World:
    return World(store, tmp_path / "blobs", keys=own_fleet(tmp_path / "keys"))


@pytest.fixture
async def grown(world: World) -> World:
    """Two roots and a status later."""
    await again(world)
    for _ in range(2):
        await world.trust.accept_root(world.keys.publish(world.keys.following()), actor="sam")
    await world.trust.accept_status(world.keys.status(4, digests=[b"r" * 32]), actor="sam")
    return world


async def again(
    world: World, *, pinned: bytes | None = None, production: bool = False
) -> tuple[Trust, Mapping[int, bytes]]:
    return await recall(TrustRepository(world.store), pinned or world.keys.pinned, production=production)


async def change(world: World, statement: str, *values: object) -> None:
    async with world.store.transaction() as connection:
        await connection.execute(statement, *values)


async def test_a_first_start_begins_with_the_pinned_root(world: World) -> None:
    trust, roots = await again(world)

    assert (trust.root.version, trust.document) == (1, None)
    assert roots == {1: world.keys.pinned}


async def test_a_later_start_walks_to_where_the_last_one_was(grown: World) -> None:
    trust, roots = await again(grown)

    assert trust.root == grown.authority.root
    assert trust.document == grown.authority.trust.document
    assert sorted(roots) == [1, 2, 3]


async def test_a_root_that_the_databases_owner_made_stops_the_start(grown: World) -> None:
    forged = grown.keys.seal_root(grown.keys.following(), grown.keys.of(RoleName.RELEASE))
    await change(grown, "INSERT INTO trust_root VALUES (4, $1, now(), 'a thief')", forged)

    with pytest.raises(ConfigurationError, match="Root 4 in the database does not follow root 3"):
        await again(grown)


async def test_a_root_that_is_missing_in_between_stops_the_start(grown: World) -> None:
    await change(grown, "DELETE FROM trust_root WHERE version = 2")

    with pytest.raises(ConfigurationError, match="does not follow root 1"):
        await again(grown)


async def test_another_first_root_in_the_database_stops_the_start(world: World, tmp_path: Path) -> None:
    strangers = TrustFleet.make(tmp_path / "strangers")
    await again(world, pinned=strangers.pinned)

    with pytest.raises(ConfigurationError, match="knows another root 1"):
        await again(world)


async def test_a_server_that_is_given_a_later_root_begins_there(grown: World) -> None:
    _, roots = await again(grown)

    trust, known = await again(grown, pinned=roots[2])

    assert trust.root.version == 3
    assert sorted(known) == [2, 3]


async def test_a_status_that_the_databases_owner_made_is_not_believed(grown: World) -> None:
    forged = grown.keys.status(9, signers=grown.keys.of(RoleName.DIRECTIVE))
    await change(grown, "INSERT INTO trust_status VALUES (1, 9, $1, now(), 'a thief')", forged)

    trust, _ = await again(grown)

    assert trust.document is None


async def test_a_status_of_an_earlier_root_forbids_on_after_a_start(grown: World) -> None:
    kid = grown.keys.kid(RoleName.STATUS)
    new = grown.keys.rotated(kid, grown.keys.new_key(RoleName.STATUS), stolen=True)
    await grown.trust.accept_root(grown.keys.publish(new), actor="sam")

    trust, _ = await again(grown)

    assert trust.status is not None
    assert trust.status.revoked_digests == {b"r" * 32}
    assert trust.current is None


async def test_production_refuses_development_keys(world: World) -> None:
    with pytest.raises(ConfigurationError, match="marked for development"):
        await again(world, production=True)


async def test_bytes_that_are_no_root_stop_the_start(world: World) -> None:
    with pytest.raises(ConfigurationError, match="is not to be used"):
        await again(world, pinned=b"\xa0")


async def test_an_expired_root_stops_offers_and_not_the_server(world: World) -> None:
    later = int(world.now) + 400 * DAY_S

    authority, _ = await open_authority(
        read_grounds(world.keys.folder), TrustRepository(world.store), world.blobs, now=later, production=False
    )

    assert authority.root.version == 1


def test_a_folder_without_a_root_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="tidegate keys init --dev"):
        read_grounds(tmp_path)
