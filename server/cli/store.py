"""``tidegate store``: looking after the blobs of a server."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from cyclopts import App, Parameter

from server.cli.client import DEFAULT_URL, Client, Token, Url, call

app = App(name="store", help="Verify the blobs, and clear those that nobody needs.")


@app.command
def verify(*, token: Token, server: Url = DEFAULT_URL) -> int:
    """Read every blob back and compare it with its digest. Exit code 1 if one is damaged or missing.

    What is damaged or missing comes back by uploading its bundle again.
    """
    report = _run(server, token, "/v1/store/verify", {}, "verifying")
    for word in ("damaged", "missing"):
        for digest in report[word]:
            print(f"{word} {digest}")
    print(
        f"{report['seen']} blobs read, {report['read_bytes']} bytes: {len(report['damaged'])} damaged, "
        f"{len(report['missing'])} missing; {report['unneeded']} belong to nothing"
    )
    return 1 if report["damaged"] or report["missing"] else 0


@app.command
def gc(
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    grace_hours: int = 24,
) -> None:
    """Clear blobs that belong to no bundle, such as those of uploads that broke off.

    Parameters
    ----------
    dry_run
        Only say what would be cleared.
    grace_hours
        Leave what somebody has put within so many hours: at least 4.
    """
    body = {"dry_run": dry_run, "grace_seconds": grace_hours * 3600}
    report = _run(server, token, "/v1/store/gc", body, "clearing")
    left = f", and {report['left']} files of writes that never ended" if report["left"] else ""
    print(
        f"{'would clear' if dry_run else 'cleared'} {report['cleared']} of {report['total']} blobs, "
        f"{report['cleared_bytes']} bytes{left}"
    )


def _run(server: str, token: str, path: str, body: dict[str, Any], title: str) -> dict[str, Any]:
    """Ask for something long, show how far it is, and return its report."""
    from rich.console import Console
    from rich.progress import Progress

    from firmware_store.errors import StoreUnavailableError

    console = Console(stderr=True)

    async def ask(client: Client) -> dict[str, Any]:
        lines: AsyncIterator[dict[str, Any]] = client.post_lines(path, body)
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(title, total=None)
            async for line in lines:
                progress.update(task, total=line["total"], completed=line["seen"])
                if line["complete"]:
                    return line
        raise StoreUnavailableError("The server has broken off; its log says why.")

    return call(server, token, ask)
