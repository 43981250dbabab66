"""What may be fetched over HTTP: by campaigns, revocations and bundles on a real database, and what asking costs."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from firmware_store.errors import NotFoundError, WithdrawnError
from server.db.bundles import BundleRecord, BundleRepository
from server.db.database import Connection, Database
from server.db.tickets import TicketRepository
from server.domain.plan import Plan, Policy, Wave
from server.services import catalogue as catalogue_module
from server.services.catalogue import Catalogue
from server.services.tickets import Tickets
from tests.records import EU, US
from tests.service_world import World
from tests.trust_fleet import own_fleet

AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))


class CountingDatabase(Database):
    """Every transaction counts."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.transactions = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        self.transactions += 1
        async with self._inner.transaction() as connection:
            yield connection


class Shop:
    """A world, and its catalogue, which hears what the server's would."""

    def __init__(self, store: Database, folder: Path) -> None:
        self.world = World(store, folder / "blobs", keys=own_fleet(folder / "keys"))
        self.database = CountingDatabase(store)
        self.catalogue = Catalogue(
            repository=BundleRepository(self.database), store=self.world.blobs, authority=self.world.authority
        )
        self.world.changes.on_change = self.catalogue.note_change
        self.world.bundles.on_change = self.catalogue.note_change

    async def blobs(self, release: BundleRecord) -> list[bytes]:
        return list(await BundleRepository(self.world.store).blobs(release.id))

    async def told(self, ask: Awaitable[Any]) -> str:
        """ "here", "withdrawn" or "unknown"."""
        try:
            await ask
        except WithdrawnError:
            return "withdrawn"
        except NotFoundError:
            return "unknown"
        return "here"

    async def standing(self, release: BundleRecord) -> set[str]:
        """What is said of its blobs and of its image; one word where all agree."""
        image = sha256(b"release %d of a small program. " % release.sequence_number * 40).digest()
        said = {await self.told(self.catalogue.check_blob(digest)) for digest in await self.blobs(release)}
        return said | {await self.told(self.catalogue.find_image(image))}


@pytest.fixture
def shop(store: Database, tmp_path: Path) -> Shop:
    return Shop(store, tmp_path)


async def test_what_belongs_to_a_bundle_is_here_and_nothing_else(shop: Shop) -> None:
    stray = b"a blob of an upload that broke off"
    await shop.world.blobs.put(sha256(stray).digest(), stray)
    release = await shop.world.add_release(1)

    assert await shop.standing(release) == {"here"}
    assert await shop.told(shop.catalogue.check_blob(sha256(stray).digest())) == "unknown"
    assert await shop.told(shop.catalogue.find_image(sha256(stray).digest())) == "unknown"


async def test_what_was_asked_for_before_costs_no_query(shop: Shop) -> None:
    releases = [await shop.world.add_release(number) for number in (1, 2, 3)]
    for release in releases:
        await shop.standing(release)
    wanted = [digest for release in releases for digest in await shop.blobs(release)]
    await shop.told(shop.catalogue.check_blob(bytes(32)))
    before = shop.database.transactions

    for digest in [*wanted, bytes(32)] * 3:
        await shop.told(shop.catalogue.check_blob(digest))

    assert shop.database.transactions == before


async def test_a_bundle_costs_a_few_queries_however_many_blobs_it_has(shop: Shop) -> None:
    release = await shop.world.add_release(1)

    for digest in await shop.blobs(release):
        await shop.catalogue.check_blob(digest)

    assert len(await shop.blobs(release)) > 3
    assert shop.database.transactions <= 4


async def test_a_halt_withdraws_what_no_other_campaign_offers(shop: Shop) -> None:
    world = shop.world
    halted, other = await world.add_release(1), await world.add_release(2)
    campaign = await world.start(halted, AT_ONCE, Policy(), EU)
    assert await shop.standing(halted) == {"here"}

    await world.campaigns.halt(campaign, caller="ann", reason="smoke")

    assert await shop.standing(halted) == {"withdrawn"}
    assert await shop.standing(other) == {"here"}

    await world.campaigns.resume(campaign, caller="bob", reason="it was the weather")

    assert await shop.standing(halted) == {"here"}


async def test_what_another_campaign_still_offers_stays(shop: Shop) -> None:
    world = shop.world
    release = await world.add_release(1)
    first, second = [await world.start(release, AT_ONCE, Policy(), region) for region in (EU, US)]

    await world.campaigns.halt(first, caller="ann", reason="smoke")
    assert await shop.standing(release) == {"here"}

    await world.campaigns.cancel(second, caller="ann", reason="that one, too")
    assert await shop.standing(release) == {"withdrawn"}


async def test_a_blob_that_another_release_has_too_stays(shop: Shop, store: Database) -> None:
    world = shop.world
    halted, good = await world.add_release(1), await world.add_release(2)
    shared = (await shop.blobs(halted))[0]
    async with store.transaction() as connection:
        await connection.execute("INSERT INTO bundle_blob VALUES ($1, $2, 5)", good.id, shared)
    campaign = await world.start(halted, AT_ONCE, Policy(), EU)
    await shop.standing(halted)

    await world.campaigns.halt(campaign, caller="ann", reason="smoke")

    assert await shop.standing(halted) == {"here", "withdrawn"}
    assert await shop.told(shop.catalogue.check_blob(shared)) == "here"


async def test_a_revocation_withdraws_a_release_that_no_campaign_has(shop: Shop) -> None:
    release = await shop.world.add_release(1)
    assert await shop.standing(release) == {"here"}

    await shop.world.trust.accept_status(shop.world.keys.status(digests=[release.manifest_digest]), actor="sam")

    assert await shop.standing(release) == {"withdrawn"}


async def test_digests_of_many_bundles_take_a_bounded_room(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    releases = [await shop.world.add_release(number) for number in (1, 2, 3)]
    monkeypatch.setattr(catalogue_module, "LISTED_BYTES_MOST", 32 * len(await shop.blobs(releases[0])))

    for _ in range(2):
        for release in releases:
            assert await shop.standing(release) == {"here"}

    assert sum(len(listing.data) for listing in shop.catalogue._listings.values()) <= catalogue_module.LISTED_BYTES_MOST


async def test_all_servers_of_a_fleet_issue_the_same_tickets(store: Database) -> None:
    fleet, other = b"f" * 16, b"g" * 16
    texts = [(await Tickets.load(TicketRepository(store), name)).issue(0) for name in (fleet, fleet, other)]

    assert texts[0] == texts[1] != texts[2]
