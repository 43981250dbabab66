"""The boot environment in U-Boot's own: what its boot script and the agent agree on, in one redundant environment.

U-Boot keeps two copies of its variables. Each is a CRC-32 (little-endian, of all that follows the flag), a flag that
counts upwards, and the variables as ``name=value``, ended by a NUL each and by one more (U-Boot, ``env/common.c`` and
``tools/env/fw_env.c``: CONFIG_SYS_REDUNDAND_ENVIRONMENT with the incremental flag, as on MMC and in files). The copy
that holds with the higher flag counts; what is written goes over the other one, so that a loss of power leaves one.

``BOOT_ORDER`` are the slots that may boot, the trial's first; ``BOOT_x_LEFT`` how often each may still be tried. They
are what RAUC's boot scripts use. All else that the agent knows of the slots is in ``tidegate``, in the same copy: so a
slot becomes bootable, and is written down as such, in one step.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import O_RDONLY, O_RDWR
from typing import Final, NamedTuple

from device_sim.agent.boot_environment import (
    SLOT_NAMES,
    TRIAL_BOOTS,
    BootEnvironment,
    Image,
    SlotInfo,
    SlotState,
    decode_environment,
    encode_environment,
    factory_environment,
)
from device_sim.agent.durable_file import StorageError, opened
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem

CRC_BYTES: Final = 4
HEAD_BYTES: Final = CRC_BYTES + 1
FLAGS: Final = 256
ORDER: Final = "BOOT_ORDER"
SLOTS: Final = "tidegate"


@dataclass(frozen=True, slots=True)
class Copy:
    """Where one of the two is: a file or a block device, and a part of it."""

    path: str
    offset: int
    size_bytes: int


class _Found(NamedTuple):
    flag: int
    variables: dict[str, str]


def left(slot: str) -> str:
    """The name of the variable that counts a slot's tries."""
    return f"BOOT_{slot.upper()}_LEFT"


def tries_of(variables: Mapping[str, str], slot: str, *, unknown: int = 0) -> int:
    """Return how often a slot may still be tried; U-Boot counts in hexadecimal (``setexpr``)."""
    try:
        return int(variables[left(slot)], 16)
    except (KeyError, ValueError):
        return unknown


def encode_copy(variables: Mapping[str, str], *, flag: int, size_bytes: int) -> bytes:
    """Return the bytes of one copy.

    Raises:
        StorageError: they do not fit.
    """
    text = b"".join(f"{name}={value}\0".encode(errors="surrogateescape") for name, value in variables.items()) + b"\0"
    data = text.ljust(size_bytes - HEAD_BYTES, b"\0")
    if len(data) != size_bytes - HEAD_BYTES:
        raise StorageError(f"U-Boot's environment has {size_bytes} bytes, which is too little")
    return zlib.crc32(data).to_bytes(CRC_BYTES, "little") + bytes([flag]) + data


def decode_copy(content: bytes) -> tuple[int, dict[str, str]] | None:
    """Return a copy's flag and variables, or None where it does not hold."""
    if len(content) <= HEAD_BYTES:
        return None
    flag, data = content[CRC_BYTES], content[HEAD_BYTES:]
    if zlib.crc32(data) != int.from_bytes(content[:CRC_BYTES], "little"):
        return None
    lines = data.partition(b"\0\0")[0].split(b"\0")
    pairs = (line.decode(errors="surrogateescape").partition("=") for line in lines if line)
    return flag, {name: value for name, _, value in pairs}


class Variables:
    """The two copies, through the agent's filesystem."""

    def __init__(self, copies: Sequence[Copy], *, files: Filesystem = SYSTEM_FILES) -> None:
        self._copies = copies
        self._files = files

    def read(self) -> dict[str, str]:
        """Return the variables that count. Raises: StorageError, where neither copy holds."""
        return self._newest()[1].variables

    def write(self, variables: Mapping[str, str]) -> None:
        """Write all variables over the copy that does not count.

        Raises:
            StorageError: they could not be written, and the old ones are in force.
        """
        newest, found = self._newest()
        target = self._copies[1 - newest]
        content = encode_copy(variables, flag=(found.flag + 1) % FLAGS, size_bytes=target.size_bytes)
        try:
            with opened(self._files, target.path, O_RDWR) as descriptor:
                if self._files.pwritev(descriptor, [content], target.offset) != len(content):
                    raise StorageError("U-Boot's environment was written in part")
                self._files.fsync(descriptor)
        except OSError as exc:
            raise StorageError(f"cannot write U-Boot's environment: {exc.strerror}") from exc

    def _newest(self) -> tuple[int, _Found]:
        first, second = map(self._read, self._copies)
        if first is None and second is None:
            raise StorageError("U-Boot's environment is damaged, or not where it should be")
        if second is None or (first is not None and not _is_newer(second.flag, first.flag)):
            assert first is not None
            return 0, first
        return 1, second

    def _read(self, copy: Copy) -> _Found | None:
        try:
            with opened(self._files, copy.path, O_RDONLY) as descriptor:
                content = self._files.pread(descriptor, copy.size_bytes, copy.offset)
        except OSError:
            return None
        found = decode_copy(content)
        return None if found is None else _Found(*found)


def _is_newer(flag: int, other: int) -> bool:
    """Tell which of two flags comes later; after the highest comes the lowest (``env_check_redund``)."""
    if {flag, other} == {0, FLAGS - 1}:
        return flag == 0
    return flag > other


class UBootStore:
    """See ``EnvironmentStore``. ``booted`` is the slot that runs, as the kernel's command line says."""

    def __init__(self, variables: Variables, *, booted: str) -> None:
        self._variables = variables
        self._booted = booted

    def provision(self, version: str, images: tuple[Image, ...] = ()) -> None:
        """Write down what runs as the factory's release, unless the agent has written to it before.

        Deltas can be applied to ``images``, and a way back to them is checked, where they are known.
        """
        if SLOTS not in self._variables.read():
            factory = SlotInfo(self._booted, SlotState.CONFIRMED, version=version, images=images)
            self.write(factory_environment(factory))

    def read(self) -> BootEnvironment:
        variables = self._variables.read()
        if SLOTS not in variables:
            raise StorageError("U-Boot's environment knows nothing of the slots yet")
        environment = replace(decode_environment(variables[SLOTS].encode()), booted=self._booted)
        trial = environment.trial
        if trial is None:
            return replace(environment, tries_left=0)
        environment = replace(environment, tries_left=tries_of(variables, trial))
        if self._booted != trial and environment.tries_left == 0:
            spent = replace(environment.slots[trial], state=SlotState.UNBOOTABLE)
            environment = environment.with_slot(spent)
        return environment

    def write(self, environment: BootEnvironment) -> None:
        wanted = _variables_of(environment)
        before = self._variables.read()
        if {**before, **wanted} != before:
            self._variables.write({**before, **wanted})

    def settle(self) -> None:
        """After a boot: a confirmed slot has all its tries again, and a trial that is spent is not booted any more."""
        self.write(self.read())


def _variables_of(environment: BootEnvironment) -> dict[str, str]:
    trial = environment.trial
    order = [trial, environment.active] if trial is not None else [environment.active]
    tries = dict.fromkeys(SLOT_NAMES, 0) | {environment.active: TRIAL_BOOTS}
    if trial is not None:
        tries[trial] = environment.tries_left
    return {
        ORDER: " ".join(slot.upper() for slot in order),
        **{left(slot): f"{count:x}" for slot, count in tries.items()},
        SLOTS: encode_environment(environment).decode(),
    }
