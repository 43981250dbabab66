"""``tidegate region`` and ``tidegate cohort``: how many devices there are where, and what they run."""

from typing import Any

from cyclopts import App

from server.cli.client import DEFAULT_URL, Token, Url, call
from server.cli.output import Format, show

regions = App(name="region", help="Count devices by region.")
cohorts = App(name="cohort", help="Count devices by cohort.")

_COLUMNS = ("name", "devices", "held", "never_seen", "versions")


@regions.command(name="ls")
def list_regions(*, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """List the regions that have devices, and what runs there."""
    _show("regions", token, server, output)


@cohorts.command(name="ls")
def list_cohorts(*, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """List the cohorts that have devices, and what runs there."""
    _show("cohorts", token, server, output)


def _show(what: str, token: str, server: str, output: str) -> None:
    rows: list[dict[str, Any]] = call(server, token, lambda client: client.get(f"/v1/{what}"))[what]
    if output == "table":
        rows = [
            {**row, "versions": ", ".join(f"{version}: {many}" for version, many in row["versions"].items())}
            for row in rows
        ]
    show(rows, _COLUMNS, output)
