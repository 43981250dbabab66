"""``tidegate events``: what happens, as it happens."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from firmware_store.errors import StoreUnavailableError
from server.cli.client import DEFAULT_URL, Client, Token, Url, call

app = App(name="events", help="Hear what happens.")

AGAIN_S: Final = 2.0


@app.command
def tail(
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    type: Annotated[list[str] | None, Parameter(negative=())] = None,  # noqa: A002 - as the query has it
    campaign: str | None = None,
    after: int | None = None,
    follow: bool = True,
    output: Annotated[Literal["text", "jsonl"], Parameter(name=["--output", "-o"], help="how to print")] = "text",
) -> None:
    """Print events as they come, until Ctrl-C; after an interruption it goes on where it was.

    Parameters
    ----------
    type
        Only events of this type, such as campaign.halted; several times for several.
    campaign
        Only events of one campaign.
    after
        Begin after the event with this number; 0 is everything that is kept. Without it, from now on.
    follow
        With --no-follow: end when all was printed that is there.
    """
    call(server, token, lambda client: _tail(client, list(type or []), campaign, after, follow=follow, form=output))


async def _tail(
    client: Client, types: list[str], campaign: str | None, after: int | None, *, follow: bool, form: str
) -> None:
    import asyncio
    import sys

    place = after
    while True:
        query: dict[str, Any] = {"follow": "true" if follow else "false"}
        query |= {"type": types} if types else {}
        query |= {} if campaign is None else {"campaign": campaign}
        query |= {} if place is None else {"after": place}
        try:
            async for number, event in read_events(client.get_pieces("/v1/events", **query)):
                place = number
                if event is not None:
                    print(json.dumps(event) if form == "jsonl" else _told(event), flush=True)
        except StoreUnavailableError as exc:
            if not follow or place is None:
                raise
            print(f"tidegate: {exc} Trying again.", file=sys.stderr)
        if not follow:
            return
        await asyncio.sleep(AGAIN_S)


async def read_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, Any]]:
    """Yield the number of each event with what it says, None where only the place has moved (HTML, 9.2.6)."""
    rest, number, data = b"", 0, b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"id":
                number = int(value)
            elif name == b"data":
                data = value
            elif not line:
                yield number, json.loads(data) if data else None
                data = b""


def _told(event: Any) -> str:
    data = event["data"]
    kind = event["type"].removeprefix("dev.tidegate.")
    name = f"{data['name']} " if "name" in data else ""
    words = data.get("sentence") or ", ".join(f"{key}: {value}" for key, value in data.items() if key == "count")
    return f"{event['time'][:19]} {event['sequence']} {kind} {name}({event['subject']}) {words}".rstrip()
