"""``tidegate campaign rehearse``: ask for a rehearsal, show how far it is, and say what came of it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from firmware_store.errors import InvalidInputError, StoreUnavailableError
from server.cli.client import Client, call
from server.cli.words import printable


def rehearse(server: str, token: str, target: str, effects: Sequence[str] = ()) -> dict[str, Any]:
    """Return the last line of the answer; ``target`` is a campaign's id or a file of one.

    Raises:
        InvalidInputError: an effect is no ``brick=2%``, or the file is not of one campaign.
    """
    from rich.console import Console
    from rich.progress import Progress

    path, body = _asked(target)
    if effects:
        body["effects"] = [read_effect(text) for text in effects]
    console = Console(stderr=True)

    async def ask(client: Client) -> dict[str, Any]:
        lines: AsyncIterator[dict[str, Any]] = client.post_lines(path, body)
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("rehearsing", total=1.0)
            async for line in lines:
                progress.update(task, completed=line["done"], description=line.get("doing", "rehearsing"))
                if line["complete"]:
                    return line
        raise StoreUnavailableError("The server has broken off; its log says why.")

    return call(server, token, ask)


def read_effect(text: str) -> dict[str, Any]:
    """Return a bad release as the API has it: ``brick=2%`` or ``brick=0.02``.

    Raises:
        InvalidInputError: it is neither.
    """
    kind, _, amount = text.partition("=")
    try:
        share = float(amount.removesuffix("%")) / (100 if amount.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if kind != "brick" or not 0 < share <= 1:
        raise InvalidInputError(f"An effect is brick=2% (or any other share of the devices), and {text!r} is none.")
    return {"kind": kind, "share": share}


def _asked(target: str) -> tuple[str, dict[str, Any]]:
    if target.startswith("cmp_"):
        return f"/v1/campaigns/{target}/rehearse", {}
    from server.cli.campaign_file import read_campaigns

    found = read_campaigns(Path(target))
    if len(found) != 1:
        raise InvalidInputError(f"{target} has {len(found)} campaigns; a rehearsal is of one.")
    draft = found[0].draft
    return "/v1/rehearsals", {name: draft[name] for name in ("cohort", "regions", "plan", "policy") if name in draft}


def rehearsed(report: dict[str, Any]) -> Iterator[str]:
    """Yield what came of a rehearsal as lines of text."""
    from server.domain.decide import duration

    good, *bad = report["effects"]
    some = report["rehearsed"] < report["devices"]
    of = f"{report['rehearsed']:,} of them, drawn at random" if some else "all of them"
    yield f"Rehearsed for {report['devices']:,} devices ({of}), by how often each was away lately."
    yield ""
    if good["completed_seconds"] is not None:
        yield f"A good release is through after {duration(good['completed_seconds'])}."
    else:
        yield f"A good release is not through after {duration(good['seconds'])} ({good['verdict']})."
    if good["stopped"]:
        yield f"It was stopped in {good['stopped']} of {good['runs']} runs: {printable(good['sentence'])}"
    for wave, opened in zip(report["waves"], good["opened"], strict=True):
        when = "does not open" if opened is None else f"opens after {duration(opened)}"
        where = f" {', '.join(wave['regions'])}" if wave["regions"] else ""
        yield f"  wave {wave['number']}: {wave['target']}{where} {when}"
    yield ""
    yield from map(_cost, bad)
    yield ""
    for what in report["left_out"]:
        yield f"Left out: {what}."
    yield "Not rehearsed: outages of sites and regions. How long absences last is assumed."


def _cost(effect: dict[str, Any]) -> str:
    from server.domain.decide import duration

    release, runs, stopped = f"A release that bricks {100 * effect['bricked']:.3g}%", effect["runs"], effect["stopped"]
    counted = f"{effect['started']:,} devices started, {effect['lost']:,} lost"
    in_runs = f" in {stopped} of {runs} runs" if runs > 1 else ""
    if stopped == 0:
        in_any = f" in any of {runs} runs" if runs > 1 else ""
        return f"{release} is not stopped{in_any}: {counted}. This policy cannot see it with so few devices."
    after = duration(effect["seconds"])
    if stopped < runs:
        return f"{release} is stopped{in_runs} only: {counted} (median), after {after}."
    return f"{release} is stopped{in_runs} after {after}: {counted}. {printable(effect['sentence'])}"
