"""What each check of a signed thing says: the same calls that the server and the devices make, one line for each."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from firmware_store.cose import claimed_kid, verify1
from firmware_store.documents import Kind
from firmware_store.errors import SignatureError, TidegateError
from firmware_store.keys import Kid
from firmware_store.root import RoleName, Root
from firmware_store.status import Status, open_status
from firmware_store.suit import OpenEnvelope, open_envelope, verify_envelope
from server.cli.signing import count_signatures
from server.cli.words import describe_period, line

_VERDICTS: Final = {True: "ok", False: "NO", None: "--"}


@dataclass(frozen=True, slots=True)
class Check:
    """``passed`` is None for what was not looked at."""

    name: str
    passed: bool | None
    detail: str


def print_checks(checks: Iterable[Check]) -> int:
    """Print one line for each check, and return the exit code: 1 if one of them failed."""
    failed = False
    for check in checks:
        print(line(check.name, f"{_VERDICTS[check.passed]}  {check.detail}"))
        failed |= check.passed is False
    return int(failed)


def envelope_checks(data: bytes, root: Root | None, status: bytes | None) -> Iterator[Check]:
    """Yield what each check says of an envelope that can be taken apart; ``status`` is the bytes of a document."""
    opened = open_envelope(data)
    yield Check("envelope", True, f"{len(data):,} bytes of strict CBOR, whose digest is that of the manifest")
    yield _attempt("profile", opened.read, "the manifest is one that devices know how to follow")
    if root is None:
        yield Check("signatures", None, f"{len(opened.blocks)}, not verified here: name a --root")
        return
    words = f"version {root.version}, valid {describe_period(root)}"
    yield _attempt("root", lambda: root.check_time(int(time.time())), words)
    yield _check_signatures(opened, root)
    yield _attempt("release", lambda: verify_envelope(data, root), "signed by enough release keys, within their scope")
    if status is None:
        yield Check("status", None, "not looked at: name a --status")
        return
    yield from status_checks(status, root)
    words = "the release is not revoked, nor are its keys, and it is not below a floor"
    yield _attempt("in force", lambda: _check_in_force(data, root, status), words)


def status_checks(data: bytes, root: Root, before: Status | None = None) -> Iterator[Check]:
    """Yield what each check says of a status document."""
    yield _attempt(
        "status",
        lambda: open_status(root, data, now=int(time.time()), newest=before),
        "signed by the status role, and valid now",
    )
    yield _attempt_words("signed", lambda: count_signatures(data, Kind.STATUS, root, RoleName.STATUS))


def describe_signers(opened: OpenEnvelope, root: Root | None) -> Iterator[str]:
    """Yield one line for each signature: whose it is, and whether it holds."""
    for block in opened.blocks:
        try:
            kid = claimed_kid(block)
        except SignatureError as exc:
            yield line("signer", f"unknown: {exc}")
            continue
        yield line("signer", f"{kid.hex()} {_describe_signature(block, kid, opened, root)}")


def _describe_signature(block: bytes, kid: Kid, opened: OpenEnvelope, root: Root | None) -> str:
    if root is None:
        return "by its own account"
    key = root.keys.get(kid)
    if key is None:
        return "is no key of this root"
    name = next(name for name, role in root.roles.items() if kid in role.kids)
    dead = ", DEAD" if kid in root.dead_kids else ""
    try:
        verify1(block, opened.signed, {kid: key}, typ=None)
    except SignatureError as exc:
        return f"{key.algorithm.name}, {name} key{dead}: DOES NOT HOLD, {exc}"
    return f"{key.algorithm.name}, {name} key{dead}, holds"


def _check_signatures(opened: OpenEnvelope, root: Root) -> Check:
    needed = root.roles[RoleName.RELEASE].threshold
    try:
        count = len(opened.kids(root))
    except SignatureError as exc:
        return Check("signatures", False, str(exc))
    return Check("signatures", count >= needed, f"{count} by release keys of root {root.version}, {needed} needed")


def _check_in_force(data: bytes, root: Root, status: bytes) -> None:
    known = open_status(root, status)
    verified = verify_envelope(data, root, status=known)
    known.check(verified.manifest, verified.kids, threshold=root.roles[RoleName.RELEASE].threshold)


def _attempt(name: str, check: Callable[[], object], detail: str) -> Check:
    try:
        check()
    except TidegateError as exc:
        return Check(name, False, str(exc))
    return Check(name, True, detail)


def _attempt_words(name: str, count: Callable[[], str]) -> Check:
    try:
        return Check(name, None, count())
    except TidegateError as exc:
        return Check(name, False, str(exc))
