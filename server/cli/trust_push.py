"""``tidegate root publish``, ``tidegate status publish`` and what goes with them: trust documents and a server."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from server.cli.client import DEFAULT_URL, Client, Token, Url, call
from server.cli.output import Format, show

_Output = Annotated[Path, Parameter(name=["--output", "-o"])]

_PROPOSALS = ("id", "state", "manifest_digest", "campaign", "proposed_at", "sentence")


def publish_root(*files: Path, token: Token, server: Url = DEFAULT_URL) -> None:
    """Give the server a root document that follows the one it has; devices get it by themselves.

    The server must be able to sign under it: where it replaces the directive or the session key, put the new key where
    the server finds it first. Several documents are published in their order.

    Parameters
    ----------
    files
        Root documents, signed by the thresholds of the root before and of their own.
    """
    _publish(files, "/v1/trust/root", "application/tidegate-root+cbor", token, server)


def publish_status(file: Path, *, token: Token, server: Url = DEFAULT_URL) -> None:
    """Give the server a newer status document. Campaigns whose release it takes back are halted at once.

    Parameters
    ----------
    file
        A status document, signed by the status key.
    """
    _publish((file,), "/v1/trust/status", "application/tidegate-status+cbor", token, server)


def fetch_root(*, output: _Output, version: int | None = None, token: Token, server: Url = DEFAULT_URL) -> None:
    """Write the root document that the server has, for whoever is to make the next one.

    Parameters
    ----------
    output
        The file to write; it must not exist.
    version
        Which one; without it, the newest.
    """
    _fetch("/v1/trust/root" if version is None else f"/v1/trust/root/{version}", output, token, server)


def fetch_status(*, output: _Output, token: Token, server: Url = DEFAULT_URL) -> None:
    """Write the status document that the server has, for whoever is to make the next one.

    Parameters
    ----------
    output
        The file to write; it must not exist.
    """
    _fetch("/v1/trust/status", output, token, server)


def proposals(*, every: bool = False, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """List the releases that were halted and that somebody should take back, or decline to.

    Parameters
    ----------
    every
        Those that are settled, too.
    """
    only = {} if every else {"state": "proposed"}
    rows = call(server, token, lambda client: client.get_all("/v1/trust/revocations", "revocations", only))
    show(rows, _PROPOSALS, output)


def decline(proposal: str, *, reason: str, token: Token, server: Url = DEFAULT_URL) -> None:
    """Leave a release that was halted as it is, and stop the reminders.

    Parameters
    ----------
    proposal
        Its id, as ``proposals`` lists it.
    reason
        Why it is not taken back.
    """
    path = f"/v1/trust/revocations/{proposal}/decline"
    print(call(server, token, lambda client: client.post(path, {"reason": reason}))["state"])


def _publish(files: tuple[Path, ...], path: str, media_type: str, token: str, server: str) -> None:
    from firmware_store.errors import InvalidInputError

    if not files:
        raise InvalidInputError("name the document to publish")
    for file in files:
        if not file.is_file():
            raise InvalidInputError(f"There is no file {file}.")

    async def send(client: Client) -> list[dict[str, Any]]:
        return [await client.upload(path, file, media_type) for file in files]

    for file, answer in zip(files, call(server, token, send), strict=True):
        _say(file, answer)


def _say(file: Path, answer: dict[str, Any]) -> None:
    import sys

    known = "" if answer["is_new"] else ", which it had already"
    print(f"{file}: the server has version {answer['version']}{known}, until {answer['expires_at']}", file=sys.stderr)
    if answer["is_expired"]:
        print("It has expired: nothing is offered until the next one is published.", file=sys.stderr)
    for campaign in answer["halted"]:
        print(campaign)


def _fetch(path: str, output: Path, token: str, server: str) -> None:
    from firmware_store.private_files import write_new_file

    write_new_file(output, call(server, token, lambda client: client.get_bytes(path)), mode=0o644)
    print(output)
