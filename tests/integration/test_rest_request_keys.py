"""A request that is sent again under its Idempotency-Key is done once, whatever became of its first answer."""

import asyncio
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest

from firmware_store.errors import ConflictError
from server.db import request_keys
from server.db.database import Database
from server.db.request_keys import SERVED, KeptAnswer, NamedRequest, RequestKeyRepository, take
from server.services.request_keys import UNKNOWN, RequestKeys
from server.services.tokens import Role
from tests.integration.test_rest import assert_problem, make_token
from tests.integration.test_rest_campaigns import bundle, draft
from tests.servers import Answer, Api, ServerProcess, unique

__all__ = ["bundle"]

REPLAYED = "Idempotency-Replayed"


async def named(api: Api, key: str, path: str, body: Any) -> Answer:
    return await api.post(path, body, headers={"Idempotency-Key": key})


async def campaigns_named(admin: Api, name: str) -> list[str]:
    rows = (await admin.get("/v1/campaigns", params={"filter": f'name = "{name}"'})).body["campaigns"]
    return [row["id"] for row in rows]


async def test_a_repeated_post_creates_one_campaign_and_answers_the_same(admin: Api, bundle: str) -> None:
    key, name = unique("key"), unique("spring")
    body = draft(bundle, name=name)

    first = await named(admin, key, "/v1/campaigns", body)
    second = await named(admin, key, "/v1/campaigns", body)

    assert (first.status, second.status) == (201, 201)
    assert first.body == second.body
    assert first.headers["ETag"] == second.headers["ETag"]
    assert (REPLAYED in first.headers, second.headers[REPLAYED]) == (False, "true")
    assert await campaigns_named(admin, name) == [first.body["id"]]


async def test_twins_that_come_together_create_one_campaign(admin: Api, bundle: str) -> None:
    key, name = unique("key"), unique("spring")
    body = draft(bundle, name=name)

    answers = await asyncio.gather(*(named(admin, key, "/v1/campaigns", body) for _ in range(8)))

    assert [answer.status for answer in answers] == [201] * 8
    assert len({answer.body["id"] for answer in answers}) == 1
    assert sum(REPLAYED not in answer.headers for answer in answers) == 1
    assert len(await campaigns_named(admin, name)) == 1


async def test_a_key_is_one_requests_name(admin: Api, bundle: str) -> None:
    key = unique("key")
    await named(admin, key, "/v1/campaigns", draft(bundle))

    assert_problem(await named(admin, key, "/v1/campaigns", draft(bundle, name="autumn")), 409, "key-reused")
    assert_problem(await named(admin, key, "/v1/devices/gw-1/hold", {"reason": "x"}), 409, "key-reused")
    assert_problem(await named(admin, "a key", "/v1/campaigns", draft(bundle)), 422, "invalid-input")


async def test_a_key_is_its_callers(admin: Api, server: ServerProcess) -> None:
    key, device = unique("key"), unique("gw")
    await admin.add_device(device, "eu")
    other = Api(server.url, await make_token(admin, Role.OPERATOR))
    try:
        await named(admin, key, f"/v1/devices/{device}/hold", {"reason": "mine"})
        answer = await named(other, key, f"/v1/devices/{device}/hold", {"reason": "theirs"})
    finally:
        await other.close()

    assert (answer.status, answer.body["held_reason"]) == (200, "theirs")


async def test_what_was_refused_is_looked_at_anew(admin: Api) -> None:
    key, device = unique("key"), unique("gw")
    path = f"/v1/devices/{device}/hold"
    assert_problem(await named(admin, key, path, {"reason": "x"}), 404, "not-found")
    await admin.add_device(device, "eu")

    assert (await named(admin, key, path, {"reason": "x"})).status == 200


async def test_a_secret_is_neither_made_nor_shown_twice(admin: Api) -> None:
    key, name = unique("key"), unique("somebody")
    body = {"name": name, "role": "viewer"}
    assert (await named(admin, key, "/v1/tokens", body)).status == 201

    again = await named(admin, key, "/v1/tokens", body)

    assert_problem(again, 409, "conflict")
    assert "shown once" in again.body["detail"]
    tokens = (await admin.get("/v1/tokens", params={"limit": 1000})).body["tokens"]
    assert [token["name"] for token in tokens].count(name) == 1


# --- what is stored, and when ---


def request(key: str = "key", *, asked: str = "all", at: datetime | None = None) -> NamedRequest:
    return NamedRequest("ann", key, sha256(asked.encode()).digest(), at or datetime.now(UTC))


CHANGE = "CREATE TABLE changed (id integer PRIMARY KEY)"


async def change(store: Database, number: int) -> None:
    async with store.transaction() as connection:
        await connection.execute("INSERT INTO changed VALUES ($1)", number)
        await take(connection)


async def crash(store: Database) -> None:
    async with store.transaction() as connection:
        await take(connection)
        raise RuntimeError("crash before the commit")


async def test_the_key_is_there_if_and_only_if_the_change_is(store: Database) -> None:
    repository = RequestKeyRepository(store)
    async with store.transaction() as connection:
        await connection.execute(CHANGE)
    mark = SERVED.set(request())
    try:
        with pytest.raises(RuntimeError, match="crash"):
            await crash(store)
        assert await repository.find(request()) is None

        SERVED.set(request())
        await change(store, 1)
        SERVED.set(request())
        with pytest.raises(ConflictError):
            await change(store, 2)
    finally:
        SERVED.reset(mark)

    found = await repository.find(request())
    assert found is not None
    assert found[1].status is None
    async with store.transaction() as connection:
        assert [row["id"] for row in await connection.fetch("SELECT id FROM changed")] == [1]


async def test_a_server_that_fell_between_the_change_and_its_answer_does_not_do_it_again(store: Database) -> None:
    keys = RequestKeys(RequestKeyRepository(store))
    served: list[int] = []

    async def fall() -> KeptAnswer:
        served.append(1)
        async with store.transaction() as connection:
            await take(connection)
        raise ConnectionError("killed")

    with pytest.raises(ConnectionError):
        await keys.once(request(), fall, is_secret=False)
    with pytest.raises(ConflictError, match=UNKNOWN):
        await keys.once(request(), fall, is_secret=False)

    assert served == [1]


async def test_a_key_is_forgotten_after_a_day(store: Database) -> None:
    repository, keys = RequestKeyRepository(store), RequestKeys(RequestKeyRepository(store))
    long_ago = datetime.now(UTC) - request_keys.KEPT - timedelta(seconds=1)

    async def serve() -> KeptAnswer:
        return KeptAnswer(200, "{}", None)

    for key in ("key", "other"):
        await repository.keep(request(key, at=long_ago), KeptAnswer(200, "old", None))

    assert await keys.once(request(asked="more"), serve, is_secret=False) == (KeptAnswer(200, "{}", None), False)
    async with store.transaction() as connection:
        assert await connection.fetchval("SELECT array_agg(key) FROM request_key") == ["key"]


async def test_what_a_request_has_begun_and_that_goes_on_after_it_is_not_stopped_by_its_key(store: Database) -> None:
    keys = RequestKeys(RequestKeyRepository(store))
    answered = asyncio.Event()

    async def work() -> None:
        await answered.wait()
        async with store.transaction() as connection:
            await take(connection)

    begun: list[asyncio.Task[None]] = []

    async def serve() -> KeptAnswer:
        begun.append(asyncio.create_task(work()))
        return KeptAnswer(200, "{}", None)

    await keys.once(request(), serve, is_secret=False)
    answered.set()
    await asyncio.gather(*begun)

    assert await keys.once(request(), serve, is_secret=False) == (KeptAnswer(200, "{}", None), True)
