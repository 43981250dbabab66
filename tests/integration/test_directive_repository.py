"""Counters that never fall, bytes that are signed once, and the outbox, on a real PostgreSQL."""

from dataclasses import replace
from datetime import datetime

import pytest

from firmware_store.errors import ConflictError
from server.db.campaign_records import CampaignRecord
from server.db.campaigns import CampaignRepository
from server.db.database import Database
from server.db.directives import DirectiveRecord, DirectiveRepository, issue
from server.domain.campaign import State
from server.domain.identity import Cohort, DeviceId
from server.protocol.messages import Counter
from server.protocol.orders import Action, Directive
from server.protocol.topics import CohortAudience, DeviceAudience
from tests.records import EU, START, US, add_bundle, add_campaign, after, order, write_down

MS = int(START.timestamp()) * 1000


@pytest.fixture
async def campaign(store: Database) -> CampaignRecord:
    draft = await add_campaign(store, await add_bundle(store), regions=(EU, US))
    saved = await CampaignRepository(store).save(replace(draft, state=State.RUNNING))
    assert saved is not None
    return saved


@pytest.fixture
def repository(store: Database) -> DirectiveRepository:
    return DirectiveRepository(store)


async def give(store: Database, *orders: Directive, floor: int = 0) -> list[DirectiveRecord]:
    async with store.transaction() as connection:
        await issue(connection, orders, write_down, floor=floor)
    return await DirectiveRepository(store).all()


async def counter_after(store: Database, directive: Directive, *, floor: int = 0) -> Counter:
    return next(
        record.counter for record in await give(store, directive, floor=floor) if record.audience == directive.audience
    )


# --- counters ---


async def test_a_first_counter_is_the_time_in_milliseconds(store: Database, campaign: CampaignRecord) -> None:
    assert await counter_after(store, order(campaign=campaign.id)) == Counter(0, MS)


async def test_orders_of_the_same_second_count_up_by_one(store: Database, campaign: CampaignRecord) -> None:
    counters = [(await counter_after(store, order(campaign=campaign.id))).counter for _ in range(3)]

    assert counters == [MS, MS + 1, MS + 2]


@pytest.mark.parametrize(
    ("issued", "floor", "expected"),
    [
        (after(60), 0, MS + 60_000),
        (after(-60), 0, MS + 1),
        (START, MS + 999, MS + 999),
        (after(60), MS + 999, MS + 60_000),
    ],
    ids=["time has passed", "the clock went back", "a device has seen more", "time is ahead of all"],
)
async def test_a_counter_is_the_highest_of_previous_time_and_floor(
    store: Database, campaign: CampaignRecord, issued: datetime, floor: int, expected: int
) -> None:
    await give(store, order(campaign=campaign.id))

    counter = await counter_after(store, order(campaign=campaign.id, issued=issued), floor=floor)

    assert counter == Counter(0, expected)


async def test_a_restored_database_never_counts_backwards(store: Database, campaign: CampaignRecord) -> None:
    """The copy is from yesterday, the clock was wrong by a year when the last order went out, and a beat says so."""
    wrong_year = order(campaign=campaign.id, issued=after(365 * 86_400))
    seen_by_devices = await counter_after(store, wrong_year)
    async with store.transaction() as connection:
        await connection.execute("DELETE FROM directive")

    counter = await counter_after(store, order(campaign=campaign.id), floor=seen_by_devices.counter + 1)

    assert seen_by_devices < counter


async def test_each_audience_has_a_counter_of_its_own(store: Database, campaign: CampaignRecord) -> None:
    audiences = [
        CohortAudience(EU, Cohort("main")),
        CohortAudience(US, Cohort("main")),
        CohortAudience(EU, Cohort("lab")),
        DeviceAudience(EU, DeviceId("main")),
    ]
    for audience in audiences:
        await give(store, order(audience, campaign=campaign.id))

    records = await give(store, order(audiences[0], campaign=campaign.id))

    assert {record.audience: record.counter.counter - MS for record in records} == dict(
        zip(audiences, [1, 0, 0, 0], strict=True)
    )


async def test_a_higher_epoch_counts_from_the_time_again(store: Database, campaign: CampaignRecord) -> None:
    await give(store, order(campaign=campaign.id), floor=MS * 2)

    assert await counter_after(store, order(campaign=campaign.id, epoch=1)) == Counter(1, MS)


async def test_an_order_of_an_older_epoch_is_refused_and_not_lost_in_silence(
    store: Database, campaign: CampaignRecord
) -> None:
    await give(store, order(campaign=campaign.id, epoch=2))

    with pytest.raises(ConflictError):
        await give(store, order(campaign=campaign.id, epoch=1))


async def test_what_is_signed_has_the_counter_that_is_stored(store: Database, campaign: CampaignRecord) -> None:
    (record,) = await give(store, order(campaign=campaign.id), floor=MS + 5)

    assert record.body == f"HALT 0.{MS + 5}".encode()
    assert (record.issued_at, record.action, record.campaign) == (START, Action.HALT, campaign.id)


# --- the outbox ---


async def test_an_order_waits_until_the_broker_has_it(
    store: Database, repository: DirectiveRepository, campaign: CampaignRecord
) -> None:
    (record,) = await give(store, order(campaign=campaign.id))
    assert await repository.unpublished() == [record]

    await repository.mark_published(record)

    assert await repository.unpublished() == []
    assert await repository.all() == [replace(record, published=True)]


async def test_an_order_that_came_while_the_one_before_was_published_still_waits(
    store: Database, repository: DirectiveRepository, campaign: CampaignRecord
) -> None:
    (first,) = await give(store, order(campaign=campaign.id))
    (second,) = await give(store, order(campaign=campaign.id))

    await repository.mark_published(first)

    assert await repository.unpublished() == [second]


async def test_an_order_of_a_new_epoch_waits_although_its_counter_is_lower(
    store: Database, repository: DirectiveRepository, campaign: CampaignRecord
) -> None:
    (old,) = await give(store, order(campaign=campaign.id), floor=MS * 2)
    await repository.mark_published(old)

    (new,) = await give(store, order(campaign=campaign.id, epoch=1))
    await repository.mark_published(old)

    assert new.counter == Counter(1, MS)
    assert await repository.unpublished() == [new]


async def test_what_the_broker_has_lost_waits_again(
    store: Database, repository: DirectiveRepository, campaign: CampaignRecord
) -> None:
    (record,) = await give(store, order(campaign=campaign.id))
    await repository.mark_published(record)

    await repository.reopen(record.audience)

    assert await repository.unpublished() == [record]


# --- renewing and saying again ---


async def test_a_renewal_of_the_campaign_as_it_is_goes_out(
    repository: DirectiveRepository, campaign: CampaignRecord
) -> None:
    renewed = await repository.renew(
        [order(campaign=campaign.id)], write_down, floor=0, campaign=campaign.id, revision=campaign.revision
    )

    assert renewed
    assert len(await repository.unpublished()) == 1


async def test_what_is_said_again_is_what_holds_now_and_not_what_held_when_it_was_read(
    store: Database, repository: DirectiveRepository, campaign: CampaignRecord
) -> None:
    """A reader saw an offer; before it is said again under a higher counter, a halt has taken its place."""
    await give(store, order(campaign=campaign.id, action=Action.HOLD))
    (halted,) = await give(store, order(campaign=campaign.id, issued=after(1)))

    async def read_back(body: bytes, state: State | None) -> Directive:
        assert (body, state) == (halted.body, State.RUNNING)
        return order(campaign=campaign.id, issued=after(9))

    await repository.reissue([halted.audience], read_back, write_down, floor=MS + 500_000)

    (record,) = await repository.all()
    assert (record.action, record.counter) == (Action.HALT, Counter(0, MS + 500_000))
    assert record.body == f"HALT 0.{MS + 500_000}".encode()


async def test_nothing_is_said_again_to_an_audience_that_was_never_told_anything(
    repository: DirectiveRepository,
) -> None:
    async def never(_body: bytes, _state: State | None) -> Directive:
        raise AssertionError("there is nothing to say again")

    await repository.reissue([CohortAudience(EU, Cohort("main"))], never, write_down, floor=5)

    assert await repository.all() == []
