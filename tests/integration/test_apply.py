"""``tidegate apply``: campaigns from files, made once however often it is said."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firmware_store.errors import ConflictError, InvalidInputError, NotFoundError
from server.cli.apply import apply
from tests.integration.test_rest_campaigns import bundle
from tests.servers import Api, ServerProcess, unique

__all__ = ["bundle"]

Apply = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path, bundle: str) -> Path:
    path = tmp_path / "campaign.yaml"
    path.write_text(document(unique("spring"), bundle, unique("c")))
    return path


def document(name: str, bundle: str, cohort: str) -> str:
    return f"""kind: campaign
name: {name}
bundle: {bundle}
cohort: {cohort}
regions: [no, se]  # Norway is no truth value
reason: CVE-1
plan:
  waves:
    - {{ratio: 0.2, ramp_s: 60, soak_s: 60}}
    - {{ratio: 1.0, ramp_s: 600}}
"""


@pytest.fixture
def run(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> Apply:
    async def run(*files: Path, **options: Any) -> list[dict[str, Any]]:
        capsys.readouterr()
        given = {"token": server.token, "server": server.url, "output": "json"} | options
        await asyncio.to_thread(apply, file=list(files), **given)
        rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return rows

    return run


async def campaigns(admin: Api) -> list[str]:
    return [entry["id"] for entry in (await admin.get("/v1/campaigns?limit=1000")).body["campaigns"]]


async def test_a_second_time_changes_nothing(admin: Api, run: Apply, file: Path) -> None:
    [first] = await run(file)
    before = await campaigns(admin)

    [second] = await run(file)

    assert (first["done"], first["state"]) == ("create", "draft")
    assert (second["done"], second["id"]) == ("leave", first["id"])
    assert await campaigns(admin) == before
    detail = (await admin.get(f"/v1/campaigns/{first['id']}")).body
    assert [region["region"] for region in detail["regions"]] == ["no", "se"]


async def test_a_draft_that_differs_is_replaced(admin: Api, run: Apply, file: Path) -> None:
    [first] = await run(file)
    file.write_text(file.read_text().replace("ramp_s: 600", "ramp_s: 900"))

    [second] = await run(file)

    assert (second["done"], second["differs_in"]) == ("replace", "plan")
    assert (await admin.get(f"/v1/campaigns/{first['id']}")).body["state"] == "cancelled"
    assert (await run(file))[0]["done"] == "leave"


async def test_it_is_started_once_and_then_not_touched(admin: Api, run: Apply, file: Path) -> None:
    await run(file)
    file.write_text(file.read_text() + "start: true\n")

    [started] = await run(file)
    [again] = await run(file)

    assert (started["done"], started["state"]) == ("start", "running")
    assert again["done"] == "leave"
    file.write_text(file.read_text().replace("se]", "fi]"))
    with pytest.raises(ConflictError, match=r"is running .* differs from the file in regions"):
        await run(file)
    await admin.post(f"/v1/campaigns/{started['id']}/cancel", {"reason": "over"})


async def test_what_needs_approval_asks_for_it(admin: Api, run: Apply, file: Path) -> None:
    file.write_text(file.read_text() + "policy: {approvals: 1}\nstart: true\n")

    [row] = await run(file)

    assert row["state"] == "awaiting_approval"
    await admin.post(f"/v1/campaigns/{row['id']}/cancel", {"reason": "over"})


async def test_one_that_cannot_be_changed_keeps_the_others_from_being_made(
    admin: Api, run: Apply, file: Path, tmp_path: Path, bundle: str
) -> None:
    file.write_text(file.read_text() + "start: true\n")
    [started] = await run(file)
    file.write_text(file.read_text().replace("se]", "fi]"))
    other = tmp_path / "other.yaml"
    other.write_text(document(unique("autumn"), bundle, unique("c")))
    before = await campaigns(admin)

    with pytest.raises(ConflictError):
        await run(other, file)

    assert await campaigns(admin) == before
    await admin.post(f"/v1/campaigns/{started['id']}/cancel", {"reason": "over"})


async def test_a_dry_run_says_what_it_would_do_and_does_not(admin: Api, run: Apply, file: Path) -> None:
    before = await campaigns(admin)

    [row] = await run(file, dry_run=True)

    assert row["done"] == "would create"
    assert await campaigns(admin) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no document"),
        ("{", "not YAML"),
        ("- 1", "document 1, is not a campaign"),
        ("kind: campaign\nname: a\nname: b\n", "not YAML"),
        ("kind: campaign\nname: a\nwaves: []\n", "waves: Extra inputs"),
        ("kind: cohort\n", "kind: Input should be 'campaign'"),
        ("a: !!python/object/apply:os.system [id]\n", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("\x00", "not YAML"),
        ("x" * (1 << 20) + "x", "more than"),
    ],
)
async def test_a_file_that_is_no_campaign_says_where(run: Apply, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)

    with pytest.raises(InvalidInputError, match=says):
        await run(path)


async def test_a_name_that_is_there_twice_is_refused(run: Apply, file: Path) -> None:
    with pytest.raises(InvalidInputError, match="twice"):
        await run(file, file)


async def test_a_bundle_that_is_not_there_is_told(run: Apply, file: Path, bundle: str) -> None:
    file.write_text(file.read_text().replace(bundle, f"bun_{0:032x}"))

    with pytest.raises(NotFoundError):
        await run(file)
