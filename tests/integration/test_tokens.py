"""API tokens on a real PostgreSQL: shown once, kept as a hash, and good for as long as they say."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from firmware_store.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from server.db.database import Database
from server.db.tokens import TokenRecord, TokenRepository
from server.domain.identity import Cohort, Region
from server.domain.scope import EVERYTHING, Scope
from server.services.tokens import Caller, Role, Tokens

EU = Scope(regions=frozenset({Region("eu")}))
EU_AND_US = Scope(regions=frozenset({Region("eu"), Region("us")}))
LAB = Scope(cohorts=frozenset({Cohort("lab")}))
ANN = Caller("ann", Role.ADMIN)


@pytest.fixture
def tokens(store: Database) -> Tokens:
    return Tokens(TokenRepository(store))


async def test_a_token_says_who_its_holder_is(tokens: Tokens) -> None:
    text, record = await tokens.create(name="ann", role=Role.OPERATOR)

    assert await tokens.authenticate(text) == Caller("ann", Role.OPERATOR, token=record.id)


async def test_a_database_has_one_first_token_however_many_servers_start_on_it(tokens: Tokens) -> None:
    given = await asyncio.gather(*(tokens.create_first() for _ in range(5)))

    assert len([text for text in given if text is not None]) == 1
    assert await tokens.create_first() is None


async def test_there_is_no_first_token_where_there_is_one_already(tokens: Tokens) -> None:
    await tokens.create(name="ann", role=Role.VIEWER)

    assert await tokens.create_first() is None


async def test_a_token_that_has_expired_opens_nothing(tokens: Tokens) -> None:
    text, _ = await tokens.create(name="ann", role=Role.ADMIN, valid=timedelta(seconds=-1))

    with pytest.raises(AuthenticationError, match="no longer valid"):
        await tokens.authenticate(text)


async def test_a_token_that_was_revoked_opens_nothing(tokens: Tokens, store: Database) -> None:
    text, _ = await tokens.create(name="ann", role=Role.ADMIN)
    async with store.transaction() as connection:
        await connection.execute("UPDATE token SET revoked_at = $1", datetime.now(UTC))

    with pytest.raises(AuthenticationError, match="no longer valid"):
        await tokens.authenticate(text)


async def test_a_copy_of_the_database_is_no_token(tokens: Tokens, store: Database) -> None:
    text, _ = await tokens.create(name="ann", role=Role.ADMIN)
    record = await TokenRepository(store).get(text.split("_", 2)[1])
    assert record is not None

    assert text.split("_", 2)[2].encode() not in record.secret
    for secret in (record.secret.hex(), record.secret.decode("latin-1")):
        with pytest.raises(AuthenticationError):
            await tokens.authenticate(f"tg_{record.id}_{secret}")


@pytest.mark.parametrize("name", ["", "a" * 65, "ann\n", "a\0b"])
async def test_a_name_that_a_log_could_not_show_is_refused(tokens: Tokens, name: str) -> None:
    with pytest.raises(InvalidInputError):
        await tokens.create(name=name, role=Role.VIEWER)


# --- a token gives nobody more than its maker has ---


async def test_a_token_says_where_its_holder_may_look(tokens: Tokens) -> None:
    text, _ = await tokens.create(name="ann", role=Role.OPERATOR, limits=EU)

    assert (await tokens.authenticate(text)).scope == EU


async def test_a_token_has_the_limits_of_its_maker_where_it_has_none_of_its_own(tokens: Tokens) -> None:
    _, record = await tokens.create(name="bob", role=Role.VIEWER, limits=LAB, by=ANN, scope=EU)

    assert record.scope == Scope(EU.regions, LAB.cohorts)
    assert record.created_by == "ann"


@pytest.mark.parametrize(("limits", "scope"), [(EU_AND_US, EU), (LAB, Scope(cohorts=frozenset({Cohort("main")})))])
async def test_nobody_makes_a_token_for_more_of_the_fleet_than_they_see(
    tokens: Tokens, limits: Scope, scope: Scope
) -> None:
    with pytest.raises(ForbiddenError, match="limited to"):
        await tokens.create(name="bob", role=Role.VIEWER, limits=limits, by=ANN, scope=scope)

    assert await tokens.newest(10) == []


@pytest.mark.parametrize("maker", sorted(set(Role) - {Role.ADMIN}))
async def test_nobody_makes_a_token_with_rights_that_they_lack(tokens: Tokens, maker: Role) -> None:
    with pytest.raises(ForbiddenError, match="more rights"):
        await tokens.create(name="bob", role=Role.ADMIN, by=Caller("ann", maker))


async def test_a_token_ends_with_that_of_its_maker(tokens: Tokens) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    maker = Caller("ann", Role.ADMIN, expires_at=soon)

    _, record = await tokens.create(name="bob", role=Role.VIEWER, by=maker)

    assert record.expires_at == soon
    with pytest.raises(ForbiddenError, match="ends at"):
        await tokens.create(name="bob", role=Role.VIEWER, valid=timedelta(hours=2), by=maker)


# --- looking at them, and ending them ---


async def test_tokens_are_seen_by_whoever_sees_what_they_open(tokens: Tokens) -> None:
    for name, limits in (("all", EVERYTHING), ("eu", EU), ("both", EU_AND_US), ("lab", LAB)):
        await tokens.create(name=name, role=Role.ADMIN, limits=limits)

    async def names(scope: Scope) -> list[str]:
        return sorted(record.name for record in await tokens.newest(10, scope=scope))

    assert await names(EVERYTHING) == ["all", "both", "eu", "lab"]
    assert await names(EU) == ["eu"]
    assert await names(EU_AND_US) == ["both", "eu"]
    assert await names(LAB) == ["lab"]
    assert await names(Scope(EU.regions, LAB.cohorts)) == []


async def test_a_token_that_somebody_has_ended_opens_nothing_and_says_who(tokens: Tokens) -> None:
    await tokens.create(name="ann", role=Role.ADMIN)
    text, record = await tokens.create(name="bob", role=Role.VIEWER)

    ended = await tokens.revoke(record.id, caller="ann")
    again = await tokens.revoke(record.id, caller="carl")

    assert (ended.revoked_by, again) == ("ann", ended)
    with pytest.raises(AuthenticationError, match="no longer valid"):
        await tokens.authenticate(text)


async def test_nobody_ends_a_token_that_they_do_not_see(tokens: Tokens) -> None:
    text, record = await tokens.create(name="ann", role=Role.ADMIN)

    for named in (record.id, "ffffffff"):
        with pytest.raises(NotFoundError):
            await tokens.revoke(named, caller="bob", scope=EU)
    assert (await tokens.authenticate(text)).name == "ann"


async def test_the_last_administrator_does_not_lock_everybody_out(tokens: Tokens) -> None:
    made = [(await tokens.create(name=name, role=Role.ADMIN))[1] for name in ("ann", "bob")]
    await tokens.create(name="limited", role=Role.ADMIN, limits=EU)
    await tokens.create(name="gone", role=Role.ADMIN, valid=timedelta(seconds=-1))

    ended = await asyncio.gather(*(tokens.revoke(one.id, caller="x") for one in made), return_exceptions=True)

    assert {type(one) for one in ended} == {ConflictError, TokenRecord}


async def test_the_last_use_is_noted_once_a_minute(tokens: Tokens, store: Database) -> None:
    text, record = await tokens.create(name="ann", role=Role.ADMIN)
    repository = TokenRepository(store)

    async def last_use() -> datetime | None:
        return (await repository.get(record.id) or record).last_used_at

    assert await last_use() is None
    await tokens.authenticate(text)
    first = await last_use()
    await tokens.authenticate(text)
    assert first is not None
    assert await last_use() == first
    await repository.note_use(record.id, first + timedelta(seconds=61))
    assert await last_use() == first + timedelta(seconds=61)
