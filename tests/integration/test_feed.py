"""Events: written with the change, numbered by the commits, and told to whoever listens without a gap."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from firmware_store.errors import ConflictError, RateLimitedError, WithdrawnError
from server.db import outbox
from server.db.database import Database
from server.db.outbox import OutboxRepository
from server.db.telemetry import TelemetryRepository
from server.domain.events import Choice, Event, EventType, Published
from server.domain.execution import State
from server.domain.identity import CampaignId, Cohort, Region
from server.domain.scope import Scope
from server.protocol.reasons import Reason
from server.services import feed as feeds
from server.services.feed import Feed, Quiet
from tests.records import EU, MAIN, START, add_bundle, add_campaign, add_devices, after, report

WAIT_S = 20
ALL = Choice()


@pytest.fixture
def repository(store: Database) -> OutboxRepository:
    return OutboxRepository(store)


def event(number: int, kind: EventType = EventType.BUNDLE_ADDED, **members: Any) -> Event:
    return Event(kind, f"bun_{number}", after(number), {"number": number}, **members)


@asynccontextmanager
async def running(repository: OutboxRepository, **settings: Any) -> AsyncIterator[Feed]:
    feed = Feed(repository, **{"kept": timedelta(days=7)} | settings)
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def heard(feed: Feed, count: int, choice: Choice = ALL, *, start: int | None = 0, **given: Any) -> list[int]:
    """Listen until so many events were told; returns their numbers."""
    found: list[int] = []
    async with asyncio.timeout(WAIT_S):
        told = feed.follow(choice, after=start, **given)
        async for one in told:
            if isinstance(one, Published):
                found.append(one.seq)
            if len(found) == count:
                break
        await told.aclose()
    return found


async def test_numbers_are_in_the_order_of_the_commits(store: Database, repository: OutboxRepository) -> None:
    """Whoever reads as they come sees no number before a smaller one, whichever transaction began first."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with store.transaction() as connection:
            await outbox.put(connection, event(1))
            begun.set()
            await may_end.wait()

    task = asyncio.create_task(slow())
    await begun.wait()
    await repository.put(event(2))
    seen = [one.seq for one in await repository.following(0, 10)]
    may_end.set()
    await task

    assert seen == [1]
    assert [(one.seq, one.subject) for one in await repository.following(0, 10)] == [(1, "bun_2"), (2, "bun_1")]


async def test_everybody_hears_all_of_it_while_many_write(repository: OutboxRepository) -> None:
    async with running(repository) as feed:
        listeners = [asyncio.create_task(heard(feed, 100)) for _ in range(3)]
        await asyncio.gather(*(repository.put(event(number)) for number in range(100)))
        late = await heard(feed, 50, start=50)

        assert [await one for one in listeners] == [list(range(1, 101))] * 3
        assert late == list(range(51, 101))


async def test_what_is_not_in_memory_any_more_is_read_from_the_outbox(
    repository: OutboxRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "REMEMBERED", 5)
    monkeypatch.setattr(feeds, "READ_MOST", 3)
    async with running(repository) as feed:
        fast = asyncio.create_task(heard(feed, 20))
        for number in range(20):
            await repository.put(event(number))

        assert await fast == list(range(1, 21))
        assert await heard(feed, 20) == list(range(1, 21))


async def test_what_is_rolled_back_is_told_to_nobody(store: Database, repository: OutboxRepository) -> None:
    bundle = await add_bundle(store)
    with pytest.raises(ConflictError):
        await add_bundle(store)

    assert [one.subject for one in await repository.following(0, 10)] == [f"bun_{bundle.id.hex}"]


async def test_only_what_was_chosen_is_told(repository: OutboxRepository) -> None:
    mine, other = CampaignId(uuid4()), CampaignId(uuid4())
    halted = EventType.CAMPAIGN_HALTED
    for number, (kind, campaign) in enumerate([(halted, mine), (halted, other), (EventType.CAMPAIGN_PAUSED, mine)]):
        await repository.put(event(number, kind, campaign=campaign))
    async with running(repository) as feed:
        assert await heard(feed, 2, Choice(frozenset({halted}))) == [1, 2]
        assert await heard(feed, 2, Choice(campaign=mine)) == [1, 3]
        assert await heard(feed, 1, Choice(frozenset({halted}), other)) == [2]


async def test_whoever_has_limits_hears_of_what_lies_within(repository: OutboxRepository) -> None:
    eu, us = Region("eu"), Region("us")
    places: list[dict[str, Any]] = [
        {"regions": (eu,), "cohort": MAIN},
        {"regions": (eu, us), "cohort": MAIN},
        {"regions": (eu,), "cohort": Cohort("other")},
        {},
        {"regions": (eu,), "cohort": MAIN},
    ]
    for number, place in enumerate(places):
        await repository.put(event(number, **place))
    async with running(repository) as feed:
        scope = Scope(frozenset({eu}), frozenset({MAIN}))

        assert await heard(feed, 2, scope=scope) == [1, 5]


async def test_whoever_hears_nothing_is_told_where_they_are(repository: OutboxRepository) -> None:
    await repository.put(event(1))
    async with running(repository, heartbeat_s=0.05) as feed, asyncio.timeout(WAIT_S):
        told = feed.follow(Choice(frozenset({EventType.AUDIT_ALTERED})), after=0)
        quiet = [await anext(told), await anext(told)]
        await told.aclose()

        assert quiet == [Quiet(0), Quiet(1)]


async def test_a_place_that_is_kept_no_more_is_refused(repository: OutboxRepository) -> None:
    for number in range(4):
        await repository.put(event(number))
    assert await repository.clear(before=after(2), most=100) == 2
    feed = Feed(repository, kept=timedelta(days=7))

    for place in (0, 1, 5):
        with pytest.raises(WithdrawnError):
            await anext(feed.follow(Choice(), after=place))
    assert await heard(feed, 2, start=2, for_ever=False) == [3, 4]


async def test_after_everything_was_cleared_numbers_go_on(repository: OutboxRepository) -> None:
    for number in range(3):
        await repository.put(event(number))
    assert await repository.clear(before=after(0), most=0) == 3

    assert await repository.ends() == (4, 3)
    await repository.put(event(4))
    assert await repository.ends() == (4, 4)


async def test_no_more_listen_than_the_server_bears(
    repository: OutboxRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "LISTENERS_MOST", 1)
    feed = Feed(repository, kept=timedelta(days=7))
    first = feed.follow(Choice(), after=None)
    await anext(first)

    with pytest.raises(RateLimitedError):
        await anext(feed.follow(Choice(), after=None))
    await first.aclose()
    assert await anext(feed.follow(Choice(), after=None)) == Quiet(0)


async def test_devices_that_fail_in_one_commit_are_one_event(store: Database, repository: OutboxRepository) -> None:
    names = await add_devices(store, 4)
    campaign = await add_campaign(store, await add_bundle(store))
    (_, first) = await repository.ends()
    said = [
        report(campaign.id, 1, State.FAILED, device=names[0], reason=Reason.STORAGE_FULL, detail="12 bytes left"),
        report(campaign.id, 1, State.REJECTED, device=names[1], reason=Reason.HELD),
        report(campaign.id, 1, State.REJECTED, device=names[2], reason=Reason.WRONG_CLASS),
        report(campaign.id, 1, State.DOWNLOADING, device=names[3]),
    ]
    await TelemetryRepository(store).store(hellos=[], reports=said, now=START)

    (told,) = await repository.following(first, 10)
    data = json.loads(told.data)

    assert (told.type, told.campaign, data["count"]) == (EventType.EXECUTIONS_FAILED, campaign.id, 2)
    assert data["devices"] == [
        {"device": names[0], "region": EU, "state": "failed", "reason": "storage_full", "detail": "12 bytes left"},
        {"device": names[2], "region": EU, "state": "rejected", "reason": "wrong_class", "detail": ""},
    ]
