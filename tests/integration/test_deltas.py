"""Deltas from what a campaign's devices run: asked for at its start, made once, offered when they can be fetched."""

import asyncio
import hashlib
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from firmware_store.bundle import bundle_pieces
from firmware_store.chunks import decode_index, decode_page, unpack_chunk
from firmware_store.deltas import Codec, apply_delta, make_delta
from firmware_store.suit import Fetch
from server.db.bundles import BundleRecord, BundleRepository
from server.db.database import Database
from server.db.deltas import DeltaRepository
from server.domain.campaign import State
from server.domain.identity import CampaignId, Region
from server.domain.plan import Plan, Policy, Wave
from server.domain.scope import Scope
from server.protocol.sources import DeltaOffer
from server.services.delta_process import make_apart
from server.services.delta_releases import Releases
from server.services.delta_workshop import MakeDelta, Workshop
from server.services.deltas import GOING_ON, KEPT, Deltas
from tests.records import EU, LAB
from tests.servers import make_bundle
from tests.service_world import World
from tests.trust_fleet import own_fleet

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=600),))
WAIT_S = 40.0
FIRST = random.Random(1).randbytes(120_000)
SECOND = b"a new beginning, which moves all else" + FIRST
UNLIKE = random.Random(2).randbytes(120_000)


async def make_here(codec: Codec, source: Path, target: Path, out: Path) -> None:
    await asyncio.to_thread(make_delta, codec, source, target, out)


async def make_never(codec: Codec, source: Path, target: Path, out: Path) -> None:
    raise AssertionError("it is here already")


class Yard:
    """A world that makes deltas."""

    def __init__(self, store: Database, folder: Path) -> None:
        self.folder = folder
        self.world = World(store, folder / "blobs", keys=own_fleet(folder / "keys"))
        self.repository = DeltaRepository(store)
        self.deltas = self.open(make_here)

    def open(self, make: MakeDelta) -> Deltas:
        """Begin anew, as another process of the server would."""
        world = self.world
        self.deltas = Deltas(
            repository=self.repository,
            campaigns=world.repository,
            bundles=BundleRepository(world.store),
            releases=Releases(bundles=BundleRepository(world.store), store=world.blobs, fleet=world.fleet),
            workshop=Workshop(store=world.blobs, sink=world.blobs, folder=self.folder / "deltas", make=make),
            metrics=world.metrics,
            codecs=[Codec.ZSTD],
            sources_most=4,
            image_most_bytes=1 << 20,
            wait_s=WAIT_S,
            clock=lambda: world.now,
        )
        self.deltas.on_made = world.publisher.note_needs
        world.directives.deltas = self.deltas.offers
        world.orchestrator.deltas = self.deltas
        return self.deltas

    async def add_release(self, image: bytes) -> BundleRecord:
        file = make_bundle(self.folder, self.world.keys.folder, content={"app": image})
        return await self.world.bundles.receive(bundle_pieces(file), caller="ann")

    async def begin(self, source: bytes, target: bytes) -> tuple[CampaignId, BundleRecord]:
        """Start a campaign for devices that run the release of one image, to that of another."""
        before, after = await self.add_release(source), await self.add_release(target)
        await self.world.populate(3, EU)
        await self.world.connect(*(device.id for device in self.world.fleet), digest=before.manifest_digest)
        return await self.world.start(after, AT_ONCE, POLICY, EU), after

    async def work(self) -> None:
        """Make what is to be made, publish it, and see that it is there."""
        while await self.deltas.round():
            pass
        await self.world.publish()
        await self.deltas.round()

    def offered(self) -> tuple[DeltaOffer, ...]:
        order = self.world.order(EU)
        return () if order is None else order.deltas

    async def states(self, campaign: CampaignId) -> list[tuple[str, bool]]:
        return [(delta.codec, delta.is_there) for delta in await self.deltas.of_campaign(campaign)]

    def fetch(self, delta: DeltaOffer) -> bytes:
        """Return a delta's bytes as a device gets them: by digest, from what the broker retains."""
        get = lambda digest: self.world.shelf.retained[self.world.topics.blob(digest)]
        pages = decode_index(get(delta.index_digest), Fetch(delta.index_digest, delta.index_size, delta.chunk_count))
        chunks = [chunk for page in pages for chunk in decode_page(get(page.digest), page)]
        return b"".join(unpack_chunk(chunk, get(chunk.wire_digest)) for chunk in chunks)


@pytest.fixture
def yard(store: Database, tmp_path: Path) -> Yard:
    return Yard(store, tmp_path)


async def test_devices_are_offered_a_delta_from_what_they_run(yard: Yard, tmp_path: Path) -> None:
    yard.open(make_apart)
    campaign, _ = await yard.begin(FIRST, SECOND)
    await yard.work()
    await yard.world.live()

    (delta,) = yard.offered()
    source, patch, out = tmp_path / "source", tmp_path / "patch", tmp_path / "out"
    source.write_bytes(FIRST)
    patch.write_bytes(yard.fetch(delta))
    apply_delta(Codec(delta.codec), source, patch, out, target_bytes=len(SECOND))
    assert out.read_bytes() == SECOND
    assert (delta.component, delta.wire_bytes < 1000) == (0, True)
    assert delta.source_digest == hashlib.sha256(FIRST).digest()
    assert delta.target_digest == hashlib.sha256(SECOND).digest()
    assert await yard.states(campaign) == [("zstd", True)]
    assert not list((tmp_path / "deltas").iterdir())


async def test_the_first_wave_waits_for_deltas_but_not_for_long(yard: Yard) -> None:
    """Those that come later are in the next directive."""
    campaign, _ = await yard.begin(FIRST, SECOND)
    await yard.world.live(WAIT_S - 10)
    assert (await yard.world.campaign(campaign)).wave is None

    await yard.world.live(20)
    assert (await yard.world.campaign(campaign)).wave == 0
    assert yard.offered() == ()

    await yard.work()
    await yard.world.live()
    assert len(yard.offered()) == 1

    told = yard.world.order(EU)
    await yard.world.live(15)
    assert yard.world.order(EU) == told  # once


async def test_a_delta_is_offered_only_while_its_pieces_are_at_the_broker(yard: Yard) -> None:
    campaign, _ = await yard.begin(FIRST, SECOND)
    await yard.deltas.round()
    await yard.deltas.round()
    await yard.world.live(WAIT_S)
    assert await yard.states(campaign) == [("zstd", False)]
    assert yard.offered() == ()

    await yard.work()
    await yard.world.live()
    assert len(yard.offered()) == 1

    await yard.world.publisher.forget()  # the broker has lost its store
    await yard.deltas.round()
    await yard.world.live()
    assert yard.offered() == ()


async def test_a_delta_that_saves_too_little_is_remembered_and_not_offered(yard: Yard) -> None:
    campaign, _ = await yard.begin(FIRST, UNLIKE)
    await yard.work()
    await yard.world.live()

    (delta,) = await yard.deltas.of_campaign(campaign)
    assert await yard.deltas.of_campaign(campaign, scope=Scope(regions=frozenset({Region("elsewhere")}))) == []
    assert (delta.offer, delta.codec) == (None, "zstd")
    assert "are fetched without it" in delta.why
    assert (await yard.world.campaign(campaign)).wave == 0
    assert yard.offered() == ()
    assert not await yard.open(make_never).round()


async def test_an_image_that_is_damaged_in_the_store_stops_nothing(yard: Yard) -> None:
    campaign, after = await yard.begin(FIRST, SECOND)
    for digest, size in (await BundleRepository(yard.world.store).blobs(after.id)).items():
        if size == 16_384:
            await yard.world.blobs.delete(digest)
    await yard.work()

    (delta,) = await yard.deltas.of_campaign(campaign)
    assert "there is no blob" in delta.why


async def test_another_campaign_and_another_process_find_what_was_made(yard: Yard) -> None:
    campaign, after = await yard.begin(FIRST, SECOND)
    await yard.work()
    await yard.world.campaigns.cancel(campaign, caller="ann", reason="once more")

    yard.open(make_never)
    again = await yard.world.start(after, AT_ONCE, POLICY, EU)
    await yard.work()
    await yard.world.live()

    assert await yard.states(again) == [("zstd", True)]
    assert len(yard.offered()) == 1


async def test_what_nobody_wants_any_more_is_forgotten(yard: Yard) -> None:
    campaign, _ = await yard.begin(FIRST, SECOND)
    await yard.work()
    later = datetime.fromtimestamp(yard.world.now, UTC) + timedelta(seconds=1)

    assert await yard.repository.forget(wanted_before=later, unless=GOING_ON) == 0
    await yard.world.campaigns.cancel(campaign, caller="ann", reason="over")
    assert await yard.repository.forget(wanted_before=later - KEPT, unless=GOING_ON) == 0
    assert await yard.repository.forget(wanted_before=later, unless=GOING_ON) == 1
    assert (await yard.world.campaign(campaign)).state is State.CANCELLED
