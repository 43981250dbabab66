"""``tidegate status``: the document that takes releases and keys back, made and signed where the status key is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from firmware_store.status import Status

app = App(name="status", help="Revoke releases and keys, raise floors.", version_flags=[])

app.command("server.cli.trust_push:publish_status", name="publish", help="Give the server a newer status document.")
app.command("server.cli.trust_push:fetch_status", name="fetch", help="Write the status document that the server has.")
app.command("server.cli.trust_push:proposals", name="proposals", help="List what was halted and is not taken back.")
app.command("server.cli.trust_push:decline", name="decline", help="Leave a halted release as it is.")

_Several = Parameter(consume_multiple=True, negative=())
_Flag = Parameter(negative=())
_Output = Annotated[Path, Parameter(name=["--output", "-o"])]


@app.command
def new(*, root: Path, output: _Output, after: Path | None = None, days: int = 7) -> None:
    """Write a status document that has yet to be signed: a first one, or the same as before for another week.

    Parameters
    ----------
    root
        The root document that is in force.
    output
        The file to write; it must not exist.
    after
        The status before this one. Across a change of the role's epoch it is continued with version 1.
    days
        How long the document is valid; one that has expired keeps devices from starting anything.
    """
    import time

    from firmware_store.root import RoleName, open_root
    from firmware_store.status import Status, read_status
    from server.cli.ask import read_file

    now = int(time.time())
    trust = open_root(read_file(root), now=now)
    epoch = trust.roles[RoleName.STATUS].epoch
    status = Status(version=1, issued=now, expires=now + 1, fleet=trust.fleet, epoch=epoch)
    before = None if after is None else read_status(read_file(after))
    _write(status if before is None else _following(before, epoch=epoch), before, output, now=now, days=days)


@app.command
def revoke(
    file: Path,
    *,
    output: _Output,
    bundle: Annotated[list[Path] | None, _Several] = None,
    digest: Annotated[list[str] | None, _Several] = None,
    kid: Annotated[list[str] | None, _Several] = None,
    days: int = 7,
) -> None:
    """Write the next status document, with releases or keys taken back; it has yet to be signed.

    Parameters
    ----------
    file
        The status document that is in force.
    output
        The file to write; it must not exist.
    bundle
        A bundle file whose release is taken back; once for each.
    digest
        The digest of a manifest that is taken back, 64 hexadecimal digits; once for each.
    kid
        The id of a key whose signatures no longer count, 32 hexadecimal digits; once for each.
    days
        How long the document is valid.
    """
    import time
    from dataclasses import replace

    from firmware_store.bundle import read_envelope
    from firmware_store.errors import InvalidInputError
    from firmware_store.keys import KID_BYTES, Kid
    from firmware_store.status import read_status
    from firmware_store.suit import open_envelope
    from firmware_store.suit_values import DIGEST_BYTES
    from server.cli.ask import parse_hex, read_file

    before = read_status(read_file(file))
    digests = {parse_hex(text, "a manifest's digest", DIGEST_BYTES) for text in digest or []}
    digests |= {open_envelope(read_envelope(path)).digest for path in bundle or []}
    kids = {Kid(parse_hex(text, "a key id", KID_BYTES)) for text in kid or []}
    if digests <= before.revoked_digests and kids <= before.revoked_kids:
        raise InvalidInputError("nothing new to revoke: name a --bundle, a --digest or a --kid")
    status = replace(
        _following(before),
        revoked_digests=before.revoked_digests | digests,
        revoked_kids=before.revoked_kids | kids,
    )
    _write(status, before, output, now=int(time.time()), days=days)


@app.command
def floor(
    file: Path,
    *,
    at: Annotated[list[str], _Several],
    output: _Output,
    days: int = 7,
) -> None:
    """Write the next status document, with higher floors; it has yet to be signed.

    Parameters
    ----------
    file
        The status document that is in force.
    at
        The lowest release that may run, as CLASS=NUMBER; a class is a UUID or VENDOR:MODEL. Once for each.
    output
        The file to write; it must not exist.
    days
        How long the document is valid.
    """
    import time
    from dataclasses import replace

    from firmware_store.errors import InvalidInputError
    from firmware_store.status import read_status
    from server.cli.ask import read_file
    from server.cli.root_plan import parse_floors

    before = read_status(read_file(file))
    floors = parse_floors(at)
    if any(number <= before.floors.get(class_id, 0) for class_id, number in floors.items()):
        raise InvalidInputError("a floor only rises: name a higher release")
    status = replace(_following(before), floors={**before.floors, **floors})
    _write(status, before, output, now=int(time.time()), days=days)


@app.command
def sign(
    file: Path,
    *,
    root: Path,
    key: Annotated[list[str], _Several],
    after: Path | None = None,
    passphrase_file: Path | None = None,
    yes: Annotated[bool, _Flag] = False,
) -> None:
    """Sign a status document, after showing what it forbids.

    Parameters
    ----------
    file
        The status document; it is replaced once all keys have signed.
    root
        The root document that is in force.
    key
        A status key's file, or "command:PUBLIC-KEY-FILE PROGRAM ARGUMENT..."; once for each key.
    after
        The status before this one: shows what changes.
    passphrase_file
        Where the passphrase of the encrypted keys is; without it, you are asked.
    yes
        Do not ask: for machines that were told to sign.
    """
    import sys

    from firmware_store.documents import Kind
    from firmware_store.errors import AudienceError, ReplayError
    from firmware_store.root import RoleName, open_root
    from firmware_store.status import read_status
    from server.cli.ask import read_file
    from server.cli.signing import count_signatures, sign_document
    from server.cli.words import describe_status

    data, trust = read_file(file), open_root(read_file(root), now=None)
    status = read_status(data)
    if status.fleet != trust.fleet:
        raise AudienceError("the status of another fleet")
    if status.epoch != trust.roles[RoleName.STATUS].epoch:
        raise ReplayError("a status of another epoch of its role: make a new one with this root")
    data = sign_document(
        file,
        data,
        Kind.STATUS,
        words=describe_status(status, None if after is None else read_status(read_file(after))),
        may_sign=trust.keys_for(RoleName.STATUS),
        specs=key,
        passphrase_file=passphrase_file,
        yes=yes,
    )
    print(count_signatures(data, Kind.STATUS, trust, RoleName.STATUS), file=sys.stderr)


@app.command
def show(file: Path, *, root: Path | None = None, after: Path | None = None) -> int:
    """Print what a status document says; with the root also whether it is in force. Exit code 1 if it is not.

    Parameters
    ----------
    file
        The status document, complete or not.
    root
        The root document that says whose signatures count.
    after
        The status before this one: shows what changes, and checks the order.
    """
    from firmware_store.root import open_root
    from firmware_store.status import read_status
    from server.cli.ask import read_file
    from server.cli.checks import print_checks, status_checks
    from server.cli.words import describe_status, line

    data = read_file(file)
    before = None if after is None else read_status(read_file(after))
    print(*describe_status(read_status(data), before), sep="\n")
    if root is None:
        print(line("signatures", "not verified here: name a --root"))
        return 0
    return print_checks(status_checks(data, open_root(read_file(root), now=None), before))


def _following(before: "Status", *, epoch: int | None = None) -> "Status":
    from dataclasses import replace

    if epoch is None or epoch == before.epoch:
        return replace(before, version=before.version + 1)
    return replace(before, version=1, epoch=epoch)


def _write(status: "Status", before: "Status | None", output: Path, *, now: int, days: int) -> None:
    import sys
    from dataclasses import replace

    from firmware_store.documents import Kind, seal
    from firmware_store.private_files import write_new_file
    from server.cli.root_plan import DAY_S
    from server.cli.words import describe_status

    status = replace(status, issued=now, expires=now + days * DAY_S)
    write_new_file(output, seal(Kind.STATUS, status.payload(), []), mode=0o644)
    print(f"{output}, not signed yet:", *describe_status(status, before), sep="\n", file=sys.stderr)
    print(output)
