"""``tidegate device export|import|drift``: the inventory as a table, and what runs something else than it should."""

from pathlib import Path

from server.cli.client import DEFAULT_URL, Client, Token, Url, call
from server.cli.output import Format, show

_PIECE_BYTES = 1 << 16
_COLUMNS = ("device", "region", "cohort", "runs", "should_run", "campaign_name", "last_seen")
_PART_COLUMNS = ("region", "cohort", "should_run", "campaign_name", "devices", "drifting")


def export(
    file: Path | None = None,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    filter: str = "",  # noqa: A002 - the option is --filter
) -> None:
    """Write devices as a table (CSV), line by line.

    Parameters
    ----------
    file
        Where to; without it, to standard output.
    filter
        Only those that this lets through (docs/reference/filters.md).
    """
    import sys

    async def run(client: Client) -> None:
        query = {"filter": filter} if filter else {}
        with sys.stdout.buffer if file is None else file.open("wb") as out:
            async for piece in client.get_pieces("/v1/inventory/export", **query):
                out.write(piece)

    call(server, token, run)


def import_devices(file: Path, *, token: Token, server: Url = DEFAULT_URL) -> None:
    """Add the devices of a table (CSV), all or none; bad rows are named with their lines.

    Parameters
    ----------
    file
        Its first line names the columns: id, region, cohort, and labels (JSON) where there are any.
    """
    from collections.abc import AsyncIterator

    async def pieces() -> AsyncIterator[bytes]:
        with file.open("rb") as source:
            while piece := source.read(_PIECE_BYTES):
                yield piece

    answer = call(server, token, lambda client: client.upload_pieces("/v1/inventory/import", pieces(), "text/csv"))
    print(f"{answer['devices']:,} devices added")


def drift(
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    filter: str = "",  # noqa: A002 - the option is --filter
    count: bool = False,
    output: Format = "table",
) -> None:
    """List devices that do not run what the newest campaign that reaches them has brought.

    Parameters
    ----------
    filter
        Only those that this lets through (docs/reference/filters.md).
    count
        Only how many, by region and campaign.
    """
    if count:
        answer = call(server, token, lambda client: client.get("/v1/inventory/drift/summary"))
        show(answer["parts"] if output == "table" else [answer], _PART_COLUMNS, output)
        return

    only = {"filter": filter} if filter else {}
    rows = call(server, token, lambda client: client.get_all("/v1/inventory/drift", "devices", only))
    show(rows, _COLUMNS, output)
