"""Adding signatures to a root or a status document: who may, what it says, and how many are still missing."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from firmware_store.documents import Kind, add_signature, signed_by
from firmware_store.errors import ForbiddenError
from firmware_store.keys import Kid, PublicKey
from firmware_store.private_files import replace_file
from firmware_store.root import RoleName, Root
from server.cli.ask import confirm, load_signing_key


def sign_document(
    path: Path,
    data: bytes,
    kind: Kind,
    *,
    words: Iterable[str],
    may_sign: Mapping[Kid, PublicKey],
    specs: Sequence[str],
    passphrase_file: Path | None,
    yes: bool,
) -> bytes:
    """Show, ask, sign and replace the file; print the ids of the keys that have signed now.

    Raises:
        ForbiddenError: a key whose signature would not count.
        ConflictError: a key that has signed already; the file is left as it was.
        ConfigurationError: no such key, or the person said no.
    """
    print("About to sign:", *words, sep="\n", file=sys.stderr)
    signers = [load_signing_key(spec, passphrase_file) for spec in specs]
    for signer in signers:
        if signer.public.kid not in may_sign:
            raise ForbiddenError(f"the signature of key {signer.public.kid.hex()} would not count for this {kind}")
    if not yes:
        confirm(f"Sign this {kind} with {len(signers)} key{'s' * (len(signers) != 1)}?")
    for signer in signers:
        data = add_signature(data, kind, signer)
    replace_file(path, data, mode=0o644)
    for signer in signers:
        print(signer.public.kid.hex())
    return data


def count_signatures(data: bytes, kind: Kind, root: Root, role: RoleName) -> str:
    """Return how many of a role's keys have signed a document, in words.

    Raises:
        SignatureError: one of their signatures does not hold.
    """
    count, needed = len(signed_by(data, kind, root.keys_for(role))), root.roles[role].threshold
    missing = "" if count >= needed else f", {needed - count} missing"
    return f"{count} of {needed} signatures by the {role} role of root {root.version}{missing}"
