"""``tidegate policy``: policies under a name, for campaigns to refer to."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from server.cli.client import DEFAULT_URL, Client, Token, Url, call
from server.cli.output import Format, show

app = App(name="policy", help="Keep policies under names.")

_COLUMNS = ("name", "version", "reason", "created_by", "created_at")


@app.command
def ls(*, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """List policies, each in its newest version."""
    show(call(server, token, lambda client: client.get_all("/v1/policies", "policies")), _COLUMNS, output)


@app.command(name="show")
def show_one(name: str, *, token: Token, server: Url = DEFAULT_URL, version: int | None = None) -> None:
    """Print a policy as JSON, in its newest version or another one."""
    only = {} if version is None else {"version": version}
    show([call(server, token, lambda client: client.get(f"/v1/policies/{name}", **only))], (), "json")


@app.command
def publish(
    name: str,
    *,
    file: Annotated[Path, Parameter(name=["--file", "-f"], help="YAML or JSON; what it leaves out has its default.")],
    token: Token,
    server: Url = DEFAULT_URL,
    reason: str = "not given",
    output: Format = "table",
) -> None:
    """Keep a policy under a name, or publish its next version. Campaigns that there are keep theirs.

    Parameters
    ----------
    name
        What campaigns call it.
    reason
        Why, or a ticket.
    """
    from firmware_store.errors import InvalidInputError, NotFoundError
    from server.cli.ask import read_file
    from server.domain.plan import Policy
    from server.domain.yaml_text import read_documents, validated

    documents = read_documents(read_file(file), name=str(file))
    if len(documents) != 1:
        raise InvalidInputError(f"{file} has {len(documents)} documents; a policy is one.")
    policy = validated(Policy, documents[0], claim=f"{file} is not a policy").model_dump(mode="json")
    body = {"policy": policy, "reason": reason}

    async def act(client: Client) -> Any:
        try:
            _, tag = await client.look(f"/v1/policies/{name}")
        except NotFoundError:
            return await client.post("/v1/policies", {**body, "name": name})
        return await client.put(f"/v1/policies/{name}", body, seen=tag)

    show([call(server, token, act)], _COLUMNS, output)
