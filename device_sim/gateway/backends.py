"""The slots of a gateway, by what its configuration says of them."""

import shlex
from pathlib import Path
from typing import Final

from device_sim.agent.bootloader import Boot, boot
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.partitions import Partitions
from device_sim.agent.slots import SlotBackend
from device_sim.agent.uboot_environment import Copy, UBootStore, Variables
from device_sim.gateway.config import AgentConfig, RaucSlotsTable, UBootSlotsTable
from firmware_store.errors import ConfigurationError

_COPIES: Final = 2


def open_slots(config: AgentConfig, *, at_start: bool = False) -> SlotBackend:
    """Return the slots. ``at_start``: after a boot, before anything else, what the bootloader counted is put in order.

    Raises:
        StorageError, ConfigurationError: they cannot be used.
    """
    if isinstance(config.slots, UBootSlotsTable):
        return _open_partitions(config.state, config.slots, at_start=at_start)
    if isinstance(config.slots, RaucSlotsTable):
        return _open_rauc(config.state, config.slots, at_start=at_start)
    return FileSlots(config.state)


def boot_files(config: AgentConfig, *, factory_version: str) -> Boot:
    """Play the bootloader of slots that are files: decide, once for each boot, which of them runs.

    Raises:
        StorageError: the boot environment cannot be read or written.
        ConfigurationError: the slots are not files; something else boots them.
    """
    if config.slots.kind != "files":
        raise ConfigurationError(f"slots of the kind {config.slots.kind} have a bootloader of their own")
    provision(config.state, version=factory_version)
    return boot(config.state)


def read_copies(path: Path) -> tuple[Copy, Copy]:
    """Read where U-Boot's two environments are: libubootenv's and fw_printenv's ``fw_env.config``.

    A line is ``device offset size``; what may follow on it is about flash that has to be erased, which is not for us.
    The size is hexadecimal, with or without 0x; the offset only with it (``%lli`` and ``%lx`` in fw_env.c).

    Raises:
        ConfigurationError: it cannot be read, has not two environments of one size, or they are in raw flash.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"cannot read {path}: {exc}") from exc
    lines = [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]
    try:
        copies = [Copy(words[0], int(words[1], 0), int(words[2], 16)) for words in lines]
    except (IndexError, ValueError) as exc:
        raise ConfigurationError(f"{path}: a line is not: device offset size") from exc
    if len(copies) != _COPIES or len({copy.size_bytes for copy in copies}) != 1:
        raise ConfigurationError(f"{path}: U-Boot's environment has to be redundant: two lines of one size")
    if any(copy.offset < 0 for copy in copies):
        raise ConfigurationError(f"{path}: an offset from the end is not supported")
    if any(copy.path.startswith(("/dev/mtd", "/dev/ubi")) for copy in copies):
        raise ConfigurationError(f"{path}: an environment in raw flash is not supported")
    return copies[0], copies[1]


def booted_slot(command_line: Path, parameter: str) -> str:
    """Return the slot that runs, as the kernel was told. Raises: ConfigurationError, where nothing tells."""
    try:
        words = command_line.read_text(encoding="utf-8").split()
    except OSError as exc:
        raise ConfigurationError(f"cannot read {command_line}: {exc.strerror}") from exc
    named = {word.removeprefix(f"{parameter}=").lower() for word in words if word.startswith(f"{parameter}=")}
    if len(named) != 1 or not named <= {"a", "b"}:
        raise ConfigurationError(f"{command_line} does not say {parameter}=a or {parameter}=b")
    return named.pop()


def _open_partitions(state: Path, table: UBootSlotsTable, *, at_start: bool) -> FileSlots:
    if set(table.a) != set(table.b):
        raise ConfigurationError("slots.a and slots.b have to have the same components")
    booted = booted_slot(table.kernel_command_line, table.slot_parameter)
    store = UBootStore(Variables(read_copies(table.environment)), booted=booted)
    if at_start:
        store.provision(table.factory_version)
        store.settle()
    paths = {slot: {name: str(path) for name, path in own.items()} for slot, own in (("a", table.a), ("b", table.b))}
    return FileSlots(state, environment=store, places=Partitions(paths))


def _open_rauc(state: Path, table: RaucSlotsTable, *, at_start: bool) -> SlotBackend:
    try:
        from device_sim.gateway.rauc_bus import RaucBus  # noqa: PLC0415 - an extra that need not be here
        from device_sim.gateway.rauc_slots import RaucSlots  # noqa: PLC0415 - the same
    except ImportError as exc:
        raise ConfigurationError("slots of the kind rauc need the extra [rauc] of tidegate") from exc
    names = {"a": table.a, "b": table.b}
    slots = RaucSlots(state, RaucBus(table.bus), names=names, component=table.component, version=table.factory_version)
    if at_start:
        slots.settle()
    return slots
