"""``tidegate bundle``: releases on the machine of whoever builds or signs them; only ``push`` talks to a server."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="bundle", help="Build, sign, verify and show bundles.", version_flags=[])

app.command("server.cli.push:push", name="push", help="Upload a signed bundle and print its id.")

_Several = Parameter(consume_multiple=True, negative=())
_Flag = Parameter(negative=())


@app.command
def build(
    *,
    component: Annotated[list[str], _Several],
    vendor: str,
    class_: Annotated[list[str], Parameter(name="--class", consume_multiple=True, negative=())],
    version: str,
    sequence: int,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    chunks: Annotated[list[str] | None, _Several] = None,
    description: str | None = None,
) -> None:
    """Cut images into chunks and write an unsigned bundle. Prints the manifest's digest.

    Parameters
    ----------
    component
        An image as NAME=PATH, such as app=build/app.bin; once for each component, in the order of installation. An
        image that only runs from one slot is NAME@SLOT=PATH, such as app@a=app-a.bin app@b=app-b.bin.
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
    chunks
        Where images are cut: "fixed" every 16 KiB (the default), "fixed-4k" every 4 KiB (where devices have little
        memory), or "cdc" where the content says so (for images in which things move: archives, file systems, programs
        linked anew). As NAME=KIND for one component.
    description
        What the release is about; it is signed, and devices do not get it.
    """
    import sys

    from firmware_store.bundle import build_bundle
    from firmware_store.suit import parse_version
    from server.cli.components import parse_images, parse_profiles
    from server.cli.words import describe

    images = parse_images(component)
    manifest = build_bundle(
        output,
        images=images,
        profiles=parse_profiles(chunks or [], images),
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
    file: Path | None = None,
    *,
    key: Annotated[list[str], _Several],
    digest: str | None = None,
    detached: Path | None = None,
    passphrase_file: Path | None = None,
    yes: Annotated[bool, _Flag] = False,
) -> None:
    """Add signatures to a bundle, or write one to a file of its own, after showing what they are for.

    Parameters
    ----------
    file
        The bundle file; it is replaced once all keys have signed. With --detached, its envelope alone is enough
        (``bundle envelope``), and it is left as it is.
    key
        A release key's file, or "command:PUBLIC-KEY-FILE PROGRAM ARGUMENT..."; once for each key.
    digest
        The manifest's digest, where neither the bundle nor its envelope is at hand; whoever signs trusts that it is
        the right one.
    detached
        Write the signature to this new file, for ``bundle attach`` on the machine where the bundle is.
    passphrase_file
        Where the passphrase of the encrypted keys is; without it, you are asked.
    yes
        Do not ask: for machines that were told to sign.
    """
    import sys

    from firmware_store.bundle import replace_envelope
    from firmware_store.errors import InvalidInputError
    from firmware_store.private_files import write_new_file
    from firmware_store.suit import open_envelope, sign_digest, sign_envelope
    from firmware_store.suit_values import DIGEST_BYTES
    from server.cli.ask import confirm, load_signing_key, parse_hex
    from server.cli.detached import read_any_envelope
    from server.cli.words import describe, line

    if (file is None) == (digest is None):
        raise InvalidInputError("name either the bundle or, with --detached, a --digest")
    if detached is None and file is None:
        raise InvalidInputError("the signature of a digest needs a file of its own: name it with --detached")
    if detached is not None and len(key) != 1:
        raise InvalidInputError("a detached signature is by one key: sign once for each")
    content = b"" if file is None else read_any_envelope(file)
    if digest is not None:
        manifest_digest = parse_hex(digest, "a manifest's digest", DIGEST_BYTES)
        words = [line("manifest digest", digest), "What else this release says cannot be shown here."]
    else:
        manifest, description = open_envelope(content).read()
        manifest_digest = manifest.digest
        words = list(describe(manifest, description))
    print("About to sign:", *words, sep="\n", file=sys.stderr)
    signers = [load_signing_key(spec, passphrase_file) for spec in key]
    if not yes:
        confirm(f"Sign this release with {len(signers)} key{'s' * (len(signers) != 1)}?")
    if detached is not None:
        write_new_file(detached, sign_digest(manifest_digest, signers[0]), mode=0o644)
    elif file is not None:
        for signer in signers:
            content = sign_envelope(content, signer)
        replace_envelope(file, content)
    for signer in signers:
        print(signer.public.kid.hex())


@app.command
def envelope(file: Path, *, output: Annotated[Path, Parameter(name=["--output", "-o"])]) -> None:
    """Write the envelope of a bundle to a file of its own: a few hundred bytes to carry to where the keys are.

    Parameters
    ----------
    file
        The bundle file.
    output
        The file to write; it must not exist.
    """
    from firmware_store.bundle import read_envelope
    from firmware_store.private_files import write_new_file

    write_new_file(output, read_envelope(file), mode=0o644)
    print(output)


@app.command
def attach(file: Path, *, signature: Annotated[list[Path], _Several], root: Path | None = None) -> None:
    """Add signatures that were made elsewhere with ``bundle sign --detached``.

    Parameters
    ----------
    file
        The bundle file; it is replaced once all signatures are in.
    signature
        A file with a signature; once for each.
    root
        The root document: with it, a signature that is not by a release key, or does not hold, is refused here and
        not only by the server.
    """
    import sys

    from firmware_store.bundle import read_envelope, replace_envelope
    from firmware_store.cose import claimed_kid
    from firmware_store.root import RoleName, open_root
    from firmware_store.suit import attach_signature
    from server.cli.ask import read_file

    keys = None if root is None else open_root(read_file(root), now=None).keys_for(RoleName.RELEASE)
    content = read_envelope(file)
    blocks = [read_file(path) for path in signature]
    for block in blocks:
        content = attach_signature(content, block, keys=keys)
    replace_envelope(file, content)
    if keys is None:
        print("The signatures were not verified: name a --root, or use bundle verify.", file=sys.stderr)
    for block in blocks:
        print(claimed_kid(block).hex())


@app.command
def verify(file: Path, *, root: Path, status: Path | None = None) -> None:
    """Check a bundle as the server and the devices do: signatures, scope, and every byte of every image.

    Parameters
    ----------
    file
        The bundle file.
    root
        The root document that says whose signatures count.
    status
        The status document that says what has been taken back.
    """
    import asyncio
    import time

    from firmware_store.bundle import verify_bundle
    from firmware_store.root import RoleName, open_root
    from firmware_store.status import open_status
    from firmware_store.suit import format_version
    from server.cli.ask import read_file

    now = int(time.time())
    trust = open_root(read_file(root), now=now)
    known = None if status is None else open_status(trust, read_file(status), now=now)
    received = asyncio.run(verify_bundle(file, trust, status=known))
    manifest, kids = received.verified.manifest, received.verified.kids
    if known is not None:
        known.check(manifest, kids, threshold=trust.roles[RoleName.RELEASE].threshold)
    print(
        f"{file} holds: version {format_version(manifest.version)}, sequence number {manifest.sequence_number}, "
        f"signed by {len(kids)} release keys (needed: {trust.roles[RoleName.RELEASE].threshold}), "
        f"{len(manifest.components)} components in {len(received.blobs)} blobs, all intact"
    )


@app.command
def show(file: Path, *, root: Path | None = None, status: Path | None = None) -> int:
    """Print what a bundle says, as words and as a tree, who signed it, and what each check says.

    No image byte is read: ``bundle verify`` does that. Exit code 1 if a check says no.

    Parameters
    ----------
    file
        The bundle file, or its envelope.
    root
        The root document that says whose signatures count.
    status
        The status document that says what has been taken back.
    """
    from contextlib import suppress

    from firmware_store.errors import ManifestError
    from firmware_store.root import open_root
    from firmware_store.suit import open_envelope
    from server.cli.ask import read_file
    from server.cli.checks import describe_signers, envelope_checks, print_checks
    from server.cli.detached import read_any_envelope
    from server.cli.envelope_tree import draw, envelope_tree
    from server.cli.words import describe, line

    content = read_any_envelope(file)
    opened = open_envelope(content)
    trust = None if root is None else open_root(read_file(root), now=None)
    with suppress(ManifestError):  # the check of the profile says so below
        print(*describe(*opened.read()), sep="\n")
    print("", *draw(envelope_tree(opened)), "", *describe_signers(opened, trust), sep="\n")
    code = print_checks(envelope_checks(content, trust, None if status is None else read_file(status)))
    print(line("images", "--  not read here: bundle verify reads every byte of them"))
    return code
