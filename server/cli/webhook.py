"""``tidegate webhook``: have events delivered elsewhere."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from server.cli.client import DEFAULT_URL, Client, Token, Url, call
from server.cli.output import Format, show

app = App(name="webhook", help="Have events delivered elsewhere.")

_COLUMNS = ("id", "name", "format", "url", "is_enabled", "cursor", "attempts", "why_not")
_TRIES = ("id", "at", "sequence", "type", "attempt", "outcome", "status", "why")

Types = Annotated[list[str] | None, Parameter(negative=())]


@app.command
def add(
    name: str,
    url: str,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    format: Literal["standard", "pagerduty", "ticket"] = "standard",  # noqa: A002 - as the API has it
    type: Types = None,  # noqa: A002
    campaign: str | None = None,
    routing_key: Annotated[str, Parameter(env_var="TIDEGATE_ROUTING_KEY")] = "",
) -> None:
    """Have events delivered to a URL from now on, and print the secret that they are signed with, once.

    Parameters
    ----------
    name
        What people call it.
    url
        Where: https://...; private networks only where TIDEGATE_WEBHOOK_NETWORKS of the server lets them.
    format
        CloudEvents, PagerDuty's Events v2, or plain tickets.
    type
        Only events of this type; several times for several.
    campaign
        Only events of one campaign.
    routing_key
        The integration key of PagerDuty.
    """
    body = {"name": name, "url": url, "format": format, "types": list(type or []), "routing_key": routing_key}
    made = call(server, token, lambda client: client.post("/v1/webhooks", {**body, "campaign": campaign}))
    show([made["webhook"]], _COLUMNS, "table")
    print(made["secret"])


@app.command
def ls(*, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """List webhooks."""
    show(call(server, token, lambda client: client.get("/v1/webhooks"))["webhooks"], _COLUMNS, output)


@app.command
def enable(webhook: str, *, token: Token, server: Url = DEFAULT_URL) -> None:
    """Try a webhook again, from where it was."""
    _change(webhook, {"is_enabled": True}, token, server)


@app.command
def disable(webhook: str, *, token: Token, server: Url = DEFAULT_URL) -> None:
    """Deliver nothing there until it is enabled again."""
    _change(webhook, {"is_enabled": False}, token, server)


@app.command
def rotate(webhook: str, *, token: Token, server: Url = DEFAULT_URL, grace_s: int = 86_400) -> None:
    """Print a new secret, once; the old one signs, too, until the grace is over.

    Parameters
    ----------
    grace_s
        For so many seconds.
    """

    async def change(client: Client, path: str, tag: str) -> Any:
        return await client.post(f"{path}/rotate", {"grace_seconds": grace_s}, seen=tag)

    print(_as_seen(webhook, change, token, server)["secret"])


@app.command
def rm(webhook: str, *, token: Token, server: Url = DEFAULT_URL) -> None:
    """Remove a webhook and its log."""
    _as_seen(webhook, lambda client, path, tag: client.delete(path, seen=tag), token, server)


@app.command
def deliveries(
    webhook: str, *, token: Token, server: Url = DEFAULT_URL, limit: int = 20, output: Format = "table"
) -> None:
    """List the tries to deliver, the newest first."""
    path = f"/v1/webhooks/{webhook}/deliveries"
    show(call(server, token, lambda client: client.get_all(path, "deliveries", most=limit)), _TRIES, output)


@app.command
def resend(webhook: str, delivery: int, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Deliver an event once more, whatever has become of it."""
    path = f"/v1/webhooks/{webhook}/deliveries/{delivery}/resend"
    show([call(server, token, lambda client: client.post(path, {}))], _TRIES, output)


def _change(webhook: str, body: dict[str, Any], token: str, server: str) -> None:
    changed = _as_seen(webhook, lambda client, path, tag: client.patch(path, body, seen=tag), token, server)
    show([changed], _COLUMNS, "table")


def _as_seen(
    webhook: str, change: Callable[[Client, str, str], Coroutine[Any, Any, Any]], token: str, server: str
) -> Any:
    """Look at a webhook, and change it unless it has changed meanwhile."""

    async def act(client: Client) -> Any:
        path = f"/v1/webhooks/{webhook}"
        _, tag = await client.look(path)
        return await change(client, path, tag)

    return call(server, token, act)
