"""``tidegate bundle``: releases on the machine of whoever builds or signs them; only ``push`` talks to a server."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="bundle", help="Build, sign, verify and show bundles.", version_flags=[])

app.command("server.cli.push:push", name="push", help="Upload a signed bundle and print its id.")

_Several = Parameter(consume_multiple=True, negative=())


@app.command
def build(
    *,
    component: Annotated[list[str], _Several],
    vendor: str,
    class_: Annotated[list[str], Parameter(name="--class", consume_multiple=True, negative=())],
    version: str,
    sequence: int,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    description: str | None = None,
) -> None:
    """Cut images into chunks and write an unsigned bundle. Prints the manifest's digest.

    Parameters
    ----------
    component
        An image as NAME=PATH, such as app=build/app.bin; once for each component, in the order of installation.
    vendor
        The vendor's DNS name.
    class_
        A hardware model, with its revision, that the release is for; once for each.
    version
        The version for people, such as 1.2.0 or 1.2.0-rc.1.
    sequence
        The release counter: higher than that of every release before it.
    output
        The bundle file to write.
    description
        What the release is about; it is signed, and devices do not get it.
    """
    import sys

    from firmware_store.bundle import build_bundle
    from firmware_store.suit import parse_version
    from server.cli.words import describe

    manifest = build_bundle(
        output,
        images=_images(component),
        vendor=vendor,
        models=class_,
        version=parse_version(version),
        sequence_number=sequence,
        description=description,
    )
    print(f"{output}, not signed yet:", *describe(manifest, description), sep="\n", file=sys.stderr)
    print(manifest.digest.hex())


@app.command
def sign(
    file: Path,
    *,
    key: Annotated[list[Path], _Several],
    passphrase_file: Path | None = None,
    yes: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Add signatures to a bundle, after showing what they are for.

    Parameters
    ----------
    file
        The bundle file; it is replaced once all keys have signed.
    key
        A release key's file; once for each key.
    passphrase_file
        Where the passphrase of the encrypted keys is; without it, you are asked.
    yes
        Do not ask: for machines that were told to sign.
    """
    import sys

    from firmware_store.bundle import read_envelope, replace_envelope
    from firmware_store.suit import open_envelope, sign_envelope
    from server.cli.ask import confirm, load_signing_key
    from server.cli.words import describe

    envelope = read_envelope(file)
    manifest, description = open_envelope(envelope).read()
    print("About to sign:", *describe(manifest, description), sep="\n", file=sys.stderr)
    signers = [load_signing_key(path, passphrase_file) for path in key]
    if not yes:
        confirm(f"Sign this release with {len(signers)} key{'s' * (len(signers) != 1)}?")
    for signer in signers:
        envelope = sign_envelope(envelope, signer)
    replace_envelope(file, envelope)
    for signer in signers:
        print(signer.public.kid.hex())


@app.command
def verify(file: Path, *, root: Path) -> None:
    """Check a bundle as the server and the devices do: signatures, scope, and every byte of every image.

    Parameters
    ----------
    file
        The bundle file.
    root
        The root document that says whose signatures count.
    """
    import asyncio
    import time

    from firmware_store.bundle import verify_bundle
    from firmware_store.root import RoleName, open_root
    from firmware_store.suit import format_version
    from server.cli.ask import read_file

    trust = open_root(read_file(root), now=int(time.time()))
    received = asyncio.run(verify_bundle(file, trust))
    manifest, kids = received.verified.manifest, received.verified.kids
    print(
        f"{file} holds: version {format_version(manifest.version)}, sequence number {manifest.sequence_number}, "
        f"signed by {len(kids)} release keys (needed: {trust.roles[RoleName.RELEASE].threshold}), "
        f"{len(manifest.components)} components in {len(received.blobs)} blobs, all intact"
    )


@app.command
def show(file: Path) -> None:
    """Print what a bundle says, with nothing verified but that it is readable.

    Parameters
    ----------
    file
        The bundle file.
    """
    from firmware_store.bundle import read_envelope
    from firmware_store.suit import open_envelope
    from server.cli.words import describe

    opened = open_envelope(read_envelope(file))
    manifest, description = opened.read()
    print(*describe(manifest, description), f"signatures       {len(opened.blocks)}, not verified here", sep="\n")


def _images(components: list[str]) -> dict[str, Path]:
    from firmware_store.errors import InvalidInputError

    images: dict[str, Path] = {}
    for argument in components:
        name, separator, path = argument.partition("=")
        if not separator or not path or name in images:
            raise InvalidInputError(f"a component is NAME=PATH, each name once, and not {argument!r}")
        images[name] = Path(path)
    return images
