"""What a bundle says, as values: the words of a SUIT manifest without their encoding."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple, Self
from uuid import NAMESPACE_DNS, UUID, uuid5

from firmware_store.errors import CompatibilityError, InvalidInputError

ID_BYTES: Final = 16
DIGEST_BYTES: Final = 32
CHUNK_BYTES: Final = 16384
MAX_COMPONENTS: Final = 32
MAX_CLASSES: Final = 32
MAX_SLOTS: Final = 8
MAX_INDEX_BYTES: Final = 65536
# 1,048,576 chunks: the list of their index's pages still fits MAX_INDEX_BYTES.
MAX_IMAGE_BYTES: Final = 1 << 34

_COMPONENT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_NUMBER: Final = r"(?:0|[1-9][0-9]{0,8})"
_VERSION: Final = re.compile(rf"({_NUMBER}(?:\.{_NUMBER}){{0,3}})(?:-(alpha|beta|rc)(?:\.({_NUMBER}))?)?")
# draft-ietf-suit-update-management: pre-releases are negative, so that they compare below the release.
STAGES: Final[Mapping[str, int]] = {"rc": -1, "beta": -2, "alpha": -3}
_STAGE_NAMES: Final[Mapping[int, str]] = {number: name for name, number in STAGES.items()}


class ChunkProfile(IntEnum):
    """How an image was cut; ``CHUNK_SIZES`` says what that means for its chunks. The numbers are part of the format."""

    FIXED = 1
    CDC = 2
    FIXED_4K = 3


class ChunkSizes(NamedTuple):
    """Of all chunks of an image but the last one, which is what is left: 1 byte at least, ``most_bytes`` at most."""

    least_bytes: int
    most_bytes: int

    def allow(self, chunk_count: int, image_bytes: int) -> bool:
        """True where an image of so many bytes can have so many chunks."""
        return (chunk_count - 1) * self.least_bytes < image_bytes <= chunk_count * self.most_bytes


CHUNK_SIZES: Final[Mapping[ChunkProfile, ChunkSizes]] = {
    ChunkProfile.FIXED: ChunkSizes(CHUNK_BYTES, CHUNK_BYTES),
    ChunkProfile.CDC: ChunkSizes(4096, 65536),
    ChunkProfile.FIXED_4K: ChunkSizes(4096, 4096),
}


@dataclass(frozen=True, slots=True)
class Fetch:
    """Where the chunks of an image are listed; the fetch-arguments of the manifest."""

    index_digest: bytes
    index_size: int
    chunk_count: int
    profile: ChunkProfile = ChunkProfile.FIXED


@dataclass(frozen=True, slots=True)
class SlotImage:
    """The image of a component for one of its slots, for code that runs from where it lies; slot a is 0."""

    slot: int
    image_digest: bytes
    image_size: int
    fetch: Fetch


@dataclass(frozen=True, slots=True)
class Component:
    """One image: what is written to a slot must have this SHA-256 and this many bytes.

    Where ``slots`` has entries, each of these slots has an image of its own and there are no other slots; the fields
    beside it then repeat the first entry. Whoever writes to a slot asks ``in_slot``.
    """

    name: str
    image_digest: bytes
    image_size: int
    fetch: Fetch
    slots: tuple[SlotImage, ...] = ()

    @classmethod
    def of_slots(cls, name: str, slots: Sequence[SlotImage]) -> Self:
        """Return the component that has these images, in the order of their slots."""
        first = slots[0]
        return cls(name, first.image_digest, first.image_size, first.fetch, tuple(slots))

    def in_slot(self, slot: int) -> "Component":
        """Return what is to be written to ``slot``, as a component without slots.

        Raises:
            CompatibilityError: the release has nothing for this slot.
        """
        images = self.images()
        found = images.get(slot, images.get(None))
        if found is None:
            raise CompatibilityError(f"the release has no image of component {self.name} for slot {slot}")
        return found

    def images(self) -> Mapping[int | None, "Component"]:
        """Return every image by its slot, in the order of a bundle; None is the slot of the one that fits them all."""
        if not self.slots:
            return {None: self}
        return {
            image.slot: Component(self.name, image.image_digest, image.image_size, image.fetch) for image in self.slots
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """A release. ``digest`` is the SUIT digest of its bytes and names it everywhere else.

    ``version`` is for people and for conditions; ``sequence_number`` decides which release is newer.
    ``text_digest`` binds the severable description, if there is one.
    """

    sequence_number: int
    version: tuple[int, ...]
    vendor_id: bytes
    class_ids: tuple[bytes, ...]
    components: tuple[Component, ...]
    digest: bytes
    text_digest: bytes | None = None

    def in_slot(self, slot: int) -> "Manifest":
        """Return what the release means for a device that is about to write to ``slot``: no component has slots.

        Raises:
            CompatibilityError: a component has nothing for this slot.
        """
        return replace(self, components=tuple(component.in_slot(slot) for component in self.components))


@lru_cache(maxsize=64)
def vendor_id(domain: str) -> bytes:
    """Return the UUIDv5 of a DNS name (draft-ietf-suit-manifest-37 section 8.4.8.2)."""
    return uuid5(NAMESPACE_DNS, domain).bytes


@lru_cache(maxsize=1024)
def class_id(vendor_id: bytes, model: str) -> bytes:
    """Return the UUIDv5 of a model within a vendor; another hardware revision is another model."""
    return uuid5(UUID(bytes=vendor_id), model).bytes


def is_component_name(name: str) -> bool:
    """True for names that are safe as a file name and as a level of a topic."""
    return _COMPONENT_NAME.fullmatch(name) is not None


def format_version(version: tuple[int, ...]) -> str:
    """Return ``1.2.0`` for (1, 2, 0) and ``1.2.0-rc.3`` for (1, 2, 0, -1, 3).

    Raises:
        InvalidInputError: numbers that ``parse_version`` never returns.
    """
    stage_at = next((at for at, number in enumerate(version) if number < 0), len(version))
    parts = [".".join(map(str, version[:stage_at]))]
    if stage_at < len(version):
        parts.append(".".join([_STAGE_NAMES.get(version[stage_at], ""), *map(str, version[stage_at + 1 :])]))
    text = "-".join(parts)
    if _VERSION.fullmatch(text) is None:
        raise InvalidInputError(f"{list(version)} is not a version")
    return text


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of ``1``, ``1.2.0`` or ``1.2.0-rc.3`` (alpha, beta and rc are -3, -2, -1).

    Raises:
        InvalidInputError: any other text.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"{text!r} is not a version such as 1.2.0 or 1.2.0-rc.1")
    numbers, stage, stage_number = match.groups()
    version = [int(number) for number in numbers.split(".")]
    if stage is not None:
        version.append(STAGES[stage])
    if stage_number is not None:
        version.append(int(stage_number))
    return tuple(version)
