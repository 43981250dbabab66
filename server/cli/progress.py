"""A campaign's progress, live: one bar a region on a terminal, a plain line a change elsewhere."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from server.cli.client import Client

POLL_S: Final = 0.5
LINE_S: Final = 3.0
"""Where there is no terminal, a line comes with each change of state or wave, and between them at most this often."""


async def follow(client: Client, campaign: str, *, until: Sequence[str]) -> dict[str, Any]:
    """Show the campaign until it is in one of these states; return its last view."""
    console = Console(stderr=True)
    if console.is_terminal:
        return await _with_bars(client, campaign, until, console)
    return await _with_lines(client, campaign, until, console)


async def _with_lines(client: Client, campaign: str, until: Sequence[str], console: Console) -> dict[str, Any]:
    last, said, said_at = "", "", 0.0
    while True:
        view: dict[str, Any] = await client.get(f"/v1/campaigns/{campaign}")
        stage, line = _stage(view), _summary(view)
        if stage != last or (line != said and time.monotonic() - said_at >= LINE_S):
            console.print(line, highlight=False, soft_wrap=True)
            last, said, said_at = stage, line, time.monotonic()
        if view["state"] in until:
            return view
        await asyncio.sleep(POLL_S)


async def _with_bars(client: Client, campaign: str, until: Sequence[str], console: Console) -> dict[str, Any]:
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}
        title = progress.add_task("campaign", total=1, text="")
        while True:
            view: dict[str, Any] = await client.get(f"/v1/campaigns/{campaign}")
            eligible = sum(region["eligible"] for region in view["regions"])
            progress.update(title, total=max(eligible, 1), completed=_confirmed(view), text=_summary(view))
            for region in view["regions"]:
                name = region["region"]
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=1, text="")
                text = (
                    f"level {region['level']:6.1%}  in flight {region['in_flight']:>3}  "
                    f"confirmed {region['confirmed']:>3}  silent {region['silent']}"
                    f"{'  bad weather' if region['weather'] == 'bad' else ''}"
                )
                total = max(region["eligible"], 1)
                progress.update(tasks[name], total=total, completed=region["confirmed"], text=text)
            if view["state"] in until:
                return view
            await asyncio.sleep(POLL_S)


def _confirmed(view: dict[str, Any]) -> int:
    return sum(region["confirmed"] for region in view["regions"])


def _stage(view: dict[str, Any]) -> str:
    opened = [wave["number"] for wave in view["waves"] if wave["state"] != "planned"]
    return f"{view['name']}: {view['state']}, wave {max(opened, default=0)} of {len(view['waves'])}"


def _summary(view: dict[str, Any]) -> str:
    counts = ", ".join(f"{number} {state}" for state, number in sorted(view["states"].items()))
    return f"{_stage(view)}; {counts or 'none started'}"
