"""The document and the pages that a real server hands out."""

import json
import re
from pathlib import Path

import pytest

from server.api.documentation import FILES
from tests.integration.test_rest import assert_problem
from tests.servers import ROOT, Api, ServerProcess, unique


@pytest.fixture
def committed() -> bytes:
    return Path(ROOT / "docs" / "openapi.json").read_bytes()


async def test_the_document_that_is_served_is_the_one_in_docs(server: ServerProcess, committed: bytes) -> None:
    nobody = Api(server.url, None)
    try:
        answer = await nobody.get("/v1/openapi.json")
    finally:
        await nobody.close()

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.body == json.loads(committed)


async def test_the_pages_come_from_this_server_alone(admin: Api) -> None:
    page = await admin.get("/docs")
    assert page.status == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())

    assert len(loaded) == 4
    for path in loaded:
        assert path.startswith("/docs/")
        answer = await admin.get(path)
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
    assert {path.removeprefix("/docs/") for path in loaded} == {*FILES, "start.js"}


@pytest.mark.parametrize("path", ["/docs/../v1", "/docs/swagger-ui.js.map", "/docs/..%2f__init__.py", "/docs/"])
async def test_nothing_else_of_that_package_is_served(admin: Api, path: str) -> None:
    assert_problem(await admin.get(path), 404, "not-found")


@pytest.mark.parametrize("path", ["/healthz", "/v1/devices", "/v1/campaigns", "/v1/openapi.json"])
async def test_an_unknown_parameter_is_refused_with_its_name(admin: Api, path: str) -> None:
    answer = await admin.get(path, params={"limt": "5"})

    assert_problem(answer, 422, "invalid-input")
    assert [entry["pointer"] for entry in answer.body["errors"]] == ["?limt"]


async def test_a_parameter_is_given_once(admin: Api) -> None:
    answer = await admin.get("/v1/devices?limit=5&limit=6")

    assert_problem(answer, 422, "invalid-input")
    assert answer.body["errors"][0]["pointer"] == "?limit"


@pytest.mark.parametrize("body", [b'{"for_seconds": NaN}', b'{"for_seconds": Infinity, "reason": "x"}'])
async def test_what_is_no_number_of_json_is_malformed(admin: Api, body: bytes) -> None:
    answer = await admin.call("POST", "/v1/devices/gw-17/hold", data=body, headers={"Content-Type": "application/json"})

    assert_problem(answer, 400, "malformed")


@pytest.mark.parametrize("seconds", ["60", True, 60.5])
async def test_a_value_of_another_type_is_not_turned_into_one(admin: Api, seconds: object) -> None:
    answer = await admin.post("/v1/devices/gw-17/hold", {"reason": "x", "for_seconds": seconds})

    assert_problem(answer, 422, "invalid-input")
    assert answer.body["errors"][0]["pointer"] == "/for_seconds"


async def test_an_integer_may_be_written_with_a_fraction_of_nothing(admin: Api) -> None:
    device = unique("gw")
    await admin.add_device(device, "eu")

    assert (await admin.post(f"/v1/devices/{device}/hold", {"reason": "x", "for_seconds": 60.0})).status == 200


async def test_a_fixed_path_is_not_taken_for_a_name(admin: Api) -> None:
    answer = await admin.get("/v1/blobs/missing")

    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == "POST"


async def test_the_longest_filter_fits_a_url(admin: Api) -> None:
    text = "labels.site = " + '"' + "\N{OGHAM SPACE MARK}" * 1984 + '"'

    assert (await admin.get("/v1/devices", params={"filter": text})).status == 200
