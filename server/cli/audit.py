"""``tidegate audit``: who has changed what, and whether the record of it is whole."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from firmware_store.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    SignatureError,
    StoreUnavailableError,
)
from server.cli.client import DEFAULT_URL, Client, Token, Url, call
from server.cli.output import Format, show

app = App(name="audit", help="See who has changed what.")

_COLUMNS = ("seq", "at", "who", "what", "object", "reason")

Instant = Annotated[str | None, Parameter(help="An instant, such as 2026-03-01T12:00:00Z.")]


@app.command
def ls(
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    who: str | None = None,
    what: str | None = None,
    object: str | None = None,  # noqa: A002 - the option is called what the column is
    since: Instant = None,
    until: Instant = None,
    limit: int = 100,
    output: Format = "table",
) -> None:
    """List what was changed, the newest first.

    Parameters
    ----------
    who
        By whom: a token's name, or a part of the server, such as orchestrator.
    what
        What was done, such as campaign.halt.
    object
        To what: an id as it is shown elsewhere.
    limit
        How many rows at most.
    """
    given = {"who": who, "what": what, "object": object, "since": since, "until": until}
    query = {name: value for name, value in given.items() if value is not None}
    rows = call(server, token, lambda client: client.get_all("/v1/audit", "rows", query, most=limit))
    show(rows, _COLUMNS, output)


@app.command
def verify(
    file: Path | None = None,
    *,
    token: Annotated[str | None, Parameter(env_var="TIDEGATE_TOKEN", help="an API token")] = None,
    server: Url = DEFAULT_URL,
    root: Path | None = None,
) -> int:
    """Say whether every row is as it was written; if not, which is the first that is not. Exit code 1 then.

    Parameters
    ----------
    file
        An exported audit: it is checked here, and no server is asked. Without it, the server checks its own.
    root
        The trust root that you know, as devices pin it: the file has to be of its fleet.
    """
    if file is not None:
        return _verify_file(file, root)
    if token is None:
        raise InvalidInputError("Name an exported file, or give a token for the server.")
    report = call(server, token, _verified)
    for sentence in report["restores"]:
        print(sentence)
    if report["first_bad"] is not None:
        print(f"row {report['first_bad']}: {report['why']}")
        return 1
    print(
        f"{report['seen']} rows are as they were written, and agree with {report['checkpoints']} signed checkpoints, "
        f"the newest at row {report['newest_checkpoint']}."
    )
    return 0


@app.command
def export(*, out: Path, token: Token, server: Url = DEFAULT_URL) -> None:
    """Write all rows to a file that `tidegate audit verify FILE` checks without the server.

    Parameters
    ----------
    out
        The file; it must not exist.
    """
    if out.exists():
        raise ConflictError(f"{out} exists and is not overwritten")
    call(server, token, lambda client: _download(client, out))
    print(out)


async def _verified(client: Client) -> Any:
    last: Any = None
    async for line in client.post_lines("/v1/audit/verify", {}):
        last = line
    if last is None or not last["complete"]:
        raise StoreUnavailableError("The server broke off; its log says why.")
    return last


async def _download(client: Client, out: Path) -> None:
    partial = out.with_name(f"{out.name}.partial")
    try:
        with partial.open("wb") as file:
            async for piece in client.get_pieces("/v1/audit/export"):
                file.write(piece)
        partial.rename(out)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {out}: {exc.strerror}") from exc
    finally:
        partial.unlink(missing_ok=True)


def _verify_file(file: Path, root: Path | None) -> int:
    from datetime import UTC, datetime
    from hashlib import sha256

    from server.cli.ask import read_file
    from server.domain.audit_file import check_file

    try:
        with file.open(encoding="utf-8", newline="\n") as lines:
            checked = check_file(lines)
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInputError(f"cannot read {file}: {exc}") from exc
    if root is not None and read_file(root) != checked.pinned:
        raise SignatureError(f"This file begins with another root than {root}: it is not of that fleet.")
    if checked.fault is not None:
        print(f"row {checked.fault.seq}: {checked.fault.why}")
        return 1
    at = datetime.fromtimestamp(checked.checkpoint.at, UTC)
    print(f"{checked.rows} rows are as they were written; signed at {at:%Y-%m-%d %H:%M:%S} UTC.")
    if root is None:
        print(f"Whose signature? Root {sha256(checked.pinned).hexdigest()}: check that it is yours, or give --root.")
    return 0
