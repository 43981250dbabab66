"""Orders to campaigns. Some act on what a person has seen: that is shown first, and sent along with the order."""

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from server.cli.ask import agree
from server.cli.client import Client, call

Yes = Annotated[bool, Parameter(negative="", help="Do not ask.")]


def give_order(order: str, campaign: str, reason: str, server: str, token: str, **further: bool | str) -> None:
    """Give an order that is right whatever has happened meanwhile, and print the state that follows."""
    body = _body(reason, further)
    answer = call(server, token, lambda client: client.post(f"/v1/campaigns/{campaign}/{order}", body))
    print(answer["state"])


def look_and_order(
    order: str, campaign: str, reason: str, server: str, token: str, *, yes: bool, **further: bool | int
) -> None:
    """Show the campaign, ask, and give an order that is refused if the campaign has changed meanwhile.

    Raises:
        StaleError: it has.
        ConfigurationError: the answer is no.
    """

    async def act(client: Client) -> Any:
        path = f"/v1/campaigns/{campaign}"
        seen, tag = await client.look(path)
        print(_sentence(seen), file=sys.stderr)
        if not yes:
            agree(f"{order.capitalize()} it?")
        return await client.post(f"{path}/{order}", _body(reason, further), seen=tag)

    print(call(server, token, act)["state"])


def _body(reason: str, further: dict[str, Any]) -> dict[str, Any]:
    return {"reason": reason, **{name: value for name, value in further.items() if value}}


def _sentence(seen: dict[str, Any]) -> str:
    wave = "" if seen["wave"] is None else f", wave {seen['wave']} of {len(seen['waves'])}"
    causes = f" ({', '.join(seen['causes'])})" if seen["causes"] else ""
    return f"{seen['name']} is {seen['state']}{causes}{wave}. {seen['sentence']}".rstrip()
