"""Writes bundle files, and changes the envelope in one; ``firmware_store.bundle`` tells the format.

Files are never half written: each takes its name when it is complete and on the disk.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeAlias

from firmware_store.chunks import ImageIndex, chunk_image
from firmware_store.errors import CodecError, ConfigurationError, DigestError, InvalidInputError
from firmware_store.private_files import sync_directory
from firmware_store.suit import (
    MAX_ENVELOPE_BYTES,
    ChunkProfile,
    Component,
    Manifest,
    SlotImage,
    build_envelope,
    build_manifest,
    class_id,
    open_envelope,
    vendor_id,
)

MAGIC: Final = b"TGB1"
HEAD_BYTES: Final = 8
PIECE_BYTES: Final = 1 << 18

# By the component's name: its image, or one for each slot by the slot's number.
Images: TypeAlias = Mapping[str, Path | Mapping[int, Path]]


def build_bundle(
    path: Path,
    *,
    images: Images,
    profiles: Mapping[str, ChunkProfile] | None = None,
    vendor: str,
    models: Sequence[str],
    version: tuple[int, ...],
    sequence_number: int,
    description: str | None = None,
) -> Manifest:
    """Write an unsigned bundle of ``images``, in their order; ``vendor`` is a DNS name. Return its manifest.

    ``profiles`` says how a component's images are cut, by its name; those that it does not name, as ``FIXED``.

    Raises:
        ManifestError: values that no manifest of ours can have.
        ConfigurationError: a file that cannot be read or written.
    """
    cut_as = dict.fromkeys(images, ChunkProfile.FIXED) | dict(profiles or {})
    with ExitStack() as stack:
        spool = _Spool(path.parent, stack)
        components = [spool.cut(name, images[name], cut_as[name]) for name in images]
        vendor_bytes = vendor_id(vendor)
        manifest = build_manifest(
            sequence_number=sequence_number,
            version=version,
            vendor_id=vendor_bytes,
            class_ids=[class_id(vendor_bytes, model) for model in models],
            components=components,
        )
        envelope = build_envelope(manifest, description=description)
        _write(path, envelope, spool.images)
    return open_envelope(envelope).read()[0]


def write_bundle(path: Path, envelope: bytes, images: Images) -> None:
    """Write a bundle for an envelope that exists already.

    Raises:
        DigestError: an image, or its chunks, are not the ones that the manifest names.
        InvalidInputError: other components than those of the manifest.
        ConfigurationError: a file that cannot be read or written.
    """
    manifest, _ = open_envelope(envelope).read()
    if set(images) != {component.name for component in manifest.components}:
        raise InvalidInputError("the images are not those of the manifest's components")
    with ExitStack() as stack:
        spool = _Spool(path.parent, stack)
        for component in manifest.components:
            name, profile = component.name, component.fetch.profile
            if spool.cut(name, images[name], profile) != component:
                raise DigestError(f"component {name} has another image than the one that the manifest names")
        _write(path, envelope, spool.images)


def read_envelope(path: Path) -> bytes:
    """Return the envelope of a bundle file, with nothing verified.

    Raises:
        CodecError: not a bundle.
        ConfigurationError: the file cannot be read.
    """
    with readable(path) as file:
        return _take_envelope(file)


def replace_envelope(path: Path, envelope: bytes) -> None:
    """Put an envelope with more signatures, or without its description, in the place of the old one.

    Raises:
        InvalidInputError: an envelope for another manifest; the file is left as it was.
        ConfigurationError: the file cannot be read or written.
    """
    with readable(path) as file:
        if open_envelope(_take_envelope(file)).digest != open_envelope(envelope).digest:
            raise InvalidInputError("the envelope is for another manifest than the bundle's")
        with _replacing(path) as new:
            new.write(_frame(envelope))
            shutil.copyfileobj(file, new, PIECE_BYTES)


def envelope_size(head: bytes) -> int:
    """Return how long the envelope is that follows the first HEAD_BYTES of a bundle.

    Raises:
        CodecError: not a bundle.
    """
    size = int.from_bytes(head[len(MAGIC) :], "big")
    if len(head) != HEAD_BYTES or not head.startswith(MAGIC) or not 0 < size <= MAX_ENVELOPE_BYTES:
        raise CodecError("not a Tidegate bundle")
    return size


@contextmanager
def readable(path: Path) -> Iterator[IO[bytes]]:
    """Open a file.

    Raises:
        ConfigurationError: it cannot be opened.
    """
    try:
        file = path.open("rb")
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc
    with file:
        yield file


@dataclass(frozen=True, slots=True)
class _Spooled:
    """An image's index, and its chunks in a file without a name until the bundle is written."""

    index: ImageIndex
    chunks: IO[bytes]

    def component(self, name: str) -> Component:
        return Component(name, self.index.image_digest, self.index.image_size, self.index.fetch)

    def in_slot(self, slot: int) -> SlotImage:
        return SlotImage(slot, self.index.image_digest, self.index.image_size, self.index.fetch)


class _Spool:
    """Cuts images, and keeps them in ``images``, in the order of a bundle, for as long as its stack is open."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.images: list[_Spooled] = []
        self._directory = directory
        self._stack = stack

    def cut(self, name: str, images: Path | Mapping[int, Path], profile: ChunkProfile) -> Component:
        """Add a component's images, and return what a manifest says of it."""
        if isinstance(images, Path):
            return self._add(images, profile).component(name)
        if not images:
            raise InvalidInputError(f"component {name} has no image")
        slots = [self._add(images[slot], profile).in_slot(slot) for slot in sorted(images)]
        return Component.of_slots(name, slots)

    def _add(self, image: Path, profile: ChunkProfile) -> _Spooled:
        self.images.append(self._stack.enter_context(_spooled(image, profile, self._directory)))
        return self.images[-1]


def _frame(envelope: bytes) -> bytes:
    return MAGIC + len(envelope).to_bytes(HEAD_BYTES - len(MAGIC), "big") + envelope


def _take_envelope(file: IO[bytes]) -> bytes:
    head = file.read(HEAD_BYTES)
    size = envelope_size(head)
    envelope = file.read(size)
    if len(envelope) != size:
        raise CodecError("the bundle ends early")
    return envelope


@contextmanager
def _spooled(image: Path, profile: ChunkProfile, directory: Path) -> Iterator[_Spooled]:
    """Read the image once, so that what is indexed and what is written are the same bytes."""
    with readable(image) as file, _writable(directory), tempfile.TemporaryFile(dir=directory) as chunks:
        cut = chunk_image(iter(lambda: file.read(PIECE_BYTES), b""), profile)
        for _, wire in cut:
            chunks.write(wire)
        chunks.seek(0)
        yield _Spooled(cut.index(), chunks)


def _write(path: Path, envelope: bytes, images: Sequence[_Spooled]) -> None:
    with _replacing(path) as file:
        file.write(_frame(envelope))
        for image in images:
            file.writelines([image.index.root, *image.index.pages])
            shutil.copyfileobj(image.chunks, file, PIECE_BYTES)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write beside ``path`` and take its place at the end, so that no reader ever sees half a bundle."""
    prefix = f".{path.name}."
    with _writable(path), tempfile.NamedTemporaryFile(dir=path.parent, prefix=prefix, delete=False) as file:
        temporary = Path(file.name)
        try:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc.strerror}") from exc
