"""Campaigns on a real PostgreSQL: of two writers one wins, and all that belongs to a change is one transaction."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from firmware_store.errors import ConflictError, NotFoundError
from server.db.approvals import ApprovalRecord
from server.db.bundles import BundleRecord, BundleRepository
from server.db.campaign_records import CampaignRecord, DecisionRecord, RegionRecord
from server.db.campaigns import CampaignRepository
from server.db.database import Database
from server.db.directives import DirectiveRepository
from server.db.executions import ExecutionRepository
from server.db.fleet_executions import FleetExecutionRepository
from server.domain.campaign import ACTIVE, Cause, Membership, State
from server.domain.filter import BUNDLES, CAMPAIGNS, EXECUTIONS, FLEET_EXECUTIONS, read_filter
from server.domain.gate import FULL, Ramp
from server.domain.halt import HaltPolicy
from server.domain.identity import CampaignId, Cohort
from server.domain.plan import Policy
from server.protocol.orders import Action, Directive
from tests.records import EU, MAIN, START, US, add_bundle, add_campaign, after, order, write_down


@pytest.fixture
async def bundle(store: Database) -> BundleRecord:
    return await add_bundle(store)


@pytest.fixture
def repository(store: Database) -> CampaignRepository:
    return CampaignRepository(store)


def halt(by: str) -> DecisionRecord:
    return DecisionRecord(START, "halt", by, f"Halted by {by}.", {"silent": 3})


async def test_a_draft_comes_back_as_it_was(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    draft = await add_campaign(
        store,
        bundle,
        regions=(US, EU),
        policy=Policy(halt=HaltPolicy(reboot_s=1.5, g1_s=4.25), on_halt="keep"),
        membership=Membership.SNAPSHOT,
    )

    assert await repository.get(draft.id) == draft
    assert await repository.newest(10) == [draft]


async def test_a_changed_campaign_comes_back_as_it_was(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    draft = await add_campaign(store, bundle, regions=(EU, US))
    eu = RegionRecord(
        EU, Ramp(1_800_000_000, 5, 1_800_000_060, 90), Ramp(1_800_000_000, 5, 1_800_003_600, FULL), after(1)
    )
    changed = replace(
        draft,
        state=State.PAUSED,
        causes=frozenset({Cause.OPERATOR, Cause.GATE}),
        run=2,
        started_at=after(1),
        watching_since=after(2),
        ended_at=after(3),
        wave=0,
        blobs_ready=True,
        sentence="Paused.",
        emergency="CVE-1",
        run_at=after(4),
        rolling_since=after(5),
        approvals=(ApprovalRecord(1, "bea", after(1), "fine"), ApprovalRecord(2, "bea", after(4), "again")),
        regions=(eu, RegionRecord(US)),
    )

    saved = await repository.save(changed)

    assert saved == replace(changed, revision=2)
    assert await repository.get(draft.id) == saved


async def test_campaigns_are_found_by_their_state(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    draft = await add_campaign(store, bundle)
    other = await add_campaign(store, bundle, cohort=Cohort("lab"))
    await repository.save(replace(other, state=State.RUNNING))

    assert [found.id for found in await repository.in_states(ACTIVE)] == [other.id]
    assert [found.id for found in await repository.in_states(frozenset({State.DRAFT}))] == [draft.id]


async def test_a_campaign_that_is_not_there_is_not_found(repository: CampaignRepository, bundle: BundleRecord) -> None:
    with pytest.raises(NotFoundError):
        await repository.get(CampaignId(bundle.id))


# --- compare and set ---


async def test_of_writers_that_have_read_the_same_campaign_one_wins(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    running = await save(repository, replace(await add_campaign(store, bundle), state=State.RUNNING))
    names = [f"writer-{number}" for number in range(8)]

    outcomes = await asyncio.gather(
        *(
            repository.save(
                replace(running, state=State.HALTED, sentence=name),
                decision=halt(name),
                orders=[order(campaign=running.id)],
                sign=write_down,
            )
            for name in names
        )
    )

    winners = [name for name, outcome in zip(names, outcomes, strict=True) if outcome is not None]
    assert len(winners) == 1
    assert (await repository.get(running.id)).sentence == winners[0]
    assert [decision.actor for decision in await repository.decisions(running.id, 100)] == winners
    assert len(await DirectiveRepository(store).all()) == 1


async def test_the_loser_changes_nothing(store: Database, repository: CampaignRepository, bundle: BundleRecord) -> None:
    draft = await add_campaign(store, bundle)
    winner = await save(repository, replace(draft, sentence="first"))

    lost = await repository.save(
        replace(draft, state=State.HALTED, sentence="Nobody stored this.", regions=(RegionRecord(EU, Ramp.flat(7)),)),
        decision=halt("too late"),
        orders=[order(campaign=draft.id)],
        sign=write_down,
    )

    assert lost is None
    assert await repository.get(draft.id) == winner
    assert await repository.decisions(draft.id, 10) == []
    assert await DirectiveRepository(store).all() == []


async def save(repository: CampaignRepository, campaign: CampaignRecord, **further: Any) -> CampaignRecord:
    saved = await repository.save(campaign, **further)
    assert saved is not None
    return saved


# --- one transaction ---


async def test_a_decision_comes_with_its_orders_or_not_at_all(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    running = await save(repository, replace(await add_campaign(store, bundle), state=State.RUNNING))

    async def fail_at_the_second(directive: Directive, _state: State | None) -> bytes:
        if directive.audience == second:
            raise RuntimeError("the key is gone")
        return await write_down(directive)

    second = order(campaign=running.id).audience.__class__(US, MAIN)
    with pytest.raises(RuntimeError):
        await repository.save(
            replace(running, state=State.HALTED),
            decision=halt("rule"),
            orders=[order(campaign=running.id), order(second, campaign=running.id)],
            sign=fail_at_the_second,
        )

    assert await repository.get(running.id) == running
    assert await repository.decisions(running.id, 10) == []
    assert await DirectiveRepository(store).all() == []


async def test_decisions_come_newest_first_with_their_evidence(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    campaign = await add_campaign(store, bundle)
    for name in ("a", "b", "c"):
        campaign = await save(repository, campaign, decision=halt(name))

    decisions = await repository.decisions(campaign.id, 2)

    assert decisions == [halt("c"), halt("b")]


# --- at most one active campaign for a cohort in a region ---


async def test_a_second_campaign_on_the_same_cohort_and_region_does_not_start(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    await save(repository, replace(await add_campaign(store, bundle, regions=(EU, US)), state=State.RUNNING))
    second = await add_campaign(store, bundle, regions=(US,))

    with pytest.raises(ConflictError):
        await repository.save(replace(second, state=State.RUNNING), decision=halt("second"))

    assert await repository.get(second.id) == second
    assert await repository.decisions(second.id, 10) == []


async def test_of_campaigns_that_start_together_one_does(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    drafts = [await add_campaign(store, bundle, regions=regions) for regions in ((EU, US), (US, EU), (EU,), (US,))]

    outcomes = await asyncio.gather(
        *(repository.save(replace(draft, state=State.RUNNING)) for draft in drafts), return_exceptions=True
    )

    active = [region for found in await repository.in_states(ACTIVE) for region in (r.region for r in found.regions)]
    assert len(active) == len(set(active)) > 0
    assert sum(isinstance(outcome, CampaignRecord) for outcome in outcomes) in {1, 2}


@pytest.mark.parametrize("end", sorted(set(State) - ACTIVE - {State.DRAFT}))
async def test_the_next_campaign_may_start_when_the_first_is_over(
    store: Database, repository: CampaignRepository, bundle: BundleRecord, end: State
) -> None:
    first = await save(repository, replace(await add_campaign(store, bundle), state=State.RUNNING))
    await save(repository, replace(first, state=end))

    second = await repository.save(replace(await add_campaign(store, bundle), state=State.RUNNING))

    assert second is not None


async def test_another_cohort_or_region_is_no_obstacle(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    for members in ({}, {"regions": (US,)}, {"cohort": Cohort("lab")}):
        draft = await add_campaign(store, bundle, **members)

        assert await repository.save(replace(draft, state=State.RUNNING)) is not None


# --- a renewal is no decision ---


async def test_a_renewal_never_follows_a_halt_it_did_not_know_of(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    """The orchestrator has read a running campaign; before it renews the offer, a person halts it."""
    running = await save(repository, replace(await add_campaign(store, bundle), state=State.RUNNING))
    directives = DirectiveRepository(store)
    hold = order(campaign=running.id, action=Action.HOLD)
    await save(repository, replace(running, state=State.HALTED), orders=[order(campaign=running.id)], sign=write_down)

    renewed = await directives.renew([hold], write_down, floor=0, campaign=running.id, revision=running.revision)

    assert not renewed
    assert [record.action for record in await directives.all()] == [Action.HALT]


async def test_renewals_and_a_halt_that_come_together_end_in_the_halt(
    store: Database, repository: CampaignRepository, bundle: BundleRecord
) -> None:
    directives = DirectiveRepository(store)
    running = await save(repository, replace(await add_campaign(store, bundle), state=State.RUNNING))
    hold = order(campaign=running.id, action=Action.HOLD)

    async def renew() -> bool:
        return await directives.renew([hold], write_down, floor=0, campaign=running.id, revision=running.revision)

    async def stop() -> CampaignRecord:
        return await save(
            repository, replace(running, state=State.HALTED), orders=[order(campaign=running.id)], sign=write_down
        )

    await asyncio.gather(renew(), renew(), stop(), renew(), renew())

    assert [record.action for record in await directives.all()] == [Action.HALT]


async def test_campaigns_bundles_and_executions_are_found_by_filters(store: Database) -> None:
    """Each field once, so that each column is one that there is."""
    bundle = await add_bundle(store)
    campaign = await add_campaign(store, bundle)
    now, world = datetime.now(UTC), CampaignRepository(store)

    for fields, find in (
        (CAMPAIGNS, lambda only: world.newest(10, only)),
        (BUNDLES, lambda only: BundleRepository(store).newest(10, only)),
        (EXECUTIONS, lambda only: ExecutionRepository(store).page(campaign.id, after="", limit=10, only=only)),
        (FLEET_EXECUTIONS, lambda only: FleetExecutionRepository(store).page(limit=10, only=only)),
    ):
        everything = await find(read_filter(" OR ".join(f"{name}:*" for name in fields), fields, now))
        nothing = await find(read_filter(" AND ".join(f"NOT {name}:*" for name in fields), fields, now))
        assert (len(everything), nothing) == (0 if fields in (EXECUTIONS, FLEET_EXECUTIONS) else 1, [])
    drafts = await world.newest(10, read_filter(f"state = draft AND cohort = {campaign.cohort}", CAMPAIGNS, now))
    newer = await BundleRepository(store).newest(10, read_filter("version > 1.1.0-rc.1", BUNDLES, now))

    assert [one.id for one in drafts] == [campaign.id]
    assert [one.id for one in newer] == [bundle.id]
