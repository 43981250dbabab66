"""``tidegate freeze``: when nothing may go on in a region."""

from typing import Annotated

from cyclopts import App, Parameter

from server.cli.client import DEFAULT_URL, Token, Url, call
from server.cli.output import Format, show

app = App(name="freeze", help="Say when campaigns must stand still.")

_COLUMNS = ("id", "region", "zone", "starts", "ends", "holds", "reason")

Clock = Annotated[str, Parameter(help="What the zone's wall clock shows, such as 2026-12-20T18:00.")]


@app.command
def add(
    *,
    starts: Clock,
    ends: Clock,
    zone: str,
    reason: str,
    token: Token,
    server: Url = DEFAULT_URL,
    region: str | None = None,
    output: Format = "table",
) -> None:
    """Freeze a region, or all of them: campaigns there are held at the start and go on at the end.

    Parameters
    ----------
    zone
        An IANA time zone, such as Europe/Berlin.
    reason
        Why; it is shown with each campaign that is held.
    region
        Which region; without it, everywhere.
    """
    body = {"region": region, "zone": zone, "starts": starts, "ends": ends, "reason": reason}
    show([call(server, token, lambda client: client.post("/v1/freezes", body))], _COLUMNS, output)


@app.command
def ls(*, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """List freezes by their start, those that are over too."""
    show(call(server, token, lambda client: client.get("/v1/freezes"))["freezes"], _COLUMNS, output)


@app.command
def rm(freeze: str, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Remove one: what it holds goes on.

    Parameters
    ----------
    freeze
        Its id (frz_...).
    """
    show([call(server, token, lambda client: client.delete(f"/v1/freezes/{freeze}"))], _COLUMNS, output)
