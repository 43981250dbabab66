"""``tidegate device``: add devices and look at them."""

from typing import Any

from cyclopts import App

from server.cli.client import DEFAULT_URL, Client, Token, Url, call
from server.cli.output import Format, show

app = App(name="device", help="Add devices and look at them.")

_COLUMNS = ("id", "region", "cohort", "online", "hardware", "running_version", "last_seen")


@app.command
def add(device: str, *, region: str, cohort: str, token: Token, server: Url = DEFAULT_URL) -> None:
    """Add a device and print its broker credential, as JSON: it is shown this once.

    Parameters
    ----------
    device
        Its id: 3 to 64 of a-z, 0-9, _ and -.
    region
        Where it is.
    cohort
        Which part of the fleet it belongs to.
    """
    body = {"devices": [{"id": device, "region": region, "cohort": cohort}]}
    answer = call(server, token, lambda client: client.post("/v1/devices", body))
    show(answer["devices"], (), "json")


@app.command
def ls(
    *, token: Token, server: Url = DEFAULT_URL, region: str = "", cohort: str = "", output: Format = "table"
) -> None:
    """List devices.

    Parameters
    ----------
    region
        Only those of this region.
    cohort
        Only those of this cohort.
    """
    only = {name: value for name, value in (("region", region), ("cohort", cohort)) if value}
    show(call(server, token, lambda client: list_all(client, "/v1/devices", "devices", only)), _COLUMNS, output)


@app.command(name="show")
def show_one(device: str, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Show one device.

    Parameters
    ----------
    device
        Its id.
    """
    answer = call(server, token, lambda client: client.get(f"/v1/devices/{device}"))
    show([answer], _COLUMNS, output)


async def list_all(client: Client, path: str, member: str, query: dict[str, str]) -> list[dict[str, Any]]:
    """Follow the cursor to the end."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await client.get(path, limit=1000, cursor=cursor, **query)
        rows += page[member]
        cursor = page["next"]
    return rows
