"""The OpenAPI document says of every route what callers need, and is one by its own specification."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from server.api.answer_examples import NAMED, OF, example_of
from server.api.application import document
from server.api.openapi import build_document, problems_of
from server.api.parameters import PATH
from server.api.problems import STATUS, kinds
from server.api.routing import ROUTES, Call, Empty, Route, route

DOCUMENT: dict[str, Any] = json.loads(document())
OPERATIONS = [
    (method, path, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]


def named(entry: Route) -> str:
    return entry.name


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_it_has_every_route_and_nothing_else() -> None:
    wanted = {(entry.method.lower(), entry.path) for entry in ROUTES} | {
        ("head", entry.path) for entry in ROUTES if entry.fetched
    }

    assert wanted == {(method, path) for method, path, _ in OPERATIONS}


def test_every_operation_has_a_name_of_its_own_and_a_summary() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]

    assert len(set(names)) == len(names)
    assert [operation["operationId"] for _, _, operation in OPERATIONS if not operation["summary"]] == []


def test_a_name_in_a_path_matches_what_is_said_of_it() -> None:
    for parameter in PATH.values():
        assert re.search(parameter.pattern, parameter.example)


@pytest.mark.parametrize("entry", ROUTES, ids=named)
def test_the_example_of_a_request_is_one(entry: Route) -> None:
    if entry.body is not None:
        entry.body.model_validate_json(json.dumps(entry.example.body or {}), strict=True)
    if entry.query is not None:
        entry.query.model_validate(entry.example.query)

    assert entry.body is not None or entry.example.body is None
    assert entry.query is not None or not entry.example.query


BYTES = {"application/octet-stream", "application/cbor"}
"""What no text shows."""


def answers_shown() -> Iterator[tuple[str, Any, Any]]:
    """Each answer that is no problem: whose it is, its schema, and what is shown of it."""
    for method, path, operation in OPERATIONS:
        for status, answer in operation["responses"].items():
            for kind, content in answer.get("content", {}).items():
                for example in content.get("examples", {}).values():
                    name = example["$ref"].rsplit("/", 1)[1]
                    yield f"{method} {path}", content["schema"], DOCUMENT["components"]["examples"][name]["value"]
                if "example" in content or ("examples" not in content and kind not in BYTES):
                    yield f"{method} {path} {status}", content["schema"], content.get("example")


@pytest.mark.parametrize(("schema", "shown"), [pytest.param(*rest, id=name) for name, *rest in answers_shown()])
def test_the_example_of_an_answer_is_one(schema: dict[str, Any], shown: Any) -> None:
    validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]})

    assert [error.message for error in validator.iter_errors(shown)] == []


def test_every_member_that_is_said_to_look_like_something_is_there() -> None:
    models: dict[str, set[str]] = {}
    for name, schema in DOCUMENT["components"]["schemas"].items():
        models[name] = set(schema.get("properties", {}))
    members = set().union(*models.values())

    assert NAMED.keys() - members == set()
    assert {key for key in OF if key.partition(".")[2] not in models[key.partition(".")[0]]} == set()


def test_a_member_of_which_nothing_is_known_is_named() -> None:
    class Unknown(BaseModel):
        wingspan: str

    with pytest.raises(LookupError, match=r"Unknown\.wingspan has no example"):
        example_of(Unknown)


def test_every_problem_that_a_route_may_answer_is_described() -> None:
    assert {status for entry in ROUTES for status in problems_of(entry)} <= kinds().keys()
    assert {status for status, _ in STATUS.values()} <= kinds().keys()


def test_a_right_brings_its_refusals_and_a_body_brings_its_own() -> None:
    entries = {entry.name: entry for entry in ROUTES}

    assert problems_of(entries["add_freeze"]) == {400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503}
    assert problems_of(entries["get_ca"]) == {422, 429, 500, 503}
    assert problems_of(entries["readiness"]) == {422, 500}


def test_a_route_that_does_not_say_what_it_gives_is_no_route() -> None:
    async def answer(call: Call[Empty]) -> object:
        """Answer anything."""
        return call

    with pytest.raises(TypeError, match="answer returns no model"):
        route("GET", "/v1/nothing", right=None)(answer)  # type: ignore[arg-type]
    assert "/v1/nothing" not in build_document(ROUTES)["paths"]
