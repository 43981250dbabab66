"""API tokens on a real PostgreSQL: shown once, kept as a hash, and good for as long as they say."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from firmware_store.errors import AuthenticationError, InvalidInputError
from server.db.database import Database
from server.db.tokens import TokenRepository
from server.services.tokens import Caller, Role, Tokens


@pytest.fixture
def tokens(store: Database) -> Tokens:
    return Tokens(TokenRepository(store))


async def test_a_token_says_who_its_holder_is(tokens: Tokens) -> None:
    text = await tokens.create(name="ann", role=Role.OPERATOR)

    assert await tokens.authenticate(text) == Caller("ann", Role.OPERATOR)


async def test_a_database_has_one_first_token_however_many_servers_start_on_it(tokens: Tokens) -> None:
    given = await asyncio.gather(*(tokens.create_first() for _ in range(5)))

    assert len([text for text in given if text is not None]) == 1
    assert await tokens.create_first() is None


async def test_there_is_no_first_token_where_there_is_one_already(tokens: Tokens) -> None:
    await tokens.create(name="ann", role=Role.VIEWER)

    assert await tokens.create_first() is None


async def test_a_token_that_has_expired_opens_nothing(tokens: Tokens) -> None:
    text = await tokens.create(name="ann", role=Role.ADMIN, valid=timedelta(seconds=-1))

    with pytest.raises(AuthenticationError, match="no longer valid"):
        await tokens.authenticate(text)


async def test_a_token_that_was_revoked_opens_nothing(tokens: Tokens, store: Database) -> None:
    text = await tokens.create(name="ann", role=Role.ADMIN)
    async with store.transaction() as connection:
        await connection.execute("UPDATE token SET revoked_at = $1", datetime.now(UTC))

    with pytest.raises(AuthenticationError, match="no longer valid"):
        await tokens.authenticate(text)


async def test_a_copy_of_the_database_is_no_token(tokens: Tokens, store: Database) -> None:
    text = await tokens.create(name="ann", role=Role.ADMIN)
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
