"""``tidegate keys``: the key files of a fleet."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

app = App(name="keys", help="Make and inspect the keys of a fleet.", version_flags=[])


@app.command
def init(directory: Path, *, dev: bool = False) -> None:
    """Write a complete set of unencrypted development keys and their root document.

    A production configuration refuses them: whoever can read the directory can release anything.

    Parameters
    ----------
    directory
        Where the keys go; it is created, and keys in it are never overwritten.
    dev
        Must be given: it says that you know what these keys are for.
    """
    import sys
    import time

    from firmware_store.errors import ConfigurationError
    from firmware_store.root import ROOT_FILE, RoleName, init_dev_keys

    if not dev:
        raise ConfigurationError("these keys are unencrypted and all in one place: say --dev if that is what you want")
    root = init_dev_keys(directory, fleet=None, now=int(time.time()))
    thresholds = ", ".join(f"{root.roles[name].threshold} {name}" for name in RoleName)
    print(f"Development keys for fleet {root.fleet.hex()}: {thresholds}. Not for production.", file=sys.stderr)
    print(directory / ROOT_FILE)


@app.command
def new(
    role: Literal["root", "release", "status", "directive", "session"],
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    algorithm: Literal["ed25519", "esp256"] = "ed25519",
    passphrase_file: Path | None = None,
) -> None:
    """Write a new key, encrypted, and its public half beside it. Prints the public file, for ``root new``.

    Parameters
    ----------
    role
        What the key is for; only the root document gives it that role.
    output
        The private key's file, such as release-1.pem; its public half goes to release-1.pub.pem. Neither may exist.
        Without it, both are named after the role and the key's id.
    algorithm
        Ed25519, or ECDSA on P-256 for tokens that know nothing else.
    passphrase_file
        Where the passphrase is; without it, you are asked twice.
    """
    import sys

    from firmware_store.errors import ConflictError
    from firmware_store.keys import Algorithm, SigningKey, save_key
    from firmware_store.private_files import write_new_file
    from server.cli.ask import new_passphrase

    key = SigningKey.generate(Algorithm[algorithm.upper()])
    private = Path(f"{role}-{key.public.kid.hex()[:8]}.pem") if output is None else output
    public = private.with_name(f"{private.stem}.pub.pem")
    if public.exists():
        raise ConflictError(f"{public} exists and is not overwritten")
    save_key(private, key, new_passphrase(private, passphrase_file))
    write_new_file(public, key.public.to_pem(), mode=0o644)
    print(f"Key {key.public.kid.hex()} for the {role} role: {private} is secret, {public} is not.", file=sys.stderr)
    print(public)


@app.command
def show(file: Path, *, passphrase_file: Path | None = None) -> None:
    """Print a key's id, its algorithm and its public half.

    Parameters
    ----------
    file
        A private key's file, or a public key's.
    passphrase_file
        Where the passphrase of an encrypted key is; without it, you are asked.
    """
    from firmware_store.keys import load_public_key
    from server.cli.ask import load_signing_key, read_file
    from server.cli.words import line

    is_public = b"-----BEGIN PUBLIC KEY-----" in read_file(file)
    key = load_public_key(file) if is_public else load_signing_key(file, passphrase_file).public
    print(line("key id", key.kid.hex()))
    print(line("algorithm", key.algorithm.name))
    print(line("file", "public" if is_public else "private: keep it secret"))
    print(key.to_pem().decode(), end="")


@app.command
def rotate(
    root: Path,
    *,
    replace: str,
    by: Path,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    stolen: Annotated[bool, Parameter(negative=())] = False,
    days: int = 365,
) -> None:
    """Write the next root document, with one key in the place of another; it has yet to be signed (``root sign``).

    Parameters
    ----------
    root
        The root document that is in force.
    replace
        The id of the key that goes, 32 hexadecimal digits.
    by
        The public file of the key that comes.
    output
        The file to write; it must not exist.
    stolen
        The old key is lost or in the wrong hands: it never counts again, and the counters of its role start over.
    days
        How long the new document is valid.
    """
    import sys
    import time

    from firmware_store.documents import Kind, seal
    from firmware_store.keys import KID_BYTES, Kid, load_public_key
    from firmware_store.private_files import write_new_file
    from firmware_store.root import open_root
    from firmware_store.root_walk import replace_key
    from server.cli.ask import parse_hex, read_file
    from server.cli.root_plan import DAY_S
    from server.cli.words import describe_root

    before, now = open_root(read_file(root), now=None), int(time.time())
    old = Kid(parse_hex(replace, "a key id", KID_BYTES))
    after = replace_key(before, old, load_public_key(by), stolen=stolen, issued=now, expires=now + days * DAY_S)
    write_new_file(output, seal(Kind.ROOT, after.payload(), []), mode=0o644)
    print(f"{output}, not signed yet:", *describe_root(after, before), sep="\n", file=sys.stderr)
    print(output)
