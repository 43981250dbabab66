"""``tidegate token``: API tokens."""

from typing import Literal

from cyclopts import App

from server.cli.client import DEFAULT_URL, Token, Url, call

app = App(name="token", help="Make API tokens.")


@app.command
def create(
    name: str,
    *,
    role: Literal["viewer", "operator", "approver", "releaser", "admin"],
    token: Token,
    server: Url = DEFAULT_URL,
    valid_days: int | None = None,
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
    """
    seconds = None if valid_days is None else valid_days * 86_400
    body = {"name": name, "role": role, "valid_seconds": seconds}
    print(call(server, token, lambda client: client.post("/v1/tokens", body))["token"])
