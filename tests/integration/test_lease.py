"""The lease on a real PostgreSQL: one node decides, and one that has lost it changes nothing, whatever it believes."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from firmware_store.documents import Kind
from firmware_store.errors import ConfigurationError, LeaseLostError, StoreUnavailableError
from server.db import campaigns
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.campaigns import CampaignRepository
from server.db.database import Database
from server.db.directives import DirectiveRepository
from server.db.executions import ExecutionRepository
from server.db.lease import LeaseSession, lease_session
from server.db.pool import open_pool
from server.db.trust import DocumentRecord, TrustRepository
from server.domain.campaign import State
from server.protocol.orders import Action, Directive
from server.services import lease as lease_service
from server.services.lease import Lease, acquire_now, await_lease, describe_other, name_node
from tests.records import EU, START, add_bundle, add_campaign, add_devices, order, write_down

WAIT_S = 30.0
HOUR, NOTHING = timedelta(hours=1), timedelta()
Work = Callable[[Database], Awaitable[Any]]


@asynccontextmanager
async def node(url: str, name: str, *, life: timedelta = HOUR) -> AsyncIterator[LeaseSession]:
    session = LeaseSession(url, name, life=life)
    await session.connect()
    try:
        yield session
    finally:
        await session.close()


async def acquired(session: LeaseSession) -> int:
    generation = await session.acquire()
    assert generation is not None
    return generation


@asynccontextmanager
async def writing(url: str, generation: int) -> AsyncIterator[Database]:
    """What a server has that holds this generation."""
    pool = await open_pool(url, generation=generation)
    try:
        yield Database(pool)
    finally:
        await pool.close()


@pytest.fixture
async def running(store: Database) -> CampaignRecord:
    """A campaign that a device is in, with a directive."""
    await add_devices(store, 3)
    draft = await add_campaign(store, await add_bundle(store))
    saved = await CampaignRepository(store).save(
        replace(draft, state=State.RUNNING), decision=decision("start"), orders=[hold_back(draft)], sign=write_down
    )
    assert saved is not None
    return saved


def hold_back(campaign: CampaignRecord) -> Directive:
    return order(campaign=campaign.id, action=Action.HOLD)


def decision(kind: str) -> DecisionRecord:
    return DecisionRecord(START, kind, "orchestrator", f"It is {kind}.", {})


async def read(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


# --- who has it ---


async def test_the_lease_goes_to_the_first_and_stays_there(database: str) -> None:
    async with node(database, "a") as first, node(database, "b") as second:
        generation = await acquired(first)

        assert await second.acquire() is None
        assert second.other is not None
        assert second.other.node == "a"
        assert "a holds the lease" in describe_other(second)
        assert await first.renew(generation)


async def test_a_lease_that_was_not_renewed_goes_to_the_next_with_a_higher_generation(database: str) -> None:
    async with node(database, "a", life=NOTHING) as first, node(database, "b") as second:
        former = await acquired(first)
        generation = await acquired(second)

        assert generation == former + 1
        assert not await first.renew(former)
        assert await first.acquire() is None


async def test_a_lease_that_was_given_back_goes_to_the_next_at_once(database: str) -> None:
    async with node(database, "a") as first, node(database, "b") as second:
        await first.release(await acquired(first))

        assert await second.acquire() is not None


async def test_a_lease_that_nobody_has_taken_is_renewed_however_late(database: str) -> None:
    async with node(database, "a", life=NOTHING) as first:
        assert await first.renew(await acquired(first))


async def test_nobody_gives_back_the_lease_of_a_later_generation(database: str) -> None:
    async with node(database, "a", life=NOTHING) as first, node(database, "b") as second, node(database, "c") as third:
        former = await acquired(first)
        await acquired(second)
        await first.release(former)

        assert await third.acquire() is None


async def test_of_many_nodes_that_ask_at_once_one_has_it(database: str) -> None:
    async with node(database, "a") as a, node(database, "b") as b, node(database, "c") as c, node(database, "d") as d:
        given = await asyncio.gather(*(session.acquire() for session in (a, b, c, d)))

        assert sorted(given, key=str) == [1, None, None, None]


async def test_a_node_that_was_killed_goes_on_at_once(database: str) -> None:
    """Its session lock falls with its connection, and the lease that it still holds is its own."""
    killed = LeaseSession(database, "a", life=HOUR)
    await killed.connect()
    former = await acquired(killed)
    assert killed._connection is not None
    killed._connection.terminate()

    async with asyncio.timeout(WAIT_S):
        while (generation := await start_again(database)) is None:
            await asyncio.sleep(0.01)

    assert generation == former + 1
    assert not await killed.renew(former)
    await killed.close()


async def start_again(url: str) -> int | None:
    try:
        async with node(url, "a") as session:
            return await session.acquire()
    except ConfigurationError:
        return None


async def test_a_second_process_of_a_node_is_turned_away(database: str) -> None:
    async with node(database, "a"):
        with pytest.raises(ConfigurationError, match="stop it first"):
            async with lease_session(database, "a"):
                pass


async def test_a_database_that_is_not_there_is_said_to_be_away() -> None:
    with pytest.raises(StoreUnavailableError):
        async with lease_session("postgresql://nobody@127.0.0.1:1/nothing", "a"):
            pass


async def test_a_lost_connection_comes_again(database: str) -> None:
    async with node(database, "a") as session:
        generation = await acquired(session)
        await read(
            database,
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'tidegate lease' AND datname = current_database()
            """,
        )

        async with asyncio.timeout(WAIT_S):
            while not await renewed(session, generation):
                await asyncio.sleep(0.01)


async def renewed(session: LeaseSession, generation: int) -> bool:
    try:
        return await session.renew(generation)
    except StoreUnavailableError:
        return False


def test_a_node_keeps_its_name(tmp_path: Path) -> None:
    name = name_node(tmp_path / "data")

    assert name_node(tmp_path / "data") == name
    assert name_node(tmp_path / "other") != name


def test_a_node_without_a_name_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "node").touch()

    with pytest.raises(ConfigurationError, match="remove it"):
        name_node(tmp_path)


# --- what it is for ---


async def add_draft(database: Database) -> None:
    await add_campaign(
        database, await add_bundle(database, id=uuid4(), manifest_digest=secrets.token_bytes(32)), regions=[EU]
    )


async def save(database: Database) -> None:
    (campaign,) = await CampaignRepository(database).newest(1)
    await CampaignRepository(database).save(replace(campaign, sentence="by whom?"))


async def decide(database: Database) -> None:
    (campaign,) = await CampaignRepository(database).newest(1)
    halted = replace(campaign, state=State.HALTED, halted_at=START)
    await CampaignRepository(database).save(
        halted, decision=decision("halt"), orders=[order(campaign=campaign.id)], sign=write_down
    )


async def renew(database: Database) -> None:
    (campaign,) = await CampaignRepository(database).newest(1)
    given = {"campaign": campaign.id, "revision": campaign.revision}
    await DirectiveRepository(database).renew([hold_back(campaign)], write_down, floor=0, **given)


async def say_again(database: Database) -> None:
    (record,) = await DirectiveRepository(database).all()
    (campaign,) = await CampaignRepository(database).newest(1)

    async def same(body: bytes, state: State | None) -> Directive:
        return hold_back(campaign)

    await DirectiveRepository(database).reissue([record.audience], same, write_down, floor=0)


async def reopen(database: Database) -> None:
    (record,) = await DirectiveRepository(database).all()
    await DirectiveRepository(database).reopen(record.audience)


async def judge(database: Database) -> None:
    (campaign,) = await CampaignRepository(database).newest(1)
    await ExecutionRepository(database).judge(campaign.id, [], now=START)


async def mark_silent(database: Database) -> None:
    (campaign,) = await CampaignRepository(database).newest(1)
    await ExecutionRepository(database).mark_silent(campaign.id, [], now=START)


async def pin(database: Database) -> None:
    await TrustRepository(database).pin(DocumentRecord(Kind.ROOT, 0, 9, b"root", START, "somebody"))


WORKS: list[Work] = [add_draft, save, decide, renew, say_again, reopen, judge, mark_silent, pin]
EVERYTHING = """
    SELECT 'campaign', c::text FROM campaign AS c UNION ALL SELECT 'directive', d::text FROM directive AS d
    UNION ALL SELECT 'decision', d::text FROM decision AS d UNION ALL SELECT 'execution', e::text FROM execution AS e
    UNION ALL SELECT 'root', t::text FROM trust_root AS t
"""


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
async def test_a_node_that_has_lost_the_lease_changes_nothing(
    database: str, running: CampaignRecord, work: Work
) -> None:
    async with node(database, "a") as first, node(database, "b") as second:
        former = await acquired(first)
        async with writing(database, former) as stale:
            await stale.ping()
            await first.release(former)
            generation = await acquired(second)
            before = await read(database, EVERYTHING)

            with pytest.raises(LeaseLostError):
                await work(stale)
            assert sorted(await read(database, EVERYTHING)) == sorted(before)

        async with writing(database, generation) as holder:
            await work(holder)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
async def test_a_lease_that_has_run_out_is_none_though_nobody_has_taken_it(
    database: str, running: CampaignRecord, work: Work
) -> None:
    async with node(database, "a", life=NOTHING) as late, writing(database, await acquired(late)) as stale:
        with pytest.raises(LeaseLostError):
            await work(stale)


UNFENCED = {
    "lease": "it is what is checked",
    "schema_migration": "of the database itself",
    "device": "what people enter, and when each was last heard",
    "device_claim": "what people enter",
    "device_key": "enrolment decides by itself, whoever serves it",
    "device_certificate": "as device_key",
    "device_revocation": "to revoke is right in any case",
    "token": "what people enter",
    "policy": "what people publish, for campaigns to be drawn up by",
    "bundle": "what people upload; offering it is another matter",
    "bundle_blob": "as bundle",
    "delta_blob": "written with its delta, which is fenced",
    "operation_device": "written with its operation, which is fenced",
    "ticket_secret": "made once, by whoever is first",
    "campaign_freeze": "what people enter; to heed it is another matter",
    "execution_event": "history, written with the execution",
    "trust_event": "history: an attack leaves a row whoever sees it",
    "audit": "history, written with the change, which is fenced where it has to be",
    "audit_head": "as audit",
    "request_key": "written with the change that the request makes, which is fenced where it has to be",
    "outbox": "written with the change, which is fenced where it has to be",
    "outbox_head": "as outbox",
    "webhook": "what people enter, and how far it has come: at least once, whoever delivers",
    "webhook_delivery": "as webhook",
    "webhook_ticket": "as webhook",
    "restore_point": "written with a restore, while nobody serves",
}


async def test_every_table_is_fenced_or_there_is_a_reason_why_not(database: str) -> None:
    tables = await read(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    fenced = await read(
        database,
        """
        SELECT tgrelid::regclass::text FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
         WHERE proname = 'check_lease' AND tgtype = 30  -- before insert, update or delete, once a statement
        """,
    )

    assert {name for (name,) in tables} - {name for (name,) in fenced} == UNFENCED.keys()


async def test_a_decision_says_under_which_generation_it_was_made(database: str, running: CampaignRecord) -> None:
    async with node(database, "a") as session, writing(database, await acquired(session)) as holder:
        await decide(holder)

    assert await read(database, "SELECT kind, generation FROM decision ORDER BY id") == [("start", None), ("halt", 1)]


async def test_the_lease_is_not_taken_in_the_middle_of_a_decision(database: str, running: CampaignRecord) -> None:
    """What was decided under the lease is there for whoever takes it; and renewing waits for nobody."""
    halted = replace(running, state=State.HALTED, halted_at=START)
    async with node(database, "a") as first, node(database, "b") as second, asyncio.timeout(WAIT_S):
        former = await acquired(first)
        async with writing(database, former) as holder, holder.transaction() as connection:
            assert await campaigns.save(connection, halted, decision("halt")) is not None
            assert await first.renew(former)
            await first.release(former)
            taking = asyncio.create_task(second.acquire())
            await until_somebody_waits(database)
            assert not taking.done()

        assert await taking == former + 1
        assert ("halt",) in await read(database, "SELECT kind FROM decision")


async def test_a_holder_that_hangs_in_the_middle_of_a_decision_is_undone(
    database: str, running: CampaignRecord
) -> None:
    """PostgreSQL ends a transaction that nobody goes on with (after a minute; here after a second)."""
    halted = replace(running, state=State.HALTED, halted_at=START)
    async with node(database, "a") as first, node(database, "b") as second, asyncio.timeout(WAIT_S):
        former = await acquired(first)
        async with writing(database, former) as holder:
            with pytest.raises(StoreUnavailableError):  # noqa: PT012 - the end of the block is what raises
                async with holder.transaction() as connection:
                    await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '1s'")
                    assert await campaigns.save(connection, halted, decision("halt")) is not None
                    await first.release(former)
                    assert (await await_lease(second)).generation == former + 1

        assert await read(database, "SELECT kind FROM decision") == [("start",)]


async def until_somebody_waits(url: str) -> None:
    waiting = """
        SELECT 1 FROM pg_stat_activity
         WHERE application_name = 'tidegate lease' AND datname = current_database() AND wait_event_type = 'Lock'
    """
    while not await read(url, waiting):
        await asyncio.sleep(0.01)


async def test_two_nodes_that_decide_at_once_make_one_decision(database: str, running: CampaignRecord) -> None:
    """Each has read the same campaign. Without a lease, compare-and-set lets one be first; with it, one may at all."""

    def halt(repository: CampaignRepository) -> Awaitable[CampaignRecord | None]:
        halted = replace(running, state=State.HALTED, halted_at=START)
        orders = [order(campaign=running.id)]
        return repository.save(halted, decision=decision("halt"), orders=orders, sign=write_down)

    pools = [await open_pool(database) for _ in range(2)]
    outcomes = await asyncio.gather(*(halt(CampaignRepository(Database(pool))) for pool in pools))
    for pool in pools:
        await pool.close()

    assert sorted(outcome is None for outcome in outcomes) == [False, True]
    assert await read(database, "SELECT kind FROM decision ORDER BY id") == [("start",), ("halt",)]
    assert len(await read(database, "SELECT audience FROM directive")) == 1


# --- holding it ---


class Uptime:
    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_service, "RENEW_S", 0.01)
    monkeypatch.setattr(lease_service, "AGAIN_S", 0.01)


async def hold(session: LeaseSession, clock: Uptime) -> Lease:
    lease = await Lease.acquire(session, clock=clock)
    assert lease is not None
    return lease


async def test_a_lease_is_believed_in_for_its_life_from_before_it_was_asked_for(database: str) -> None:
    clock = Uptime()
    async with node(database, "a") as session:
        lease = await hold(session, clock)

        assert lease.is_held()
        clock.now += lease_service.LIFE_S
        assert not lease.is_held()


@pytest.mark.usefixtures("impatient")
async def test_a_lease_that_is_kept_is_renewed_and_given_back(database: str) -> None:
    clock = Uptime()
    late = asyncio.Event()
    async with node(database, "a") as session, node(database, "b") as other:
        lease = await hold(session, clock)
        lease.on_late = late.set
        async with asyncio.timeout(WAIT_S), lease.kept():
            clock.now += 1000
            await late.wait()
            assert lease.is_held()
            assert await other.acquire() is None

        assert await other.acquire() == 2


@pytest.mark.usefixtures("impatient")
async def test_a_node_that_another_has_taken_over_from_stops(database: str) -> None:
    async with node(database, "a", life=NOTHING) as session, node(database, "b") as other:
        lease = await hold(session, Uptime())
        await acquired(other)

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.timeout(WAIT_S), lease.kept():
                await asyncio.Event().wait()

        assert caught.group_contains(LeaseLostError, match="taken over")
        assert not lease.is_held()
        assert await session.acquire() is None


@pytest.mark.usefixtures("impatient")
async def test_a_node_whose_database_is_away_stops_when_its_lease_has_run_out(database: str) -> None:
    clock = Uptime()
    async with node(database, "a") as session:
        lease = await hold(session, clock)
        session._url = "postgresql://nobody@127.0.0.1:1/nothing"
        assert session._connection is not None
        session._connection.terminate()

        keeping = asyncio.create_task(lease.keep())
        asked = clock.asked
        async with asyncio.timeout(WAIT_S):
            while clock.asked < asked + 20:  # it does not give up before
                await asyncio.sleep(0.01)
        assert not keeping.done()
        clock.now += lease_service.LIFE_S

        with pytest.raises(LeaseLostError, match="could not renew"):
            await asyncio.wait_for(keeping, WAIT_S)


async def test_a_server_that_is_not_a_standby_says_who_holds_the_lease(database: str) -> None:
    async with node(database, "a") as first, node(database, "b") as second:
        await acquire_now(first)

        with pytest.raises(ConfigurationError, match=r"Node a holds the lease .* --standby"):
            await acquire_now(second)


@pytest.mark.usefixtures("impatient")
async def test_a_standby_takes_over_when_the_lease_is_given_back(database: str) -> None:
    async with node(database, "a") as first, node(database, "b") as second, asyncio.timeout(WAIT_S):
        generation = await acquired(first)
        waiting = asyncio.create_task(await_lease(second))
        while second.other is None:
            await asyncio.sleep(0.01)
        await first.release(generation)

        assert (await waiting).generation == generation + 1
