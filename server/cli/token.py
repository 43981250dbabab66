"""``tidegate token``: API tokens."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from server.cli.client import DEFAULT_URL, Token, Url, call
from server.cli.output import Format, show

app = App(name="token", help="Make API tokens, look at them, and end them.")

_COLUMNS = ("id", "name", "role", "regions", "cohorts", "expires_at", "last_used_at", "is_good")

Names = Annotated[list[str] | None, Parameter(negative=())]


@app.command
def create(
    name: str,
    *,
    role: Literal["viewer", "operator", "approver", "releaser", "admin"],
    token: Token,
    server: Url = DEFAULT_URL,
    valid_days: int | None = None,
    region: Names = None,
    cohort: Names = None,
) -> None:
    """Make a token and print it: it is shown this once.

    Parameters
    ----------
    name
        Who or what it is for.
    role
        What its holder may do.
    valid_days
        For how many days; without it the token does not expire.
    region
        A region that its holder may see and change, and others not; may be repeated.
    cohort
        A cohort, in the same way.
    """
    seconds = None if valid_days is None else valid_days * 86_400
    body = {"name": name, "role": role, "valid_seconds": seconds, "regions": region, "cohorts": cohort}
    print(call(server, token, lambda client: client.post("/v1/tokens", body))["token"])


@app.command
def ls(*, token: Token, server: Url = DEFAULT_URL, output: Format = "table", limit: int = 100) -> None:
    """List tokens, the newest first, also those that let nobody in any more.

    Parameters
    ----------
    limit
        How many, at most.
    """
    show(call(server, token, lambda client: client.get_all("/v1/tokens", "tokens", most=limit)), _COLUMNS, output)


@app.command
def revoke(token_id: str, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """End a token: it lets nobody in from now on.

    Parameters
    ----------
    token_id
        Its id, as `token ls` shows it: what stands after tg_ in the token.
    """
    show([call(server, token, lambda client: client.delete(f"/v1/tokens/{token_id}"))], _COLUMNS, output)


@app.command
def me(*, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Show who one is to the server, and what one may do."""
    columns = ("name", "role", "rights", "regions", "cohorts", "expires_at")
    show([call(server, token, lambda client: client.get("/v1/me"))], columns, output)
