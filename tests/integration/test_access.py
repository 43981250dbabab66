"""Who may approve whose campaign, by role and name; docs/howto/access.md, command by command."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from firmware_store.errors import ForbiddenError
from server.api.context import Context
from server.api.scoped import OPEN, PLAIN, narrow
from server.config import Settings
from server.domain.identity import Region
from server.domain.scope import EVERYTHING, Scope
from server.issuer import open_issuer
from server.services.tokens import RIGHTS, Right, Role
from tests.integration.test_rest import assert_problem
from tests.integration.test_rest_campaigns import bundle, create, order
from tests.servers import ROOT, Api, ServerProcess, unique
from tests.terminal import Terminal, read_blocks

__all__ = ["bundle"]

As = Callable[[str, Role], Awaitable[Api]]


@pytest.fixture
async def as_(server: ServerProcess, admin: Api) -> AsyncIterator[As]:
    """Give the API to somebody of that name, in that role."""
    async with AsyncExitStack() as stack:

        async def give(name: str, role: Role) -> Api:
            made = await admin.post("/v1/tokens", {"name": name, "role": role.value})
            api = Api(server.url, made.body["token"])
            stack.push_async_callback(api.close)
            return api

        yield give


# --- approvals ---


@pytest.mark.parametrize("role", sorted(Role))
async def test_approvals_are_given_by_those_whose_role_it_is(admin: Api, bundle: str, as_: As, role: Role) -> None:
    campaign = await create(admin, bundle, policy={"approvals": 1})
    await order(admin, campaign, "submit")

    answer = await order(await as_(unique("ann"), role), campaign, "approve")

    assert answer.status == (200 if Right.APPROVE in RIGHTS[role] else 403)


@pytest.mark.parametrize("role", [Role.APPROVER, Role.ADMIN])
async def test_nobody_approves_their_own_campaign_whatever_other_token_they_have(
    bundle: str, as_: As, role: Role
) -> None:
    ann = unique("ann")
    campaign = await create(await as_(ann, Role.OPERATOR), bundle, policy={"approvals": 1})
    await order(await as_(ann, Role.OPERATOR), campaign, "submit")

    assert_problem(await order(await as_(ann, role), campaign, "approve"), 403, "forbidden")

    bob = await as_(unique("bob"), Role.APPROVER)
    assert (await order(bob, campaign, "approve")).body["approvals_missing"] == 0
    assert_problem(await order(bob, campaign, "start"), 403, "forbidden")


async def test_one_person_with_two_tokens_approves_once(admin: Api, bundle: str, as_: As) -> None:
    bob = unique("bob")
    campaign = await create(admin, bundle, policy={"approvals": 2})
    await order(admin, campaign, "submit")
    await order(await as_(bob, Role.APPROVER), campaign, "approve")

    assert_problem(await order(await as_(bob, Role.ADMIN), campaign, "approve"), 409, "conflict")
    assert (await admin.get(f"/v1/campaigns/{campaign}")).body["approvals_missing"] == 1


# --- the view of a caller with limits ---


class Nobody:
    """Stands for a part: it has every method, and none takes a scope."""

    async def anything(self, name: str) -> str:
        return name

    async def limited(self, name: str, *, scope: Scope = EVERYTHING) -> tuple[str, Scope]:
        return name, scope


def test_what_is_open_to_everybody_is_there() -> None:
    parts = get_type_hints(Context)

    for name, methods in OPEN.items():
        for method in methods:
            assert hasattr(parts[name], method) or method in vars(parts[name]).get("__annotations__", {}), (
                name,
                method,
            )


async def test_what_nobody_has_thought_of_is_closed_to_callers_with_limits() -> None:
    whole: Any = Context(**{field.name: Nobody() for field in fields(Context)})  # type: ignore[arg-type]
    scope = Scope(regions=frozenset({Region("eu")}))
    narrowed: Any = narrow(whole, scope)

    assert narrow(whole, EVERYTHING) is whole
    for name in {field.name for field in fields(Context)} - PLAIN:
        with pytest.raises(ForbiddenError, match="limited to the regions eu"):
            getattr(narrowed, name).anything  # noqa: B018 - to reach it is to be refused
        assert await getattr(narrowed, name).limited("x") == ("x", scope)


# --- docs/howto/access.md ---


@pytest.fixture
def blocks() -> list[str]:
    return read_blocks(ROOT / "docs/howto/access.md")


async def test_tokens_are_made_listed_and_ended_as_the_document_says(
    server: ServerProcess, blocks: list[str], tmp_path: Path
) -> None:
    make, end, _ = blocks
    with Terminal(tmp_path, {"TIDEGATE_URL": server.url, "TIDEGATE_TOKEN": server.token}) as terminal:
        said = terminal.run(make.replace("token ls", "token ls -o json"))
        made, listed = said.split("\n[", 1)
        ann, desk, lab, *_ = made.splitlines()
        ended = terminal.run(f"{end.replace('5f0c1a2b', ann.split('_')[1]).rstrip()} -o json")

    tokens = {entry["id"]: entry for entry in json.loads(f"[{listed}")}
    assert [tokens[text.split("_")[1]]["name"] for text in (ann, desk, lab)] == ["ann", "eu-desk", "lab"]
    assert tokens[desk.split("_")[1]]["regions"] == ["eu-north", "eu-south"]
    assert tokens[lab.split("_")[1]]["cohorts"] == ["lab"]
    assert "first-admin" in made
    assert [entry["is_good"] for entry in json.loads(ended)] == [False]
    api = Api(server.url, ann)
    try:
        assert (await api.get("/v1/me")).status == 401
    finally:
        await api.close()


def test_the_settings_of_an_issuer_in_the_document_are_good(
    blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(line.split("#")[0].strip().split("=", 1) for line in blocks[-1].splitlines())
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    assert {name.removeprefix("TIDEGATE_").lower() for name in settings} <= Settings.model_fields.keys()
    assert open_issuer(Settings(data_dir=tmp_path)) is not None
