"""What the bootloader and the agent agree on: the two slots' states, which one boots, and how often a trial may try.

It is one small file, replaced atomically, as U-Boot's redundant environment or RAUC's status file would be.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from device_sim.agent.durable_file import StorageError, read_file, replace_file
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem

FILE: Final = "boot.json"
SLOT_NAMES: Final = ("a", "b")
TRIAL_BOOTS: Final = 3


class SlotState(StrEnum):
    """Only ``confirmed`` and ``trial`` are ever booted; only verified bytes are ever ``bootable``."""

    EMPTY = "empty"
    INSTALLING = "installing"
    BOOTABLE = "bootable"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    UNBOOTABLE = "unbootable"


@dataclass(frozen=True, slots=True)
class Image:
    """One component's bytes in a slot, as the manifest names them."""

    name: str
    digest: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """What a slot holds. ``manifest_digest`` is empty for a factory image."""

    name: str
    state: SlotState = SlotState.EMPTY
    sequence_number: int = 0
    version: str = ""
    manifest_digest: bytes = b""
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class BootEnvironment:
    """``active`` is the confirmed slot that boots when no trial does; ``booted`` the one that runs now."""

    slots: Mapping[str, SlotInfo]
    active: str
    booted: str
    tries_left: int = 0

    @property
    def trial(self) -> str | None:
        """The slot on trial, if there is one."""
        return next((slot.name for slot in self.slots.values() if slot.state is SlotState.TRIAL), None)

    def with_slot(self, slot: SlotInfo) -> "BootEnvironment":
        """The same environment with one slot changed."""
        return replace(self, slots=MappingProxyType({**self.slots, slot.name: slot}))


def other(slot: str) -> str:
    """The name of the slot beside this one."""
    return SLOT_NAMES[1 - SLOT_NAMES.index(slot)]


def factory_environment(factory: SlotInfo) -> BootEnvironment:
    """Return what a device leaves the factory with: one slot that runs and is confirmed, and one that is empty."""
    slots = {slot.name: slot for slot in (factory, SlotInfo(other(factory.name)))}
    return BootEnvironment(MappingProxyType(slots), active=factory.name, booted=factory.name)


class EnvironmentStore(Protocol):
    """Where a boot environment is kept, in one piece: a loss of power leaves the old one or the new one."""

    def read(self) -> BootEnvironment:
        """Return it. Raises: StorageError, where there is none, or none that makes sense."""

    def write(self, environment: BootEnvironment) -> None:
        """Replace it. Raises: StorageError, and the old one is in force."""


class EnvironmentFile:
    """``boot.json`` in a device's directory. Without ``durable`` it may not outlast the machine."""

    def __init__(self, directory: Path, *, durable: bool = True, files: Filesystem = SYSTEM_FILES) -> None:
        self._path = directory / FILE
        self._durable = durable
        self._files = files

    @property
    def is_there(self) -> bool:
        try:
            self._files.stat(str(self._path))
        except FileNotFoundError:
            return False
        return True

    def read(self) -> BootEnvironment:
        try:
            content = read_file(self._path, files=self._files)
        except OSError as exc:
            raise StorageError(f"cannot read the boot environment: {exc.strerror}") from exc
        return decode_environment(content)

    def write(self, environment: BootEnvironment) -> None:
        try:
            replace_file(self._path, encode_environment(environment), durable=self._durable, files=self._files)
        except OSError as exc:
            raise StorageError(f"cannot write the boot environment: {exc.strerror}") from exc


def encode_environment(environment: BootEnvironment) -> bytes:
    """Return an environment as one line of JSON."""
    document = {
        "format": 1,
        "active": environment.active,
        "booted": environment.booted,
        "tries_left": environment.tries_left,
        "slots": [_slot_document(slot) for slot in environment.slots.values()],
    }
    return json.dumps(document).encode()


def decode_environment(content: bytes) -> BootEnvironment:
    """Read what ``encode_environment`` has written. Raises: StorageError, where that is not what this is."""
    try:
        document: dict[str, Any] = json.loads(content)
        environment = BootEnvironment(
            slots=MappingProxyType({entry["name"]: _read_slot(entry) for entry in document["slots"]}),
            active=document["active"],
            booted=document["booted"],
            tries_left=int(document["tries_left"]),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise StorageError("the boot environment is damaged") from exc
    if set(environment.slots) != set(SLOT_NAMES) or not {environment.active, environment.booted} <= set(SLOT_NAMES):
        raise StorageError("the boot environment names slots that do not exist")
    return environment


def _slot_document(slot: SlotInfo) -> dict[str, Any]:
    return {
        "name": slot.name,
        "state": slot.state.value,
        "sequence_number": slot.sequence_number,
        "version": slot.version,
        "manifest_digest": slot.manifest_digest.hex(),
        "images": [[image.name, image.digest.hex(), image.size_bytes] for image in slot.images],
    }


def _read_slot(entry: dict[str, Any]) -> SlotInfo:
    return SlotInfo(
        name=entry["name"],
        state=SlotState(entry["state"]),
        sequence_number=int(entry["sequence_number"]),
        version=entry["version"],
        manifest_digest=bytes.fromhex(entry["manifest_digest"]),
        images=tuple(Image(name, bytes.fromhex(digest), int(size)) for name, digest, size in entry["images"]),
    )
