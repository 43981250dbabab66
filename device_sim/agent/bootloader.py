"""The simulated bootloader: which slot a device boots, and when it gives a trial up.

It knows nothing of networks, campaigns or signatures: a slot on trial is tried a few times, each try counted before
it is made, and then the confirmed slot boots again. This is all that stands between a bad image and a dead device.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from device_sim.agent.boot_environment import BootEnvironment, EnvironmentFile, SlotInfo, SlotState
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem


class Boot(NamedTuple):
    """``slot`` is None when even the confirmed slot does not boot; ``attempts`` counts what was tried."""

    slot: str | None
    attempts: int


def always_boots(_slot: SlotInfo) -> bool:
    """A healthy device."""
    return True


def boot(
    directory: Path,
    *,
    boots: Callable[[SlotInfo], bool] = always_boots,
    durable: bool = True,
    files: Filesystem = SYSTEM_FILES,
) -> Boot:
    """Pick the slot to run and write it down. ``boots`` says whether a slot comes up: the simulator's faults.

    Raises:
        StorageError: the boot environment cannot be read or written.
    """
    store = EnvironmentFile(directory, durable=durable, files=files)
    return boot_from(store.read(), boots=boots, save=store.write)


def boot_from(
    environment: BootEnvironment,
    *,
    save: Callable[[BootEnvironment], None],
    boots: Callable[[SlotInfo], bool] = always_boots,
) -> Boot:
    """Pick the slot to run; ``save`` stores the environment, wherever it is kept, before each step that counts."""
    attempts = 0
    trial = environment.trial
    while trial is not None and environment.tries_left > 0:
        # Counted before the try: a loss of power in the middle of it is a failed try, too.
        environment = replace(environment, tries_left=environment.tries_left - 1, booted=trial)
        save(environment)
        attempts += 1
        if boots(environment.slots[trial]):
            return Boot(trial, attempts)
    if trial is not None:
        environment = environment.with_slot(replace(environment.slots[trial], state=SlotState.UNBOOTABLE))
    if trial is not None or environment.booted != environment.active:
        environment = replace(environment, booted=environment.active, tries_left=0)
        save(environment)
    alive = boots(environment.slots[environment.active])
    return Boot(environment.active if alive else None, attempts + 1)
