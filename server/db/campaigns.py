"""Campaigns: every change is one compare-and-set on ``revision``, with its decision and its signed directives."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import asyncpg

from firmware_store.errors import ConflictError, NotFoundError
from server.db import approvals
from server.db.audit import Evidence
from server.db.campaign_records import CampaignRecord, DecisionRecord, RegionRecord
from server.db.campaign_trail import leave_decision, leave_draft
from server.db.database import Connection, Database
from server.db.directives import Sign, issue
from server.db.filters import where_campaigns
from server.db.revocations import RevocationRecord, propose
from server.domain.campaign import ACTIVE, Cause, Membership, State
from server.domain.consent import Answer, Awaited, Word
from server.domain.filter import Expression
from server.domain.gate import Ramp
from server.domain.identity import CampaignId, Cohort, Region
from server.domain.plan import Plan, Policy
from server.domain.scope import EVERYTHING, Scope
from server.protocol.orders import Directive
from server.protocol.sources import Transport

_COLUMNS: Final = """id, name, cohort, bundle_id, state, causes, run, plan, policy, reason, created_by, created_at,
    started_at, watching_since, ended_at, halted_at, wave, blobs_ready, sentence, revision,
    membership, emergency, run_at, rolling_since, awaits, advanced, answer, transport, policy_from"""

ADD: Final = """
    INSERT INTO campaign (id, name, cohort, bundle_id, state, plan, policy, reason, created_by, created_at, membership,
                          policy_from)
    VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9, $10, $11, $12)
"""

ADD_REGIONS: Final = """
    INSERT INTO campaign_region (campaign_id, region, position, cohort)
    SELECT $1, region, position, $3 FROM unnest($2::text[]) WITH ORDINALITY AS r (region, position)
"""

GET: Final = f"SELECT {_COLUMNS} FROM campaign WHERE id = $1"

NEWEST: Final = f"""
    SELECT {_COLUMNS} FROM campaign
     WHERE ($2::text[] IS NULL OR cohort = ANY($2))
       AND ($3::text[] IS NULL
            OR EXISTS (SELECT FROM campaign_region WHERE campaign_id = campaign.id AND region = ANY($3)))
       AND ($4::uuid IS NULL
            OR created_at <= (SELECT created_at FROM campaign WHERE id = $4)
               AND (id > $4 OR created_at < (SELECT created_at FROM campaign WHERE id = $4)))
     ORDER BY created_at DESC, id LIMIT $1
"""

REACHING: Final = f"""
    SELECT {_COLUMNS} FROM campaign
     WHERE id = (SELECT campaign_id FROM campaign_region AS r JOIN campaign AS c ON c.id = r.campaign_id
                  WHERE r.cohort = $1 AND r.region = $2
                  ORDER BY r.active DESC, c.created_at DESC, c.id LIMIT 1)
"""

IN_STATES: Final = f"SELECT {_COLUMNS} FROM campaign WHERE state = ANY($1)"

LOCK_STANDING: Final = """
    SELECT FROM campaign
     WHERE state = ANY($1) OR id IN (SELECT campaign_id FROM directive WHERE campaign_id IS NOT NULL)
     ORDER BY id FOR UPDATE
"""

LOCK_ALL: Final = "SELECT id, revision FROM campaign WHERE id = ANY($1) ORDER BY id FOR UPDATE"

ACTIVE_ON: Final = f"""
    SELECT {_COLUMNS} FROM campaign
     WHERE id <> $1 AND id IN (SELECT campaign_id FROM campaign_region
                                WHERE cohort = $2 AND region = ANY($3) AND active)
"""

REGIONS: Final = """
    SELECT campaign_id, region, t0, l0, t1, l1, plan_t0, plan_l0, plan_t1, target, opened_at
      FROM campaign_region WHERE campaign_id = ANY($1) ORDER BY campaign_id, position
"""

SAVE: Final = """
    UPDATE campaign
       SET state = $3, causes = $4, run = $5, started_at = $6, watching_since = $7, ended_at = $8, wave = $9,
           blobs_ready = $10, sentence = $11, halted_at = $12, run_at = $13, rolling_since = $14, emergency = $15,
           awaits = $16, advanced = $17, answer = $18::jsonb, transport = $19,
           revision = revision + 1
     WHERE id = $1 AND revision = $2
    RETURNING revision
"""

BEFORE: Final = "SELECT state, causes, run, wave FROM campaign WHERE id = $1 AND revision = $2"

SAVE_REGIONS: Final = """
    UPDATE campaign_region AS c
       SET t0 = r.t0, l0 = r.l0, t1 = r.t1, l1 = r.l1, opened_at = r.opened_at, active = $2,
           plan_t0 = r.plan_t0, plan_l0 = r.plan_l0, plan_t1 = r.plan_t1, target = r.target
      FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
                  $9::bigint[], $10::bigint[], $11::bigint[], $12::timestamptz[])
        AS r (region, t0, l0, t1, l1, plan_t0, plan_l0, plan_t1, target, opened_at)
     WHERE c.campaign_id = $1 AND c.region = r.region
"""

ADD_DECISION: Final = """
    INSERT INTO decision (campaign_id, at, kind, actor, sentence, evidence, run)
    VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)
    RETURNING id, sha256(convert_to(jsonb_build_array(kind, actor, sentence, run, evidence)::text, 'UTF8')) AS digest
"""

DECISIONS: Final = """
    SELECT at, kind, actor, sentence, evidence, run, id AS number FROM decision
     WHERE campaign_id = $1 AND ($3::bigint IS NULL OR id < $3) ORDER BY id DESC LIMIT $2
"""


class CampaignRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, campaign: CampaignRecord) -> None:
        """Store a draft."""
        async with self._database.transaction() as connection:
            await connection.execute(
                ADD,
                campaign.id,
                campaign.name,
                campaign.cohort,
                campaign.bundle_id,
                campaign.state.value,
                campaign.plan.model_dump_json(),
                campaign.policy.model_dump_json(),
                campaign.reason,
                campaign.created_by,
                campaign.created_at,
                campaign.membership.value,
                campaign.policy_from,
            )
            await connection.execute(
                ADD_REGIONS, campaign.id, [region.region for region in campaign.regions], campaign.cohort
            )
            await leave_draft(connection, campaign)

    async def get(self, campaign: CampaignId) -> CampaignRecord:
        """Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            records = await _with_regions(connection, await connection.fetch(GET, campaign))
        if not records:
            raise NotFoundError("There is no such campaign.")
        return records[0]

    async def newest(
        self,
        limit: int,
        only: Expression | None = None,
        *,
        before: CampaignId | None = None,
        scope: Scope = EVERYTHING,
    ) -> list[CampaignRecord]:
        """Return the newest that a filter lets through, whole, if some of it is within ``scope``.

        ``before``: those that follow this one in the list.
        """
        statement, values = NEWEST, list[Any]()
        if only is not None:
            where, values = where_campaigns(only, 5)
            statement = NEWEST.replace("ORDER BY", f"AND {where} ORDER BY")
        among = scope.cohort_names, scope.region_names
        async with self._database.transaction() as connection:
            return await _with_regions(connection, await connection.fetch(statement, limit, *among, before, *values))

    async def in_states(self, states: frozenset[State]) -> list[CampaignRecord]:
        async with self._database.transaction() as connection:
            return await _with_regions(connection, await connection.fetch(IN_STATES, [state.value for state in states]))

    async def reaching(self, cohort: Cohort, region: Region) -> CampaignRecord | None:
        """Return the campaign that is active on an audience, else the one made for it last, if there is any."""
        async with self._database.transaction() as connection:
            found = await _with_regions(connection, await connection.fetch(REACHING, cohort, region))
        return found[0] if found else None

    async def active_beside(self, campaign: CampaignRecord) -> list[CampaignRecord]:
        """Return the other campaigns that are active on its cohort in one of its regions."""
        regions = [region.region for region in campaign.regions]
        async with self._database.transaction() as connection:
            rows = await connection.fetch(ACTIVE_ON, campaign.id, campaign.cohort, regions)
            return await _with_regions(connection, rows)

    async def save(
        self,
        campaign: CampaignRecord,
        *,
        decision: DecisionRecord | None = None,
        orders: Sequence[Directive] = (),
        sign: Sign | None = None,
        floor: int = 0,
        proposal: RevocationRecord | None = None,
        superseded: Sequence[tuple[CampaignRecord, DecisionRecord]] = (),
    ) -> CampaignRecord | None:
        """Store a changed campaign if nobody else was first; None otherwise, and nothing has changed.

        ``campaign.revision`` is the one that was read. The decision, the signed ``orders``, the ``proposal`` to
        revoke the release and the end of the campaigns that this one supersedes go into the same transaction, so a
        crash leaves either all of it or nothing.

        Raises:
            ConflictError: another campaign is active on one of its regions.
        """
        try:
            async with self._database.transaction() as connection:
                if superseded and not await _as_read(connection, [campaign, *(other for other, _ in superseded)]):
                    return None
                for other, why in superseded:
                    await save(connection, other, why)
                saved = await save(connection, campaign, decision)
                if saved is None:
                    return None
                if proposal is not None:
                    await propose(connection, proposal)
                if orders:
                    assert sign is not None
                    await issue(connection, orders, sign, floor=floor)
        except asyncpg.UniqueViolationError as exc:
            raise ConflictError(
                "Another campaign is active on this cohort in one of these regions; end it first."
            ) from exc
        return saved

    async def decisions(self, campaign: CampaignId, limit: int, *, before: int | None = None) -> list[DecisionRecord]:
        """Return the newest first, of those with numbers below ``before``."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(DECISIONS, campaign, limit, before)
        return [DecisionRecord(**{**dict(row), "evidence": json.loads(row["evidence"])}) for row in rows]


async def save(
    connection: Connection, campaign: CampaignRecord, decision: DecisionRecord | None
) -> CampaignRecord | None:
    """Store a changed campaign inside the caller's transaction; see ``CampaignRepository.save``."""
    before = None if decision is None else await connection.fetchrow(BEFORE, campaign.id, campaign.revision)
    revision = await connection.fetchval(SAVE, campaign.id, campaign.revision, *_changing(campaign))
    if revision is None:
        return None
    await _save_regions(connection, campaign)
    if campaign.approvals:
        await approvals.add(connection, campaign.id, campaign.approvals)
    if decision is not None:
        evidence = json.dumps(dict(decision.evidence))
        added = await connection.fetchrow(
            ADD_DECISION,
            campaign.id,
            decision.at,
            decision.kind,
            decision.actor,
            decision.sentence,
            evidence,
            campaign.run,
        )
        assert before is not None, "its revision is the one that was saved"
        assert added is not None
        evidence_of_it = Evidence(added["id"], added["digest"])
        await leave_decision(connection, campaign, decision, before, evidence_of_it)
    return replace(campaign, revision=revision)


async def _as_read(connection: Connection, campaigns: Sequence[CampaignRecord]) -> bool:
    """Lock them all, in the order that everybody keeps to; tell whether they are as they were read."""
    rows = await connection.fetch(LOCK_ALL, [campaign.id for campaign in campaigns])
    return {row["id"]: row["revision"] for row in rows} == {one.id: one.revision for one in campaigns}


async def lock_standing(connection: Connection) -> list[CampaignRecord]:
    """Return the active campaigns; nobody else changes them, nor any that a directive names, in this transaction.

    One statement locks them all, in the order that everybody keeps to: see ``server.db.directives``.
    """
    await connection.execute(LOCK_STANDING, [state.value for state in ACTIVE])
    return await _with_regions(connection, await connection.fetch(IN_STATES, [state.value for state in ACTIVE]))


async def _save_regions(connection: Connection, campaign: CampaignRecord) -> None:
    lines = [region.ramp for region in campaign.regions]
    await connection.execute(
        SAVE_REGIONS,
        campaign.id,
        campaign.state in ACTIVE,
        [region.region for region in campaign.regions],
        [line.t0 for line in lines],
        [line.l0 for line in lines],
        [line.t1 for line in lines],
        [line.l1 for line in lines],
        [region.planned.t0 for region in campaign.regions],
        [region.planned.l0 for region in campaign.regions],
        [region.planned.t1 for region in campaign.regions],
        [region.target for region in campaign.regions],
        [region.opened_at for region in campaign.regions],
    )


def _changing(campaign: CampaignRecord) -> tuple[object, ...]:
    return (
        campaign.state.value,
        sorted(campaign.causes),
        campaign.run,
        campaign.started_at,
        campaign.watching_since,
        campaign.ended_at,
        campaign.wave,
        campaign.blobs_ready,
        campaign.sentence,
        campaign.halted_at,
        campaign.run_at,
        campaign.rolling_since,
        campaign.emergency,
        campaign.awaits.value,
        campaign.advanced,
        None if campaign.answer is None else json.dumps(asdict(campaign.answer)),
        None if campaign.transport is None else campaign.transport.name.lower(),
    )


async def _with_regions(connection: Connection, rows: Sequence[Any]) -> list[CampaignRecord]:
    regions: dict[CampaignId, list[RegionRecord]] = {}
    for row in await connection.fetch(REGIONS, [row["id"] for row in rows]):
        ramp = Ramp(row["t0"], row["l0"], row["t1"], row["l1"])
        planned = Ramp(row["plan_t0"], row["plan_l0"], row["plan_t1"], row["target"])
        regions.setdefault(row["campaign_id"], []).append(RegionRecord(row["region"], ramp, planned, row["opened_at"]))
    approved = await approvals.of(connection, [row["id"] for row in rows])
    records = []
    for row in rows:
        values = dict(row)
        values["state"] = State(values["state"])
        values["causes"] = frozenset(Cause(cause) for cause in values["causes"])
        values["plan"] = Plan.model_validate_json(values["plan"])
        values["policy"] = Policy.model_validate_json(values["policy"])
        values["awaits"] = Awaited(values["awaits"])
        values["answer"] = None if values["answer"] is None else _answer(json.loads(values["answer"]))
        values["transport"] = None if values["transport"] is None else Transport[values["transport"].upper()]
        values["membership"] = Membership(values["membership"])
        values["regions"] = tuple(regions.get(row["id"], ()))
        values["approvals"] = approved.get(row["id"], ())
        records.append(CampaignRecord(**values))
    return records


def _answer(members: dict[str, Any]) -> Answer:
    return Answer(**{**members, "word": Word(members["word"])})
