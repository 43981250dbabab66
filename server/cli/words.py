"""Signed things in words, for whoever is about to sign them or wants to know what was signed."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from firmware_store.keys import Kid
from firmware_store.roles import Role
from firmware_store.root import RoleName, Root
from firmware_store.status import Status
from firmware_store.suit import ChunkProfile, Component, Manifest, format_version

SLOT_LETTERS: Final = "abcdefgh"
CHUNKS: Final = {ChunkProfile.FIXED: "fixed", ChunkProfile.CDC: "cdc", ChunkProfile.FIXED_4K: "fixed-4k"}


def describe(manifest: Manifest, description: str | None) -> Iterator[str]:
    """Yield one line for each thing that a release says."""
    yield line("version", format_version(manifest.version))
    yield line("sequence number", str(manifest.sequence_number))
    if description is not None:
        yield line("description", printable(description))
    yield line("vendor", str(UUID(bytes=manifest.vendor_id)))
    for class_id in manifest.class_ids:
        yield line("class", str(UUID(bytes=class_id)))
    for component in manifest.components:
        for slot, image in component.images().items():
            yield line("component", _describe_image(image, slot))
    yield line("manifest digest", manifest.digest.hex())


def describe_root(root: Root, before: Root | None = None) -> Iterator[str]:
    """Yield one line for each thing that a root says; with the root ``before`` it, marked where it differs."""
    yield line("root", f"version {root.version} for fleet {root.fleet.hex()}")
    if root.dev:
        yield line("", "DEVELOPMENT KEYS: whoever could read their folder can sign anything")
    yield line("valid", describe_period(root))
    for name in RoleName:
        yield from _describe_role(root, name, before)
    for class_id, floor in sorted(root.floors.items()):
        known = before is None or before.floors.get(class_id) == floor
        yield line("floor", f"{floor} for class {UUID(bytes=class_id)}{_mark(known)}")
    for kid in sorted(root.dead_kids):
        yield line("dead key", kid.hex() + _mark(before is None or kid in before.dead_kids))
    if before is not None:
        for kid in sorted(before.keys.keys() - root.keys.keys()):
            yield line("no longer", f"key {kid.hex()} of the {_role_of(before, kid)} role")


def describe_status(status: Status, before: Status | None = None) -> Iterator[str]:
    """Yield one line for each thing that a status says; with the one ``before`` it, marked where it differs."""
    known = status if before is None else before
    yield line("status", f"version {status.version}, epoch {status.epoch}, for fleet {status.fleet.hex()}")
    yield line("valid", describe_period(status))
    for digest in sorted(status.revoked_digests):
        yield line("revoked release", digest.hex() + _mark(digest in known.revoked_digests))
    for kid in sorted(status.revoked_kids):
        yield line("revoked key", kid.hex() + _mark(kid in known.revoked_kids))
    for class_id, floor in sorted(status.floors.items()):
        yield line("floor", f"{floor} for class {UUID(bytes=class_id)}{_mark(known.floors.get(class_id) == floor)}")
    for digest in sorted(known.revoked_digests - status.revoked_digests):
        yield line("NO LONGER", f"revoked: release {digest.hex()}")
    for kid in sorted(known.revoked_kids - status.revoked_kids):
        yield line("NO LONGER", f"revoked: key {kid.hex()}")
    for class_id in sorted(
        class_id for class_id, floor in known.floors.items() if status.floors.get(class_id, 0) < floor
    ):
        yield line("LOWER FLOOR", f"for class {UUID(bytes=class_id)}, which was {known.floors[class_id]}")


def describe_period(document: Root | Status) -> str:
    return f"from {_instant(document.issued)} to {_instant(document.expires)}"


def line(name: str, value: str) -> str:
    return f"{name:<17}{value}"


def printable(text: str) -> str:
    """Return text from a file so that it cannot draw lines of its own on the signer's screen."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _describe_image(image: Component, slot: int | None) -> str:
    where = "" if slot is None else f" in slot {SLOT_LETTERS[slot]}"
    size = f"{image.image_size:,} bytes in {image.fetch.chunk_count} chunks"
    cut = "" if image.fetch.profile is ChunkProfile.FIXED else f" ({CHUNKS[image.fetch.profile]})"
    return f"{image.name}{where}: {size}{cut}, SHA-256 {image.image_digest.hex()}"


def _describe_role(root: Root, name: RoleName, before: Root | None) -> Iterator[str]:
    role = root.roles[name]
    words = [f"{role.threshold} of {len(role.kids)} keys", f"epoch {role.epoch}"]
    for scope in role.scopes:
        prefixes = ", ".join(printable(prefix) + "*" for prefix in scope.component_prefixes) or "all components"
        classes = ", ".join(str(UUID(bytes=class_id)) for class_id in scope.classes) or "all classes"
        words.append(f"may sign {prefixes} for {classes}")
    yield line(f"{name} role", "; ".join(words) + _mark(before is None or _rules(before.roles[name]) == _rules(role)))
    for kid in role.kids:
        state = "  DEAD" if kid in root.dead_kids else ""
        known = before is None or kid in before.roles[name].kids
        yield line("  key", f"{kid.hex()} {root.keys[kid].algorithm.name}{state}{_mark(known)}")


def _rules(role: Role) -> tuple[object, ...]:
    return role.threshold, role.epoch, role.scopes


def _role_of(root: Root, kid: Kid) -> str:
    return next(name for name, role in root.roles.items() if kid in role.kids)


def _mark(known: bool) -> str:
    return "" if known else "  (new)"


def _instant(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s after 1970"
