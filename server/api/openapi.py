"""The OpenAPI 3.1 document, built from the route table and the models: what it says is what is checked."""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from inspect import cleandoc
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import CoreModeRef, DefsRef, GenerateJsonSchema, JsonSchemaMode, models_json_schema

from server.api import request_key
from server.api.answer_examples import example_of
from server.api.conditions import FORM
from server.api.parameters import PATH
from server.api.problems import MEDIA_TYPE, Problem, kinds, type_of
from server.api.routing import Media, Route

_REF: Final = "#/components/schemas/{model}"
_EXAMPLE: Final = "#/components/examples/{model}"
_IN_PATH: Final = re.compile(r"\{([a-z0-9_]+)\}")
_JSON: Final = "application/json"

_SECURITY: Final = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token: tg_<id>_<secret>."},
    "ticket": {"type": "http", "scheme": "bearer", "description": "What a directive brings to a device: tk_..."},
    "claim": {"type": "http", "scheme": "bearer", "description": "A device's claim, good for once: tgc_<secret>."},
}

_Json = dict[str, Any]
_STATE: Final = re.compile(r"\.([a-z]+)\.State:")


class _Schemas(GenerateJsonSchema):
    """There is a ``State`` of campaigns and one of executions: each is named after its module."""

    def get_defs_ref(self, core_mode_ref: CoreModeRef) -> DefsRef:
        core_ref, mode = core_mode_ref
        named = _STATE.sub(lambda match: f".{match[1]}.{match[1].capitalize()}State:", core_ref)
        return super().get_defs_ref((type(core_ref)(named), mode))


def build_document(routes: Iterable[Route]) -> _Json:
    """Return the document of these routes, the same one for the same routes."""
    entries = sorted(routes, key=lambda entry: (entry.path, entry.method))
    schemas, names = _schemas(entries)
    queries = {model: schemas.pop(name) for (model, mode), name in names.items() if _is_query(entries, model, mode)}
    paths: dict[str, _Json] = {}
    for entry in entries:
        operations = paths.setdefault(entry.path, {})
        operations[entry.method.lower()] = _operation(entry, names, queries, head=False)
        if entry.fetched:
            operations["head"] = _operation(entry, names, queries, head=True)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate",
            "version": version("tidegate"),
            "summary": "Over-the-air updates for device fleets.",
            "description": "Times are RFC 3339 in UTC, errors problem+json (RFC 9457); a parameter or a member that "
            "is not known is refused.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name} for name in sorted({tag_of(entry) for entry in entries})],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "examples": _answer_examples(names),
            "responses": _problem_responses(),
            "securitySchemes": _SECURITY,
        },
    }


def tag_of(entry: Route) -> str:
    """Return what a route is about: the first part of its path."""
    parts = entry.path.split("/")
    return parts[2] if parts[1] == "v1" and len(parts) > 2 and "." not in parts[2] else "system"


def problems_of(entry: Route) -> frozenset[int]:
    """Return the statuses that a route may refuse with: what follows from what it takes, and what it says itself."""
    found = {422, 500, 503} | entry.problems  # 422: a parameter that it does not know
    if entry.right is not None:
        found |= {401, 403, 429}
    if entry.claimed:
        found |= {401}
    if "{" in entry.path:
        found |= {404}
    if entry.body is not None or entry.takes is not None:
        found |= {400, 408, 413, 415}
    if entry.limited:
        found |= {429}
    if entry.matched:
        found |= {412, 428}
    if entry.is_keyed:
        found |= {409}
    return frozenset(found - entry.answers.keys())


def _is_query(entries: Sequence[Route], model: type[BaseModel], mode: JsonSchemaMode) -> bool:
    return mode == "validation" and any(entry.query is model for entry in entries)


def _schemas(entries: Sequence[Route]) -> tuple[_Json, dict[tuple[type[BaseModel], JsonSchemaMode], str]]:
    """Return all schemas by their names, and the name of each model as it is read, and as it is written."""
    wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
    for entry in entries:
        wanted |= {(model, "validation"): None for model in (entry.body, entry.query) if model is not None}
        for answer in entry.answers.values():
            if isinstance(answer, type):
                wanted[(answer, "serialization")] = None
    refs, document = models_json_schema(list(wanted), ref_template=_REF, schema_generator=_Schemas)
    names = {
        (model, mode): str(refs[(model, mode)]["$ref"]).rsplit("/", 1)[1]
        for model, mode in wanted
        if issubclass(model, BaseModel)
    }
    return dict(sorted(document.get("$defs", {}).items())), names


def _operation(
    entry: Route,
    names: dict[tuple[type[BaseModel], JsonSchemaMode], str],
    queries: dict[type[BaseModel], _Json],
    *,
    head: bool,
) -> _Json:
    summary, _, rest = cleandoc(entry.handler.__doc__ or "").partition("\n")
    found: _Json = {
        "operationId": f"head_{entry.name.removeprefix('get_')}" if head else entry.name,
        "tags": [tag_of(entry)],
        "summary": summary.rstrip("."),
    }
    if rest.strip():
        found["description"] = rest.strip()
    found["security"] = _security(entry)
    parameters = [_path_parameter(name) for name in _IN_PATH.findall(entry.path)]
    if entry.query is not None:
        parameters += _query_parameters(entry, queries[entry.query])
    if entry.matched:
        parameters.append(_IF_MATCH)
    if entry.is_keyed:
        parameters.append(_KEY)
    if parameters:
        found["parameters"] = parameters
    if entry.body is not None:
        content: _Json = {"schema": {"$ref": _REF.format(model=names[(entry.body, "validation")])}}
        is_required = any(field.is_required() for field in entry.body.model_fields.values())
        if entry.example.body is not None or not is_required:
            content["example"] = entry.example.body or {}
        found["requestBody"] = {"required": is_required, "content": {_JSON: content}}
    if entry.takes is not None:
        found["requestBody"] = {"required": True, "content": _stream(entry.takes)}
    found["responses"] = _responses(entry, names, head=head)
    return found


def _security(entry: Route) -> list[_Json]:
    if entry.claimed:
        return [{"claim": []}]
    if entry.right is None:
        return []
    return [{"token": []}, {"ticket": []}] if entry.fetched else [{"token": []}]


_KEY: Final = {
    "name": request_key.HEADER,
    "in": "header",
    "required": False,
    "description": "A name for this request, new for each: sent again under it within a day, it is done once.",
    "schema": {"type": "string", "pattern": request_key.FORM},
}

_IF_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The ETag of what you have seen of it; * if that does not matter.",
    "schema": {"type": "string", "pattern": FORM},
    "example": "*",
}


def _path_parameter(name: str) -> _Json:
    known = PATH[name]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": known.said,
        "schema": {"type": "string", "pattern": known.pattern},
        "example": known.example,
    }


def _query_parameters(entry: Route, schema: _Json) -> list[_Json]:
    found = []
    for name, told in schema["properties"].items():
        one: _Json = {"name": name, "in": "query", "required": name in schema.get("required", [])}
        if "description" in told:
            one["description"] = told["description"]
        one["schema"] = _without_null({key: value for key, value in told.items() if key not in _TOLD_ELSEWHERE})
        if name in entry.example.query:
            one["example"] = entry.example.query[name]
        found.append(one)
    return found


_TOLD_ELSEWHERE: Final = frozenset({"title", "description"})


def _without_null(schema: _Json) -> _Json:
    """Return the schema of a parameter that may be left out: null is what it then is, and is never sent."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**{key: value for key, value in schema.items() if key not in {"anyOf", "default"}}, **kinds[0]}


def _responses(entry: Route, names: dict[tuple[type[BaseModel], JsonSchemaMode], str], *, head: bool) -> _Json:
    found: _Json = {}
    for status, answer in entry.answers.items():
        one: _Json = {"description": _SAID.get(status, "")}
        if isinstance(answer, Media):
            one["description"] = answer.said
            content = _stream(answer)
        elif answer is not None:
            name = names[(answer, "serialization")]
            shown = {"answer": {"$ref": _EXAMPLE.format(model=name)}}
            content = {_JSON: {"schema": {"$ref": _REF.format(model=name)}, "examples": shown}}
        if answer is not None and not head:
            one["content"] = content
        found[str(status)] = one
    found |= {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in problems_of(entry)}
    return dict(sorted(found.items()))


def _answer_examples(names: Mapping[tuple[type[BaseModel], JsonSchemaMode], str]) -> _Json:
    """Return what each answer looks like, by the name of its schema."""
    answers = {name: model for (model, mode), name in names.items() if mode == "serialization" and model is not Problem}
    return {name: {"value": example_of(model)} for name, model in sorted(answers.items())}


def _stream(media: Media) -> _Json:
    shown = {} if media.shown is None else {"example": media.shown}
    return {media.kind: {"schema": {**media.schema, "description": media.said}, **shown}}


def _problem_responses() -> _Json:
    found = {}
    for status, names in sorted(kinds().items()):
        content: _Json = {"schema": {"$ref": _REF.format(model="Problem")}}
        content["examples"] = {
            name: {
                "value": {
                    "type": type_of(name),
                    "title": name.replace("-", " "),
                    "status": status,
                    "detail": "What is wrong, in one sentence that says what to do.",
                    "request_id": "8d1f0a3c5b7e9246",
                }
            }
            for name in names
        }
        found[f"Problem{status}"] = {"description": " or ".join(names), "content": {MEDIA_TYPE: content}}
    return found


_SAID: Final = {
    200: "It is so.",
    201: "It was made.",
    202: "It was begun.",
    302: "It is there; the address is good for a minute.",
    304: "Whoever asks has it already.",
    503: "It is not well.",
}
