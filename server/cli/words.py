"""A release in words, for whoever is about to sign it or wants to know what was signed."""

from collections.abc import Iterator
from uuid import UUID

from firmware_store.suit import Manifest, format_version


def describe(manifest: Manifest, description: str | None) -> Iterator[str]:
    """Yield one line for each thing that a release says."""
    yield _line("version", format_version(manifest.version))
    yield _line("sequence number", str(manifest.sequence_number))
    if description is not None:
        # A description comes with the file: it must not be able to draw lines of its own on the signer's screen.
        yield _line(
            "description", "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in description)
        )
    yield _line("vendor", str(UUID(bytes=manifest.vendor_id)))
    for class_id in manifest.class_ids:
        yield _line("class", str(UUID(bytes=class_id)))
    for component in manifest.components:
        image = f"{component.image_size:,} bytes in {component.fetch.chunk_count} chunks"
        yield _line("component", f"{component.name}: {image}, SHA-256 {component.image_digest.hex()}")
    yield _line("manifest digest", manifest.digest.hex())


def _line(name: str, value: str) -> str:
    return f"{name:<17}{value}"
