"""``tidegate root``: the document that says whose signatures count, made and signed where its keys are."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="root", help="Make, sign and check the trust root.", version_flags=[])

app.command("server.cli.trust_push:publish_root", name="publish", help="Give the server the next root document.")
app.command("server.cli.trust_push:fetch_root", name="fetch", help="Write the root document that the server has.")

_Several = Parameter(consume_multiple=True, negative=())
_Flag = Parameter(negative=())
_Output = Parameter(name=["--output", "-o"])


@app.command
def new(
    *,
    output: Annotated[Path, _Output],
    key: Annotated[list[str] | None, _Several] = None,
    after: Path | None = None,
    fleet: str | None = None,
    threshold: Annotated[list[str] | None, _Several] = None,
    scope: Annotated[list[str] | None, _Several] = None,
    floor: Annotated[list[str] | None, _Several] = None,
    stolen: Annotated[list[str] | None, _Several] = None,
    days: int = 365,
    dev: Annotated[bool, _Flag] = False,
) -> None:
    """Write a root document that has yet to be signed: the first one of a fleet, or the one after another.

    Parameters
    ----------
    output
        The file to write; it must not exist.
    key
        A public key as ROLE=FILE, once for each; the roles are root, release, status, directive and session. After
        another root, they replace all keys of their role.
    after
        The root before this one. What is not said here stays as it is there.
    fleet
        The fleet's id, 32 hexadecimal digits; random where it is not given.
    threshold
        How many keys of a role must sign, as ROLE=NUMBER: otherwise 2 for root and release (1 for development
        keys), and 1 for the others.
    scope
        What the release keys may sign, as PREFIX,PREFIX@CLASS,CLASS; either side may be empty, which stands for all.
    floor
        The lowest release that may run, as CLASS=NUMBER; a class is a UUID or VENDOR:MODEL.
    stolen
        The id of a key that is never to count again; the counters of its role start over.
    days
        How long the document is valid.
    dev
        For development keys: one key is enough for any role, and a production configuration refuses the fleet.
    """
    import sys
    import time

    from firmware_store.documents import Kind, seal
    from firmware_store.private_files import write_new_file
    from firmware_store.root import open_root
    from server.cli.ask import read_file
    from server.cli.root_plan import RootPlan, plan_root
    from server.cli.words import describe_root

    before = None if after is None else open_root(read_file(after), now=None)
    plan = RootPlan(
        keys=key or [],
        thresholds=threshold or [],
        scopes=scope or [],
        floors=floor or [],
        stolen=stolen or [],
        fleet=fleet,
        dev=dev,
    )
    root = plan_root(plan, before, now=int(time.time()), days=days)
    write_new_file(output, seal(Kind.ROOT, root.payload(), []), mode=0o644)
    print(f"{output}, not signed yet:", *describe_root(root, before), sep="\n", file=sys.stderr)
    print(output)


@app.command
def sign(
    file: Path,
    *,
    key: Annotated[list[str], _Several],
    after: Path | None = None,
    passphrase_file: Path | None = None,
    yes: Annotated[bool, _Flag] = False,
) -> None:
    """Add signatures to a root document, after showing what it says and what it changes.

    Parameters
    ----------
    file
        The root document; it is replaced once all keys have signed.
    key
        A root key's file, or "command:PUBLIC-KEY-FILE PROGRAM ARGUMENT..."; once for each key. The keys of the root
        before this one must sign too.
    after
        The root before this one; needed from version 2 on.
    passphrase_file
        Where the passphrase of the encrypted keys is; without it, you are asked.
    yes
        Do not ask: for machines that were told to sign.
    """
    import sys

    from firmware_store.documents import Kind
    from firmware_store.errors import InvalidInputError
    from firmware_store.root import RoleName, open_root, read_root
    from firmware_store.root_walk import check_succession
    from server.cli.ask import read_file
    from server.cli.signing import count_signatures, sign_document
    from server.cli.words import describe_root

    data = read_file(file)
    root = read_root(data)
    before = None if after is None else open_root(read_file(after), now=None)
    if before is not None:
        check_succession(before, root)
    elif root.version > 1:
        raise InvalidInputError(
            f"this is root {root.version}: name the one before it with --after, to see what changes"
        )
    roots = [root] if before is None else [before, root]
    data = sign_document(
        file,
        data,
        Kind.ROOT,
        words=describe_root(root, before),
        may_sign={kid: one for each in roots for kid, one in each.keys_for(RoleName.ROOT).items()},
        specs=key,
        passphrase_file=passphrase_file,
        yes=yes,
    )
    for each in roots:
        print(count_signatures(data, Kind.ROOT, each, RoleName.ROOT), file=sys.stderr)


@app.command
def show(file: Path, *, after: Path | None = None) -> None:
    """Print what a root document says and how many have signed it, complete or not.

    Parameters
    ----------
    file
        The root document.
    after
        The root before this one: shows what changes, and counts the signatures of its keys.
    """
    from firmware_store.documents import Kind
    from firmware_store.root import RoleName, open_root, read_root
    from server.cli.ask import read_file
    from server.cli.signing import count_signatures
    from server.cli.words import describe_root, line

    data = read_file(file)
    root = read_root(data)
    before = None if after is None else open_root(read_file(after), now=None)
    print(*describe_root(root, before), sep="\n")
    for each in [root] if before is None else [before, root]:
        print(line("signatures", count_signatures(data, Kind.ROOT, each, RoleName.ROOT)))


@app.command
def verify(file: Path, *following: Path) -> None:
    """Check root documents as devices do: each by its own keys, and each one after the first by those before it.

    Parameters
    ----------
    file
        The root that is trusted already, because you know where it comes from.
    following
        The roots after it, in their order.
    """
    import time

    from firmware_store.root import open_root
    from firmware_store.root_walk import verify_successor
    from server.cli.ask import read_file
    from server.cli.words import describe_period

    path, root = file, open_root(read_file(file), now=None)
    for path in following:
        root = verify_successor(root, read_file(path))
    root.check_time(int(time.time()))
    print(f"{path} holds: root {root.version} of fleet {root.fleet.hex()}, valid {describe_period(root)}")
