"""Slots in memory: the rules of every slot backend, for devices that are simulated by the thousand.

What a sealed slot holds is kept once for all devices that hold the same.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from device_sim.agent.boot_environment import BootEnvironment, Image, SlotInfo, factory_environment
from device_sim.agent.bootloader import Boot, always_boots, boot_from
from device_sim.agent.durable_file import StorageError
from device_sim.agent.slot_pair import SlotPair
from device_sim.agent.slots import Piece, Release, SlotBackend
from device_sim.agent.state import AgentState
from device_sim.agent.storage import Storage
from server.protocol.reasons import Reason


class MemorySlots(SlotPair):
    """Two slots and their boot environment. ``kept`` is shared: images by their digests, whoever holds them."""

    def __init__(self, factory: SlotInfo, kept: dict[bytes, bytes]) -> None:
        super().__init__(factory_environment(factory))
        self._kept = kept
        self._contents: dict[str, tuple[bytes, ...]] = {}
        """By slot that was sealed: the digests of what its images hold."""
        self._unsealed: list[bytearray] = []
        """What a download that was interrupted has left in the inactive slot."""

    def boot(self, boots: Callable[[SlotInfo], bool] = always_boots) -> Boot:
        """Pick the slot to run, as the bootloader does."""
        return boot_from(self._environment, boots=boots, save=self._save)

    @property
    def environment(self) -> BootEnvironment:
        return self._environment

    def install(self, release: Release) -> "MemoryInstallation":
        """See ``SlotBackend``.

        Raises:
            IllegalTransitionError: the running slot is on trial, so that the other one is the only way back.
        """
        running = self._check_installable()
        target = self._begin(release)
        sealed = self._contents.pop(target.name, ())
        before = self._unsealed or [bytearray(self._kept[digest]) for digest in sealed]
        left = (*before, *(bytearray() for _ in release.images))
        images = [_Open(image, data) for image, data in zip(release.images, left, strict=False)]
        self._unsealed = [image.data for image in images]
        return MemoryInstallation(
            target.name,
            images,
            running={image.name: self._kept.get(image.digest) for image in running.images},
            seal=lambda: self._seal(target.name, images),
        )

    def _seal(self, slot: str, images: Sequence["_Open"]) -> None:
        info = self._check_sealable(slot)
        contents = []
        for image in images:
            data = bytes(image.data)
            digest = hashlib.sha256(data).digest()
            self._kept.setdefault(digest, data)
            contents.append(digest)
        self._contents[slot] = tuple(contents)
        self._unsealed = []
        self._check(info)
        self._make_bootable(info)

    def _is_intact(self, slot: SlotInfo) -> bool:
        if slot.name not in self._contents:
            return not slot.manifest_digest  # as it left the factory
        return self._contents[slot.name] == tuple(image.digest for image in slot.images)

    def _save(self, environment: BootEnvironment) -> None:
        self._environment = environment


class _Open:
    """An image while it is written."""

    def __init__(self, image: Image, before: bytearray) -> None:
        self.image = image
        self.data = bytearray(before[: image.size_bytes].ljust(image.size_bytes, b"\0"))

    def holds(self, piece: Piece) -> bool:
        here = self.data[piece.offset : piece.offset + piece.size_bytes]
        return hashlib.sha256(here).digest() == piece.digest


class MemoryInstallation:
    """See ``Installation``. There is nowhere to stage a delta: such a device fetches chunks."""

    def __init__(
        self,
        slot: str,
        images: Sequence[_Open],
        *,
        running: Mapping[str, bytes | None],
        seal: Callable[[], None],
    ) -> None:
        self.slot = slot
        self.seal = seal
        self._images = images
        self._running = running

    def adopt(self, image: int) -> bool:
        wanted = self._images[image]
        for data in (bytes(wanted.data), self._running.get(wanted.image.name)):
            if data is not None and hashlib.sha256(data).digest() == wanted.image.digest:
                wanted.data[:] = data
                return True
        return False

    def reuse(self, image: int, pieces: Sequence[Piece], *, moved: bool = False) -> tuple[bool, ...]:
        """Look where pieces belong: with ``moved`` as without, only an image that is there already is searched."""
        del moved
        return tuple(self._images[image].holds(piece) for piece in pieces)

    def write(self, image: int, parts: Sequence[tuple[int, bytes]]) -> None:
        data = self._images[image].data
        for offset, part in parts:
            if offset < 0 or offset + len(part) > len(data):
                raise StorageError("a chunk that reaches past the end of its image")
            data[offset : offset + len(part)] = part

    def stage(self, name: bytes) -> int:
        raise StorageError(f"nowhere to stage {name.hex()}", reason=Reason.STORAGE_FULL)

    def make(self, image: int, codec: str | None) -> None:
        raise StorageError(f"image {image} cannot be made by {codec}: nothing was staged")


class MemoryStorage(Storage):
    """The agent's state in memory: what was saved last is what the next boot reads."""

    def __init__(self, slots: SlotBackend) -> None:
        super().__init__(Path(), slots, durable=False)
        self.saved: AgentState | None = None

    def load(self, factory: AgentState) -> AgentState:
        return factory if self.saved is None else self.saved

    def _persist(self, state: AgentState) -> None:
        self.saved = state
