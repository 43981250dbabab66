"""``tidegate device edit|change|operations``: change one device, or many by a filter, shown before it is done."""

import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from server.cli import ERROR, OK
from server.cli.client import DEFAULT_URL, Client, Token, Url, call
from server.cli.output import Format, show

Labels = Annotated[
    list[str] | None, Parameter(help="NAME=VALUE, which people say of it from now on; NAME- takes that away. Several.")
]

POLL_S = 0.5
_COLUMNS = ("id", "state", "filter", "total", "done", "refused", "created_by", "created_at", "reason")
_DEVICE_COLUMNS = ("id", "region", "cohort", "labels", "operator_labels")

app = App(name="operations", help="Changes of many devices.")


def edit(
    device: str,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    region: str | None = None,
    cohort: str | None = None,
    label: Labels = None,
    output: Format = "table",
) -> None:
    """Move a device, or change what people say of it. If it is online it hears of that at once.

    Parameters
    ----------
    device
        Its id.
    region
        Where it belongs from now on.
    cohort
        Which part of the fleet it belongs to from now on.
    """
    body = {**_places(region, cohort), **_labels(label)}

    async def look_and_change(client: Client) -> Any:
        _, seen = await client.look(f"/v1/devices/{device}")
        return await client.patch(f"/v1/devices/{device}", body, seen=seen)

    show([call(server, token, look_and_change)], _DEVICE_COLUMNS, output)


def change(
    filter: str,  # noqa: A002 - as the API has it
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    region: str | None = None,
    cohort: str | None = None,
    label: Labels = None,
    hold: str | None = None,
    hours: float | None = None,
    release: Annotated[bool, Parameter(negative="")] = False,
    reason: str = "",
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    plan: str | None = None,
    yes: Annotated[bool, Parameter(negative="")] = False,
    output: Format = "table",
) -> int:
    """Change all devices that a filter lets through: shows how many, asks, and follows it to its end.

    Parameters
    ----------
    filter
        Whose (docs/reference/filters.md), such as "region = eu AND labels.ring = 1".
    region
        Where they belong from now on. Devices that are under way in a campaign are not moved, and named.
    cohort
        Which part of the fleet they belong to from now on.
    hold
        Let them start nothing, for this reason.
    hours
        Hold them for so long; without it, until they are released.
    release
        End their holds.
    reason
        Why; it is kept.
    dry_run
        Only show what would be changed, with its hash.
    plan
        The hash that a dry run has shown: the devices must still be those.
    yes
        Do not ask.
    """
    wanted: dict[str, Any] = {**_places(region, cohort), **_labels(label)}
    if hold is not None:
        wanted["hold"] = {"reason": hold, "for_seconds": None if hours is None else round(hours * 3600)}
    if release:
        wanted["release"] = True
    body: dict[str, Any] = {"filter": filter, "change": wanted, **({"reason": reason} if reason else {})}

    async def run(client: Client) -> int:
        if dry_run or plan is None:
            shown = await client.post("/v1/operations?dry_run=true", body)
            _show_plan(shown, output if dry_run else "table", to_stderr=not dry_run)
            if dry_run:
                return OK
            if not yes:
                _confirm(f"Change {shown['devices']:,} devices?")
        begun = await client.post("/v1/operations", {**body, "plan_hash": plan or shown["plan_hash"]})
        ended = await follow(client, begun)
        show([ended], _COLUMNS, output)
        _show_errors(ended)
        return OK if ended["state"] == "done" and not ended["refused"] else ERROR

    return call(server, token, run)


@app.command
def ls(*, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """List changes of many devices, the newest first."""
    show(call(server, token, lambda client: client.get_all("/v1/operations", "operations")), _COLUMNS, output)


@app.command(name="show")
def show_one(operation: str, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Show one, with the devices that it has refused.

    Parameters
    ----------
    operation
        Its id (op_...).
    """
    answer = call(server, token, lambda client: client.get(f"/v1/operations/{operation}"))
    show([answer], _COLUMNS, output)
    _show_errors(answer)


@app.command
def watch(operation: str, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> int:
    """Follow one to its end.

    Parameters
    ----------
    operation
        Its id (op_...).
    """

    async def run(client: Client) -> dict[str, Any]:
        return await follow(client, await client.get(f"/v1/operations/{operation}"))

    ended = call(server, token, run)
    show([ended], _COLUMNS, output)
    _show_errors(ended)
    return OK if ended["state"] == "done" else ERROR


@app.command
def cancel(operation: str, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """End one: devices that it has changed stay so.

    Parameters
    ----------
    operation
        Its id (op_...).
    """
    path = f"/v1/operations/{operation}/cancel"
    show([call(server, token, lambda client: client.post(path, {}))], _COLUMNS, output)


async def follow(client: Client, operation: dict[str, Any]) -> dict[str, Any]:
    """Show a bar until it has ended; return its last view."""
    import asyncio

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("devices"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=operation["total"])
        while True:
            progress.update(task, completed=operation["done"] + operation["refused"])
            if operation["state"] != "running":
                return operation
            await asyncio.sleep(POLL_S)
            operation = await client.get(f"/v1/operations/{operation['id']}")


def _places(region: str | None, cohort: str | None) -> dict[str, str]:
    return {name: value for name, value in (("region", region), ("cohort", cohort)) if value is not None}


def _labels(given: list[str] | None) -> dict[str, dict[str, str | None]]:
    """Read NAME=VALUE and NAME-. Raises: InvalidInputError."""
    from firmware_store.errors import InvalidInputError

    labels: dict[str, str | None] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if equals:
            labels[name] = value
        elif text.endswith("-"):
            labels[text[:-1]] = None
        else:
            raise InvalidInputError(f"a label is NAME=VALUE, or NAME- to take it away, and not {text!r}")
    return {"labels": labels} if labels else {}


def _show_plan(plan: dict[str, Any], output: Format, *, to_stderr: bool) -> None:
    if output != "table":
        show([plan], (), output)
        return
    stream = sys.stderr if to_stderr else sys.stdout
    print(f"{plan['devices']:,} devices", file=stream)
    for place in plan["places"]:
        print(f"  {place['devices']:>9,} in {place['region']}/{place['cohort']}", file=stream)
    if plan["sample"]:
        more = ", ..." if plan["devices"] > len(plan["sample"]) else ""
        print(f"such as {', '.join(plan['sample'])}{more}", file=stream)
    if plan["refused"]:
        print(f"{plan['refused']:,} of them are under way in a campaign, and will not be moved", file=stream)
    print(f"plan {plan['plan_hash']}", file=stream)


def _show_errors(operation: dict[str, Any]) -> None:
    for error in operation["errors"]:
        print(f"{error['device'] or 'all'}: {error['detail']}", file=sys.stderr)


def _confirm(question: str) -> None:
    from firmware_store.errors import ConfigurationError

    if not sys.stdin.isatty():
        raise ConfigurationError("there is nobody to ask: say --yes to go on without a question")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigurationError("nothing was changed")
