"""The REST API of a real server, over real HTTP: who may do what, and what is said to whoever may not or errs."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

import server.api.application  # noqa: F401  (importing it fills ROUTES)
from server.api.intake import JSON_MOST_BYTES
from server.api.parameters import PATH
from server.api.routing import ROUTES, Route
from server.services.tokens import RIGHTS, Right, Role
from tests.servers import Answer, Api, ServerProcess, unique

PROBLEM = "application/problem+json"
HEX = "0" * 32

OPEN_WRITES = {"POST /v1/enrol", "POST /v1/enrol/nonce", "POST /v1/enrol/renew"}
"""Routes that devices come to without a token, each with a proof of its own; anything else here is a hole."""


def path_of(route: Route) -> str:
    return route.path.format_map({name: parameter.example for name, parameter in PATH.items()})


def query_of(route: Route) -> list[tuple[str, str]]:
    """The query of its example: without one, some answers never end."""
    given = {name: value if isinstance(value, list) else [value] for name, value in route.example.query.items()}
    return [
        (name, str(one).lower() if isinstance(one, bool) else str(one))
        for name, found in given.items()
        for one in found
    ]


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def assert_problem(answer: Answer, status: int, kind: str) -> None:
    """The whole shape of RFC 9457, and a request id that the log has, too."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith(PROBLEM)
    assert answer.body["type"] == f"https://tidegate.dev/problems/{kind}"
    assert answer.body["status"] == status
    assert answer.body["title"]
    assert answer.body["detail"]
    assert answer.body["request_id"] == answer.headers["X-Request-Id"]


@pytest.fixture
async def nobody(server: ServerProcess) -> AsyncIterator[Api]:
    api = Api(server.url, None)
    yield api
    await api.close()


# --- who ---


def test_nothing_but_the_enrolment_of_devices_writes_without_a_token() -> None:
    assert {named(route) for route in ROUTES if route.right is None and route.method != "GET"} == OPEN_WRITES


def test_nothing_but_health_metrics_and_the_enrolment_of_devices_is_open_to_everybody() -> None:
    assert {named(route) for route in ROUTES if route.right is None} - OPEN_WRITES == {
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /v1/openapi.json",
        "GET /v1/enrol/ca",
        "GET /v1/enrol/crl",
    }


@pytest.mark.parametrize("route", [route for route in ROUTES if route.right is not None], ids=named)
async def test_without_a_token_nobody_gets_in(nobody: Api, route: Route) -> None:
    answer = await nobody.call(route.method, path_of(route))

    assert_problem(answer, 401, "not-authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer tg",
        "Bearer tg__",
        "Bearer tg_00000000_secret",
        "Bearer xx_00000000_secret",
        "Bearer tg_' OR 1=1 --_x",
        "Bearer tg_" + "a" * 4000 + "_b",
        "Bearer tg_\udcff\udcfe_x",
        "Bearer tg_00000000_\udcff",
        "Bearer tg_é_é",
    ],
    ids=ascii,
)
async def test_what_is_no_token_opens_nothing(server: ServerProcess, header: str) -> None:
    assert await raw_status(server, f"GET /v1/devices HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\r\n\r\n") == 401


async def raw_status(server: ServerProcess, request: str) -> int:
    """Send bytes that no polite client would, and return the status that comes back."""
    reader, writer = await asyncio.open_connection(urlsplit(server.url).hostname, urlsplit(server.url).port)
    try:
        writer.write(request.encode(errors="surrogateescape"))
        async with asyncio.timeout(10):
            line = await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()
    return int(line.split()[1])


async def test_the_right_id_with_another_secret_opens_nothing(server: ServerProcess) -> None:
    prefix, token_id, secret = server.token.split("_", 2)
    forged = f"{prefix}_{token_id}_{secret[:-1]}{'a' if secret[-1] != 'a' else 'b'}"
    api = Api(server.url, forged)
    try:
        assert_problem(await api.get("/v1/devices"), 401, "not-authenticated")
    finally:
        await api.close()


async def test_whoever_guesses_is_told_to_wait_and_others_are_not(server: ServerProcess, admin: Api) -> None:
    """From an address of its own on the loopback, or the tests after this one would have to wait."""
    async with aiohttp.ClientSession(
        server.url, connector=aiohttp.TCPConnector(local_addr=("127.0.0.77", 0))
    ) as guesser:

        async def guess(token: str) -> tuple[int, str | None]:
            async with guesser.get("/v1/me", headers={"Authorization": f"Bearer {token}"}) as response:
                return response.status, response.headers.get("Retry-After")

        assert await guess(server.token) == (200, None)
        answers = await asyncio.gather(*(guess(f"tg_{number:08x}_x") for number in range(300)))

        assert {status for status, _ in answers} == {401, 429}
        assert {again for status, again in answers if status == 429} == {"1"}
        assert await guess(server.token) == (200, None)
        assert (await admin.get("/v1/me")).status == 200


async def make_token(admin: Api, role: Role) -> str:
    answer = await admin.post("/v1/tokens", {"name": unique("somebody"), "role": role.value})
    assert answer.status == 201
    return str(answer.body["token"])


@pytest.mark.parametrize("role", sorted(Role))
async def test_a_role_may_do_what_it_is_for_and_nothing_else(server: ServerProcess, admin: Api, role: Role) -> None:
    api = Api(server.url, await make_token(admin, role))
    forbidden = set()
    try:
        for route in ROUTES:
            answer = await api.call(route.method, path_of(route), params=query_of(route))
            assert answer.status not in {401, 500}, (named(route), answer)
            if answer.status == 403:
                assert_problem(answer, 403, "forbidden")
                forbidden.add(named(route))
    finally:
        await api.close()

    assert forbidden == {named(route) for route in ROUTES if route.right not in {None, *RIGHTS[role]}}


def test_every_role_reads_and_only_an_administrator_does_everything() -> None:
    assert all(Right.READ in rights for rights in RIGHTS.values())
    assert [role for role, rights in RIGHTS.items() if rights == set(Right)] == [Role.ADMIN]


# --- what is wrong with a request ---


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b"{} {}", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
async def test_what_is_not_json_is_malformed(admin: Api, body: bytes) -> None:
    answer = await admin.call("POST", "/v1/devices", data=body, headers={"Content-Type": "application/json"})

    if body:
        assert_problem(answer, 400, "malformed")
    else:
        assert_problem(answer, 422, "invalid-input")


@pytest.mark.parametrize("body", [[], None, 5, "text", {"devices": {}}, {"devices": [{}]}, {"devices": [5]}], ids=str)
async def test_json_of_another_shape_says_what_is_wrong_where(admin: Api, body: object) -> None:
    answer = await admin.call("POST", "/v1/devices", json=body)

    assert_problem(answer, 422, "invalid-input")
    assert all({"pointer", "detail", "code"} <= entry.keys() for entry in answer.body["errors"])


async def test_an_unknown_member_is_not_taken_for_a_default(admin: Api) -> None:
    answer = await admin.post("/v1/tokens", {"name": "x", "role": "viewer", "valid_secs": 60})

    assert_problem(answer, 422, "invalid-input")
    assert answer.body["errors"][0]["pointer"] == "/valid_secs"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/device", "/v1/devices/", "/v2/devices", "/v1/devices/a/b/c", "/%00"])
async def test_what_is_not_there_is_not_found(admin: Api, path: str) -> None:
    assert_problem(await admin.get(path), 404, "not-found")


@pytest.mark.parametrize("path", ["/v1/devices/no-such-device", f"/v1/bundles/bun_{HEX}", f"/v1/campaigns/cmp_{HEX}"])
async def test_what_nobody_has_added_is_not_found(admin: Api, path: str) -> None:
    assert_problem(await admin.get(path), 404, "not-found")


@pytest.mark.parametrize(
    "path", ["/v1/devices/+", "/v1/devices/NO", "/v1/bundles/bun_1", f"/v1/bundles/cmp_{HEX}", "/v1/campaigns/x"]
)
async def test_what_can_be_no_id_is_invalid(admin: Api, path: str) -> None:
    assert_problem(await admin.get(path), 422, "invalid-input")


async def test_another_method_is_told_which_ones_there_are(admin: Api) -> None:
    answer = await admin.call("DELETE", "/v1/devices")

    assert_problem(answer, 405, "method-not-allowed")
    assert set(answer.headers["Allow"].split(",")) == {"GET", "POST"}


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_a_body_beyond_the_limit_is_too_large(admin: Api, chunked: bool) -> None:
    body = b" " * (JSON_MOST_BYTES + 1)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 65536):
            yield body[at : at + 65536]

    answer = await admin.call(
        "POST",
        "/v1/devices",
        data=pieces() if chunked else io.BytesIO(body),
        headers={"Content-Type": "application/json"},
    )

    assert_problem(answer, 413, "too-large")


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "application/cbor"])
async def test_a_body_of_another_kind_is_unsupported(admin: Api, media: str) -> None:
    answer = await admin.call("POST", "/v1/devices", data=b"{}", headers={"Content-Type": media})

    assert_problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "ten", "1.5", "", "²", "9" * 5000])
@pytest.mark.parametrize("path", ["/v1/devices", "/v1/bundles", "/v1/campaigns"])
async def test_a_limit_is_a_number_within_bounds(admin: Api, path: str, limit: str) -> None:
    assert_problem(await admin.get(path, params={"limit": limit}), 422, "invalid-input")


@pytest.mark.parametrize(
    "query", ["cursor=%00", "region=%00", "cohort=%2B", "region=EU", "cursor=%FF", "cursor=%ED%A0%80"]
)
async def test_a_query_that_no_database_can_answer_is_the_callers_mistake(admin: Api, query: str) -> None:
    answer = await admin.get(f"/v1/devices?{query}")

    assert answer.status in {200, 422}, answer


NUL_OR_WORSE = ["a\0b", "\ud800", "a" * 100_000]


@pytest.mark.parametrize("text", NUL_OR_WORSE, ids=["NUL", "half a surrogate pair", "endless"])
async def test_a_text_that_no_database_can_hold_is_the_callers_mistake(admin: Api, text: str) -> None:
    bodies: dict[str, Any] = {
        "/v1/devices": {"devices": [{"id": text, "region": "eu", "cohort": "main"}]},
        "/v1/tokens": {"name": text, "role": "viewer"},
        "/v1/campaigns": {"name": text, "bundle": f"bun_{HEX}", "cohort": "main", "regions": ["eu"], "reason": text},
    }
    for path, body in bodies.items():
        answer = await admin.call(
            "POST", path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )

        assert answer.status in {404, 422}, (path, answer)


async def test_a_bad_http_request_does_not_disturb_anybody(server: ServerProcess, admin: Api) -> None:
    for request in (
        "NONSENSE\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /v1/devices HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        assert await raw_status(server, request) == 400

    assert (await admin.get("/healthz")).status == 200


# --- how the server is ---


async def test_health_is_open_and_cheap(nobody: Api) -> None:
    answer = await nobody.get("/healthz")

    assert (answer.status, answer.body) == (200, {"ok": True})


async def test_a_server_that_works_is_ready_and_says_why(nobody: Api) -> None:
    async with asyncio.timeout(20):
        while (answer := await nobody.get("/readyz")).status != 200:
            await asyncio.sleep(0.1)

    assert answer.body["ready"] is True
    assert [(check["name"], check["ok"]) for check in answer.body["checks"]] == [
        ("database", True),
        ("broker", True),
        ("store", True),
        ("evaluator", True),
        ("trust", True),
    ]


async def test_metrics_are_what_prometheus_reads(nobody: Api) -> None:
    answer = await nobody.get("/metrics")

    families = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert {"tidegate_messages", "tidegate_reports", "tidegate_devices", "tidegate_decisions"} <= families


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"\xff", b'{"nonce": "x", "csr": "y"}'])
@pytest.mark.parametrize("route", sorted(OPEN_WRITES - {"POST /v1/enrol/nonce"}))
async def test_an_open_door_lets_nobody_in_without_a_proof(nobody: Api, route: str, body: bytes) -> None:
    method, path = route.split()

    answer = await nobody.call(method, path, data=body, headers={"Content-Type": "application/json"})

    assert answer.status in {400, 401, 403, 422}, answer
