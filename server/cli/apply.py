"""``tidegate apply``: campaigns as files say, however often it is run."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from firmware_store.errors import ConflictError, InvalidInputError
from server.cli.campaign_file import CampaignFile, read_campaigns
from server.cli.client import DEFAULT_URL, Client, Token, Url, call
from server.cli.output import Format, show


class Step(NamedTuple):
    """What is to be done about one file's campaign: ``create``, ``replace`` a draft, ``start`` one, or nothing."""

    wanted: CampaignFile
    verb: str
    there: dict[str, Any] | None
    differs_in: Sequence[str] = ()


def apply(
    *,
    file: Annotated[list[Path], Parameter(name=["--file", "-f"], help="A YAML file; its JSON Schema is in the docs.")],
    token: Token,
    server: Url = DEFAULT_URL,
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would be done.")] = False,
    output: Format = "table",
) -> None:
    """Make campaigns as files say.

    A campaign is found by its name. One that is not there is drafted; a draft that differs is replaced; one that is
    as the file says is left alone, whatever has become of it. One that differs and has been started is not touched:
    then nothing of any file is done, and the exit code is 4.
    """
    wanted = [campaign for path in file for campaign in read_campaigns(path)]
    twice = [name for name, times in Counter(campaign.name for campaign in wanted).items() if times > 1]
    if twice:
        raise InvalidInputError(f"The files have {twice[0]!r} twice.")
    show(
        call(server, token, lambda client: _apply(client, wanted, dry_run=dry_run)),
        ("name", "id", "done", "differs_in", "state"),
        output,
    )


async def _apply(client: Client, wanted: Sequence[CampaignFile], *, dry_run: bool) -> list[dict[str, Any]]:
    """Look at everything before anything is done."""
    newest: dict[str, str] = {}
    for entry in await client.get_all("/v1/campaigns", "campaigns"):
        newest.setdefault(entry["name"], entry["id"])
    steps = [await _step(client, one, newest.get(one.name)) for one in wanted]
    return [_row(step, "would " + step.verb, step.there) if dry_run else await _do(client, step) for step in steps]


async def _step(client: Client, wanted: CampaignFile, campaign: str | None) -> Step:
    there = None if campaign is None else await client.get(f"/v1/campaigns/{campaign}")
    if there is None or there["state"] == "cancelled":
        return Step(wanted, "create", None)
    differs_in = wanted.differences(there)
    if not differs_in:
        return Step(wanted, "start" if wanted.start and there["state"] == "draft" else "leave", there)
    if there["state"] != "draft":
        raise ConflictError(
            f"{wanted.name!r} is {there['state']} ({there['id']}) and differs from the file in "
            f"{', '.join(differs_in)}: give the file's another name, or cancel that one."
        )
    return Step(wanted, "replace", there, differs_in)


async def _do(client: Client, step: Step) -> dict[str, Any]:
    there = step.there
    if step.verb == "replace":
        assert there is not None
        await client.post(f"/v1/campaigns/{there['id']}/cancel", {"reason": "replaced by what a file says"})
    if step.verb in ("create", "replace"):
        there = await client.post("/v1/campaigns", step.wanted.draft)
    assert there is not None
    if step.wanted.start and there["state"] == "draft":
        order = "submit" if there["approvals_missing"] else "start"
        there = await client.post(f"/v1/campaigns/{there['id']}/{order}", {"reason": step.wanted.reason})
    return _row(step, step.verb, there)


def _row(step: Step, done: str, there: dict[str, Any] | None) -> dict[str, Any]:
    there = there or {}
    return {
        "name": step.wanted.name,
        "id": there.get("id"),
        "done": done,
        "differs_in": ", ".join(step.differs_in),
        "state": there.get("state"),
    }
