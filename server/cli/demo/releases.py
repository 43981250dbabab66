"""The demo's releases: real files out of the installed packages, changed as a new version would change them."""

import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from firmware_store.bundle import build_bundle, read_envelope, replace_envelope
from firmware_store.errors import ConfigurationError
from firmware_store.keys import load_key
from firmware_store.suit import parse_version, sign_envelope

VENDOR: Final = "demo.tidegate.dev"
HARDWARE: Final = ("gw100-rev-b", "gw100-rev-c")

_SIZES: Final = {"rootfs": (600_000, 2_000_000, 1_000_000), "app": (100_000, 300_000, 200_000)}
"""Least, most and wanted size of each component in bytes."""

_STAMP_EVERY: Final = 200_000


@dataclass(frozen=True, slots=True)
class Release:
    """A signed bundle and the images it was made of."""

    version: str
    bundle: Path
    images: Mapping[str, Path]


def find_files() -> dict[str, Path]:
    """Return a real shared library for each component, the same ones at every run.

    Raises:
        ConfigurationError: the installation has none of a fitting size.
    """
    found: dict[str, Path] = {}
    libraries = sorted((path.stat().st_size, path) for path in _libraries())
    for component, (least, most, wanted) in _SIZES.items():
        fitting = [(abs(size - wanted), path) for size, path in libraries if least <= size <= most]
        if not fitting:
            raise ConfigurationError(f"No library of {least} to {most} bytes is installed for the demo's {component}.")
        found[component] = min(fitting)[1]
    return found


def write_images(base: Mapping[str, Path], version: str, folder: Path) -> dict[str, Path]:
    """Write a version of each file: its bytes, with the version's name stamped over some of them."""
    folder.mkdir(parents=True)
    images: dict[str, Path] = {}
    for component, source in base.items():
        content = bytearray(source.read_bytes())
        stamp = f"tidegate demo {component} {version}".encode()
        for offset in range(1024, len(content) - len(stamp), _STAMP_EVERY):
            content[offset : offset + len(stamp)] = stamp
        images[component] = folder / f"{component}.img"
        images[component].write_bytes(content)
    return images


def release(images: Mapping[str, Path], *, version: str, sequence: int, keys: Path, output: Path) -> Release:
    """Build a bundle and sign it with both release keys, as two people would, offline."""
    build_bundle(
        output,
        images=images,
        vendor=VENDOR,
        models=list(HARDWARE),
        version=parse_version(version),
        sequence_number=sequence,
        description=f"demo release {version}",
    )
    envelope = read_envelope(output)
    for name in ("release-1.pem", "release-2.pem"):
        envelope = sign_envelope(envelope, load_key(keys / name, None))
    replace_envelope(output, envelope)
    return Release(version, output, images)


def _libraries() -> Iterator[Path]:
    for pattern in ("*.so", "*.so.*", "*.dylib", "*.pyd"):
        for path in Path(sysconfig.get_path("platlib")).rglob(pattern):
            if path.is_file() and not path.is_symlink():
                yield path
