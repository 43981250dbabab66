"""PostgreSQL and the evaluation in memory agree on random filters of random devices."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.db.database import Database
from server.db.devices import DeviceRecord, DeviceRepository
from server.db.pool import open_pool
from server.domain.filter import DEVICES, LIVE, Kind, holds, ignoring, read_filter, version_order
from server.domain.identity import Cohort, DeviceId, Region
from server.services.search import look_at

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAYS = [NOW - timedelta(days=each) for each in range(3)]
TEXTS = ["eu", "us", "*", "e", "%", "_u", "x' OR true --", "hamburg", "*burg", 'a"b\\', "Ärger", "$1", "\U0001f40d"]
VERSIONS = [
    "1",
    "1.0.0",
    "1.9.0",
    "1.10.0",
    "1.10.0-rc.1",
    "1.10.0-rc",
    "1.10.0-beta.2",
    "factory",
    "01.2",
    "1.2.3.4.5",
]
KEYS = ["site", "x", "a.b", 'q"', "$1"]

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(TEXTS), max_size=3)
devices = st.builds(
    DeviceRecord,
    id=st.just(DeviceId("gw-0")),
    region=st.sampled_from([Region("eu"), Region("us")]),
    cohort=st.sampled_from([Cohort("main"), Cohort("lab")]),
    member_since=st.sampled_from(DAYS),
    created_at=st.sampled_from(DAYS),
    held=st.booleans(),
    vendor=st.none() | st.sampled_from(TEXTS),
    hardware=st.none() | st.sampled_from(TEXTS),
    agent_version=st.none() | st.sampled_from(VERSIONS),
    booted_slot=st.none() | st.sampled_from(["a", "b"]),
    running_version=st.none() | st.sampled_from(VERSIONS),
    running_sequence=st.none() | st.integers(0, 3),
    labels=labels,
    operator_labels=labels,
    last_seen=st.none() | st.sampled_from(DAYS),
    admitted_at=st.none() | st.sampled_from(DAYS),
    revoked_at=st.none() | st.sampled_from(DAYS),
    is_claimed=st.booleans(),
).map(lambda one: replace(one, is_claimed=one.is_claimed or one.admitted_at is not None))


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(DEVICES)))
    kind = DEVICES[name].kind
    if kind is Kind.LABELS:
        name += "." + quoted(draw(st.sampled_from(KEYS)))
    if kind is Kind.FLAG:
        return f"{name} {draw(st.sampled_from(['=', '!=']))} {draw(st.sampled_from(['true', 'false']))}"
    if draw(st.integers(0, 5)) == 0:
        return f"{name}:*"
    relation = draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]))
    if kind in {Kind.TEXT, Kind.LABELS}:
        value = draw(st.sampled_from([*map(quoted, [*TEXTS, "gw-0", "a"]), "e*", "gw-*", "x*", "%*", "*"]))
        return f"{name} {draw(st.sampled_from(['=', '!=']))} {value}"
    if kind is Kind.INSTANT:
        moment = draw(st.sampled_from(["now", "now-1d", "now-2d", "now-30h", NOW.isoformat()]))
        return f"{name} {draw(st.sampled_from(['<', '<=', '>', '>=']))} {moment}"
    if kind is Kind.NUMBER:
        return f"{name} {relation} {draw(st.integers(-1, 4))}"
    version = draw(st.sampled_from(VERSIONS))
    return f"{name} {relation if version_order(version) else '='} {version}"


filters = st.recursive(
    comparisons(),
    lambda inner: (
        inner.map(lambda one: f"NOT ({one})")
        | st.lists(inner, min_size=2, max_size=3).map(lambda some: " AND ".join(f"({one})" for one in some))
        | st.lists(inner, min_size=2, max_size=3).map(lambda some: " OR ".join(f"({one})" for one in some))
    ),
    max_leaves=4,
)


class Inventory:
    """Real rows; each round replaces them."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._pool: asyncpg.Pool[Any] = self._runner.run(open_pool(url))

    def close(self) -> None:
        self._runner.run(self._pool.close())
        self._runner.close()

    def found(self, text: str, records: list[DeviceRecord]) -> set[str]:
        return self._runner.run(self._found(text, records))

    async def _found(self, text: str, records: list[DeviceRecord]) -> set[str]:
        database = Database(self._pool)
        async with database.transaction() as connection:
            await connection.execute("DELETE FROM device_claim")
            await connection.execute("DELETE FROM device")
            for one in records:
                await connection.execute(
                    """
                    INSERT INTO device (id, region, cohort, member_since, created_at, held, vendor, hardware,
                                        agent_version, booted_slot, running_version, running_sequence, labels,
                                        operator_labels, last_seen, admitted_at, revoked_at)
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::text::jsonb, $14::text::jsonb, $15,
                            $16, $17)
                    """,
                    *(one.id, one.region, one.cohort, one.member_since, one.created_at, one.held, one.vendor),
                    *(one.hardware, one.agent_version, one.booted_slot, one.running_version, one.running_sequence),
                    *(as_json(one.labels), as_json(one.operator_labels)),
                    *(one.last_seen, one.admitted_at, one.revoked_at),
                )
                if one.is_claimed and one.admitted_at is None:
                    await connection.execute(
                        "INSERT INTO device_claim VALUES (sha256($1::text::bytea), $1, 'ann', $2, $2)", one.id, NOW
                    )
        repository, expression = DeviceRepository(database), ignoring(read_filter(text, DEVICES, NOW), LIVE)
        rows = await repository.find(expression, after="", limit=100)
        assert [row for row in rows if row not in records] == []
        return {row.id for row in rows}


def as_json(given: Any) -> str:
    return json.dumps(given)


@pytest.fixture
def inventory(database: str) -> Iterator[Inventory]:
    opened = Inventory(database)
    yield opened
    opened.close()


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=filters, made=st.lists(devices, min_size=1, max_size=6))
def test_the_database_finds_what_the_filter_lets_through(
    inventory: Inventory, text: str, made: list[DeviceRecord]
) -> None:
    records = [replace(one, id=DeviceId(f"gw-{number}")) for number, one in enumerate(made)]
    known = ignoring(read_filter(text, DEVICES, NOW), LIVE)

    expected = {one.id for one in records if holds(known, look_at(one, is_online=False))}

    assert inventory.found(text, records) == expected


@settings(max_examples=300)
@given(text=filters, one=devices, is_online=st.booleans())
def test_what_is_left_of_a_filter_without_presence_lets_more_through(
    text: str, one: DeviceRecord, is_online: bool
) -> None:
    expression = read_filter(text, DEVICES, NOW)
    look = look_at(one, is_online=is_online)

    assert holds(ignoring(expression, LIVE), look) >= holds(expression, look)
    assert holds(ignoring(expression, LIVE, wider=False), look) <= holds(expression, look)
