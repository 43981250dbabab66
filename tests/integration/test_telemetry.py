"""What devices say, stored in batches on a real PostgreSQL: what comes twice, late or in disorder changes nothing."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from firmware_store.errors import StoreUnavailableError
from server.db.campaign_records import CampaignRecord
from server.db.database import Database
from server.db.devices import DeviceRepository
from server.db.executions import ExecutionRecord, ExecutionRepository
from server.db.telemetry import DeviceHello, DeviceReport, Stored, TelemetryRepository
from server.domain.execution import State
from server.domain.identity import HardwareClass
from server.protocol.messages import Hello, Slot
from server.protocol.reasons import Reason
from tests.records import (
    EU,
    START,
    US,
    add_bundle,
    add_campaign,
    add_devices,
    after,
    device_name,
    judged_in,
    report,
    tally,
)


@pytest.fixture
async def campaign(store: Database) -> CampaignRecord:
    await add_devices(store, 3)
    return await add_campaign(store, await add_bundle(store))


async def say(store: Database, *reports: DeviceReport, at: float = 0) -> Stored:
    return await TelemetryRepository(store).store(hellos=[], reports=reports, now=after(at))


async def execution(store: Database, campaign: CampaignRecord, device: int = 1) -> ExecutionRecord:
    page = await ExecutionRepository(store).page(campaign.id, after="", limit=100)
    return next(record for record in page if record.device_id == device_name(device))


async def events(store: Database, device: int = 1) -> list[str]:
    async with store.transaction() as connection:
        rows = await connection.fetch(
            "SELECT state FROM execution_event WHERE device_id = $1 ORDER BY id", device_name(device)
        )
    return [row["state"] for row in rows]


async def test_a_first_report_begins_an_execution(store: Database, campaign: CampaignRecord) -> None:
    stored = await say(store, report(campaign.id, 1, State.DOWNLOADING, done_bytes=10, total_bytes=99, slot="b"), at=5)

    assert stored == Stored(1, 0, 0, frozenset({campaign.id}))
    assert await execution(store, campaign) == ExecutionRecord(
        device_id=device_name(1),
        region=EU,
        state=State.DOWNLOADING,
        attempt=1,
        sequence=1,
        reason=Reason.NONE,
        detail="",
        slot="b",
        started_at=after(5),
        rebooting_at=None,
        judged_at=None,
        updated_at=after(5),
    )


async def test_a_repeated_report_changes_nothing(store: Database, campaign: CampaignRecord) -> None:
    once = report(campaign.id, 1, State.DOWNLOADING)
    await say(store, once)
    before = await execution(store, campaign)

    for repeated in ([once], [once, once]):
        assert (await say(store, *repeated, at=60)).changed == 0

    assert await execution(store, campaign) == before
    assert await events(store) == ["downloading"]


async def test_a_report_that_comes_twice_in_its_first_batch_counts_once(
    store: Database, campaign: CampaignRecord
) -> None:
    once = report(campaign.id, 1, State.DOWNLOADING)

    assert await say(store, once, once) == Stored(1, 1, 0, frozenset({campaign.id}))
    assert await events(store) == ["downloading"]


async def test_a_late_report_changes_nothing(store: Database, campaign: CampaignRecord) -> None:
    await say(store, report(campaign.id, 5, State.TRIAL))

    assert (await say(store, report(campaign.id, 4, State.CONFIRMED), at=1)).ignored == 1
    assert (await execution(store, campaign)).state is State.TRIAL


async def test_reports_in_disorder_end_where_the_device_is(store: Database, campaign: CampaignRecord) -> None:
    in_order = [
        report(campaign.id, number, state)
        for number, state in enumerate((State.DOWNLOADING, State.INSTALLING, State.REBOOTING, State.TRIAL), start=1)
    ]
    await say(store, in_order[2], in_order[0], in_order[3], in_order[1])

    assert (await execution(store, campaign)).state is State.TRIAL
    assert await events(store) == ["rebooting", "trial"]


async def test_a_batch_with_a_whole_update_of_one_device_keeps_every_step(
    store: Database, campaign: CampaignRecord
) -> None:
    steps = [State.DUE, State.DOWNLOADING, State.INSTALLING, State.REBOOTING, State.TRIAL, State.CONFIRMED]

    stored = await say(store, *(report(campaign.id, n, state) for n, state in enumerate(steps, start=1)), at=9)

    record = await execution(store, campaign)
    assert stored.changed == len(steps)
    assert (record.state, record.sequence, record.rebooting_at) == (State.CONFIRMED, 6, after(9))
    assert await events(store) == [state.value for state in steps]


async def test_devices_of_one_batch_do_not_mix(store: Database, campaign: CampaignRecord) -> None:
    await say(
        store,
        report(campaign.id, 7, State.REBOOTING, device=device_name(1)),
        report(campaign.id, 1, State.DOWNLOADING, device=device_name(2)),
        report(campaign.id, 8, State.TRIAL, device=device_name(1)),
    )

    assert (await execution(store, campaign, 1)).state is State.TRIAL
    assert (await execution(store, campaign, 2)).state is State.DOWNLOADING
    assert (await execution(store, campaign, 2)).rebooting_at is None


async def test_an_unknown_campaign_is_counted_and_stored_nowhere(store: Database, campaign: CampaignRecord) -> None:
    stored = await say(store, report(UUID(int=9), 1, State.CONFIRMED), report(campaign.id, 2, State.DOWNLOADING), at=1)

    assert stored == Stored(1, 0, 1, frozenset({campaign.id}))
    assert await events(store) == ["downloading"]


async def test_what_the_machine_forbids_changes_nothing(store: Database, campaign: CampaignRecord) -> None:
    await say(store, report(campaign.id, 1, State.FAILED, reason=Reason.CHUNK_MISMATCH))

    assert (await say(store, report(campaign.id, 2, State.CONFIRMED), at=1)).ignored == 1
    assert (await execution(store, campaign)).state is State.FAILED


async def test_a_further_attempt_starts_anew_and_may_succeed(store: Database, campaign: CampaignRecord) -> None:
    await say(store, report(campaign.id, 1, State.FAILED, reason=Reason.CHUNK_MISMATCH))

    await say(store, report(campaign.id, 2, State.DOWNLOADING, attempt=2), at=60)
    await say(store, report(campaign.id, 3, State.CONFIRMED, attempt=2), at=90)

    record = await execution(store, campaign)
    assert (record.state, record.attempt, record.reason) == (State.CONFIRMED, 2, Reason.NONE)
    assert record.started_at == START
    assert await events(store) == ["failed", "downloading", "confirmed"]


async def test_a_word_of_an_earlier_attempt_changes_nothing(store: Database, campaign: CampaignRecord) -> None:
    await say(store, report(campaign.id, 2, State.DOWNLOADING, attempt=2))

    assert (await say(store, report(campaign.id, 3, State.FAILED, attempt=1))).ignored == 1
    assert (await execution(store, campaign)).state is State.DOWNLOADING


async def test_only_the_first_reboot_is_judged(store: Database, campaign: CampaignRecord) -> None:
    await say(store, report(campaign.id, 1, State.REBOOTING), at=10)
    await say(store, report(campaign.id, 2, State.ROLLED_BACK), at=20)

    await say(store, report(campaign.id, 3, State.REBOOTING, attempt=2), at=500)

    assert (await execution(store, campaign)).rebooting_at == after(10)


# --- silence ---


async def judge(store: Database, campaign: CampaignRecord, *, silent: bool, at: float = 900) -> None:
    executions = ExecutionRepository(store)
    unjudged = await executions.unjudged(campaign.id, rebooted_by=after(at), wakes=3)
    await executions.judge(campaign.id, [(record, silent) for record in unjudged], now=after(at))


async def test_a_late_confirmed_of_a_silent_device_is_a_late_success(store: Database, campaign: CampaignRecord) -> None:
    await say(store, report(campaign.id, 1, State.REBOOTING))
    await judge(store, campaign, silent=True)
    assert (await execution(store, campaign)).state is State.SILENT

    await say(store, report(campaign.id, 2, State.TRIAL), report(campaign.id, 3, State.CONFIRMED), at=5000)

    record = await execution(store, campaign)
    assert (record.state, record.judged_at) == (State.CONFIRMED, after(900))


async def test_a_device_is_judged_once(store: Database, campaign: CampaignRecord) -> None:
    await say(store, report(campaign.id, 1, State.REBOOTING))
    await judge(store, campaign, silent=False)

    assert await ExecutionRepository(store).unjudged(campaign.id, rebooted_by=after(9999), wakes=3) == []


async def test_nobody_is_judged_before_the_deadline(store: Database, campaign: CampaignRecord) -> None:
    await say(store, report(campaign.id, 1, State.REBOOTING), at=100)

    assert await ExecutionRepository(store).unjudged(campaign.id, rebooted_by=after(99), wakes=3) == []


async def test_a_device_that_speaks_while_it_is_judged_is_left_for_the_next_look(
    store: Database, campaign: CampaignRecord
) -> None:
    executions = ExecutionRepository(store)
    await say(store, report(campaign.id, 1, State.REBOOTING))
    read = await executions.unjudged(campaign.id, rebooted_by=after(900), wakes=3)
    await say(store, report(campaign.id, 2, State.TRIAL), at=899)

    await executions.judge(campaign.id, [(record, True) for record in read], now=after(900))

    record = await execution(store, campaign)
    assert (record.state, record.judged_at) == (State.TRIAL, None)


async def dead_by(store: Database, campaign: CampaignRecord, at: float) -> Sequence[ExecutionRecord]:
    executions = ExecutionRepository(store)
    dead = await executions.trials(campaign.id, since_before=after(at))
    await executions.mark_silent(campaign.id, dead, now=after(at))
    return dead


async def test_a_trial_that_dies_after_its_verdict_falls_silent(store: Database, campaign: CampaignRecord) -> None:
    await say(store, report(campaign.id, 1, State.REBOOTING), report(campaign.id, 2, State.TRIAL))
    await judge(store, campaign, silent=False)

    await dead_by(store, campaign, 2000)

    assert (await execution(store, campaign)).state is State.SILENT


async def test_a_device_that_was_heard_after_its_reboot_but_never_said_so_does_not_stay_in_flight_for_ever(
    store: Database, campaign: CampaignRecord
) -> None:
    """Its last will, or one beat, counted as being heard; its report of the trial never came."""
    await say(store, report(campaign.id, 1, State.REBOOTING))
    await judge(store, campaign, silent=False)

    await dead_by(store, campaign, 2000)

    assert (await execution(store, campaign)).state is State.SILENT


async def test_the_second_reboot_of_a_judged_device_does_not_stay_in_flight_for_ever(
    store: Database, campaign: CampaignRecord
) -> None:
    await say(store, report(campaign.id, 1, State.REBOOTING), report(campaign.id, 2, State.ROLLED_BACK))
    await judge(store, campaign, silent=False)
    await say(store, report(campaign.id, 3, State.REBOOTING, attempt=2), at=1000)

    await dead_by(store, campaign, 3000)

    assert (await execution(store, campaign)).state is State.SILENT


async def test_a_reboot_that_is_still_to_be_judged_is_not_taken_for_dead(
    store: Database, campaign: CampaignRecord
) -> None:
    await say(store, report(campaign.id, 1, State.REBOOTING))

    assert await dead_by(store, campaign, 2000) == []


async def test_there_are_never_more_silent_devices_than_judged_ones(store: Database, campaign: CampaignRecord) -> None:
    """The report of this one's reboot was lost; a table with 1 silent of 0 judged would stop every evaluation."""
    await say(store, report(campaign.id, 2, State.TRIAL))

    await dead_by(store, campaign, 2000)

    assert (await tally(store, campaign.id))[EU] == {(State.SILENT, 0): 1}
    assert await judged_in(store, campaign.id, EU) == 1


async def test_counts_are_by_region_state_and_reason(store: Database, campaign: CampaignRecord) -> None:
    failed = report(campaign.id, 1, State.FAILED, reason=Reason.BOOT_FAILED, device=device_name(2))
    await say(
        store,
        report(campaign.id, 1, State.REBOOTING),
        failed,
        replace(report(campaign.id, 1, State.CONFIRMED, device=device_name(3)), region=US),
    )
    await judge(store, campaign, silent=False)

    counts = await tally(store, campaign.id)

    assert counts[EU] == {(State.REBOOTING, 0): 1, (State.FAILED, Reason.BOOT_FAILED): 1}
    assert (await judged_in(store, campaign.id, EU), await judged_in(store, campaign.id, US)) == (1, 0)


# --- hellos ---


def hello(nonce: bytes = b"n" * 16, **members: object) -> Hello:
    slots = (Slot("a", 0, "1.0.0", b"", "confirmed"), Slot("b", 7, "1.1.0", b"m" * 32, "trial"))
    given: dict[str, object] = {
        "boot_id": b"b" * 8,
        "vendor": "acme.example",
        "hardware": HardwareClass("gw100-rev-b"),
        "agent_version": "0.1.0",
        "slots": slots,
        "booted": "b",
        "nonce": nonce,
        "labels": {"site": "quay 3"},
    }
    return Hello(**(given | members))  # type: ignore[arg-type]


async def test_a_hello_says_what_the_device_runs(store: Database, campaign: CampaignRecord) -> None:
    await TelemetryRepository(store).store(hellos=[DeviceHello(device_name(1), hello())], reports=[], now=after(3))

    record = await DeviceRepository(store).get(device_name(1))
    assert (record.vendor, record.hardware, record.booted_slot) == ("acme.example", "gw100-rev-b", "b")
    assert (record.running_version, record.running_digest, record.running_sequence) == ("1.1.0", b"m" * 32, 7)
    assert (record.labels, record.session_nonce, record.last_seen) == ({"site": "quay 3"}, b"n" * 16, after(3))


async def test_of_two_hellos_in_a_batch_the_later_counts(store: Database, campaign: CampaignRecord) -> None:
    hellos = [DeviceHello(device_name(1), hello(nonce)) for nonce in (b"1" * 16, b"2" * 16)]

    await TelemetryRepository(store).store(hellos=hellos, reports=[], now=START)

    assert (await DeviceRepository(store).get(device_name(1))).session_nonce == b"2" * 16


async def test_a_device_that_boots_a_slot_it_does_not_name_runs_nothing_we_know(
    store: Database, campaign: CampaignRecord
) -> None:
    await TelemetryRepository(store).store(
        hellos=[DeviceHello(device_name(1), hello(booted="c"))], reports=[], now=START
    )

    assert (await DeviceRepository(store).get(device_name(1))).running_digest is None


# --- the store's bad days ---


async def test_a_deadlock_is_a_reason_to_try_again_and_nothing_else(
    store: Database, campaign: CampaignRecord, database: str
) -> None:
    """Batches and verdicts lock the same rows in orders of their own, so PostgreSQL may have to end one of them."""
    await say(store, *(report(campaign.id, 1, State.REBOOTING, device=device_name(n)) for n in (1, 2)))
    statement = "UPDATE execution SET detail = '' WHERE device_id = $1"
    other = await asyncpg.connect(database)
    try:
        async with other.transaction():
            await other.execute("SET LOCAL deadlock_timeout = '20s'")  # so that the batch is the one to be ended
            await other.execute(statement, device_name(2))
            batch = asyncio.create_task(
                say(store, *(report(campaign.id, 2, State.TRIAL, device=device_name(n)) for n in (1, 2)))
            )
            async with asyncio.timeout(10):
                while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)
            await other.execute(statement, device_name(1))

            with pytest.raises(StoreUnavailableError):
                await batch
    finally:
        await other.close()

    assert (await say(store, report(campaign.id, 2, State.TRIAL))).changed == 1


async def test_a_lock_that_is_not_given_in_time_is_a_reason_to_try_again(
    store: Database, campaign: CampaignRecord
) -> None:
    async with store.transaction() as holder:
        await holder.execute("LOCK TABLE execution")

        with pytest.raises(StoreUnavailableError):
            await read_impatiently(store)


async def read_impatiently(store: Database) -> None:
    async with store.transaction() as connection:
        await connection.execute("SET LOCAL lock_timeout = '10ms'")
        await connection.fetch("SELECT FROM execution")
