"""Policies under a name: versions that stay, campaigns that keep theirs, and two who publish at once."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.cli import policy as cli
from server.cli.apply import apply
from tests.integration.test_rest import assert_problem
from tests.integration.test_rest_campaigns import bundle, create
from tests.servers import Api, ServerProcess, unique

__all__ = ["bundle"]

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> Run:
    """Gives what a command prints for programs."""

    def command(app: Callable[..., None], *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        capsys.readouterr()
        app(*arguments, token=server.token, server=server.url, **options)
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return found

    return command


async def add(admin: Api, **policy: Any) -> str:
    name = unique("policy")
    made = await admin.post("/v1/policies", {"name": name, "policy": policy, "reason": "the night shift"})
    assert (made.status, made.body["version"]) == (201, 1)
    return name


async def test_a_version_stays_as_it_was_published(admin: Api) -> None:
    name = await add(admin, approvals=1)
    path = f"/v1/policies/{name}"
    first = await admin.get(path)

    second = await admin.call(
        "PUT", path, json={"policy": {"approvals": 2}}, headers={"If-Match": first.headers["ETag"]}
    )

    assert (second.status, second.body["version"]) == (200, 2)
    newest, old = await admin.get(path), await admin.get(f"{path}?version=1")
    assert (newest.body["policy"]["approvals"], old.body["policy"]["approvals"]) == (2, 1)
    assert old.body == first.body
    assert_problem(await admin.get(f"{path}?version=3"), 404, "not-found")
    rows = (await admin.get("/v1/audit", params={"object": f"{name}@2"})).body["rows"]
    assert [(row["what"], row["before"]["approvals"], row["after"]["approvals"]) for row in rows] == [
        ("policy.publish", 1, 2)
    ]


async def test_of_two_who_publish_the_second_is_told_to_look_again(admin: Api) -> None:
    path = f"/v1/policies/{await add(admin)}"
    tag = (await admin.get(path)).headers["ETag"]

    answers = await asyncio.gather(
        *(
            admin.call("PUT", path, json={"policy": {"approvals": number}}, headers={"If-Match": tag})
            for number in (1, 2)
        )
    )

    statuses = sorted(answer.status for answer in answers)
    assert statuses[0] == 200
    assert statuses[1] in {409, 412}  # told by the number, or by the tag
    assert (await admin.get(path)).body["version"] == 2


async def test_a_name_is_given_once_and_what_is_not_there_is_not_published_anew(admin: Api) -> None:
    name = await add(admin)

    assert_problem(await admin.post("/v1/policies", {"name": name, "policy": {}}), 409, "conflict")
    assert_problem(await admin.call("PUT", f"/v1/policies/{unique('no')}", json={"policy": {}}), 404, "not-found")
    assert_problem(await admin.post("/v1/policies", {"name": name, "policy": {"approvals": -1}}), 422, "invalid-input")


async def test_a_campaign_has_a_copy_of_the_version_that_it_was_drafted_by(admin: Api, bundle: str) -> None:
    name = await add(admin, approvals=1)
    campaign = await create(admin, bundle, cohort=unique("c"), policy=name)

    await admin.call("PUT", f"/v1/policies/{name}", json={"policy": {"approvals": 3}})

    kept = (await admin.get(f"/v1/campaigns/{campaign}")).body
    own = (await admin.get(f"/v1/campaigns/{await create(admin, bundle, cohort=unique('c'))}")).body
    assert (kept["policy"]["approvals"], kept["policy_from"], own["policy_from"]) == (1, f"{name}@1", "")
    draft = {"name": "x", "bundle": bundle, "cohort": "main", "regions": ["eu"], "policy": unique("no")}
    assert_problem(await admin.post("/v1/campaigns", draft), 404, "not-found")


async def test_the_commands_and_files_know_policies_by_their_names(
    admin: Api, bundle: str, run: Run, tmp_path: Path
) -> None:
    name, file = unique("policy"), tmp_path / "policy.yaml"
    file.write_text("approvals: 1\nlargest_step: 0.25\n")
    campaign = tmp_path / "campaign.yaml"
    campaign.write_text(
        f"kind: campaign\nname: {unique('spring')}\nbundle: {bundle}\ncohort: {unique('c')}\nregions: [eu]\n"
        f"policy: {name}\n"
    )

    published = [await asyncio.to_thread(run, cli.publish, name, file=file, output="json") for _ in range(2)]
    listed = await asyncio.to_thread(run, cli.ls, output="json")
    (shown,) = await asyncio.to_thread(run, cli.show_one, name, version=1)
    applied = [await asyncio.to_thread(run, apply, file=[campaign], output="json") for _ in range(2)]

    assert [one["version"] for (one,) in published] == [1, 2]
    assert [one["version"] for one in listed if one["name"] == name] == [2]
    assert (shown["policy"]["approvals"], shown["policy"]["largest_step"]) == (1, 0.25)
    assert [one["done"] for (one,) in applied] == ["create", "leave"]
    there = (await admin.get(f"/v1/campaigns/{applied[0][0]['id']}")).body
    assert there["policy_from"] == f"{name}@2"
