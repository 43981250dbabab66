"""The slots of a gateway, by what its configuration says of them."""

from device_sim.agent.bootloader import Boot, boot
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.slots import SlotBackend
from device_sim.gateway.config import AgentConfig
from firmware_store.errors import ConfigurationError


def open_slots(config: AgentConfig) -> SlotBackend:
    """Return the slots. Raises: StorageError, ConfigurationError."""
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
