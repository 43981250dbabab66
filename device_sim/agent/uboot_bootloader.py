"""What the boot script does (``deploy/u-boot/boot.cmd``), in Python, for the simulator and for the power-cut proof."""

from collections.abc import Callable

from device_sim.agent.boot_environment import SLOT_NAMES, TRIAL_BOOTS
from device_sim.agent.uboot_environment import ORDER, Variables, left, tries_of


def boot_uboot(variables: Variables, *, boots: Callable[[str], bool]) -> str | None:
    """Pick the slot to run, counting each try before it is made; None when nothing boots.

    ``boots`` says whether a slot comes up. Raises: StorageError.
    """
    for _ in range(TRIAL_BOOTS * len(SLOT_NAMES) + 1):
        known = variables.read()
        order = [slot.lower() for slot in known.get(ORDER, "A B").split()]
        tries = {slot: tries_of(known, slot, unknown=TRIAL_BOOTS) for slot in order}
        chosen = next((slot for slot in order if tries[slot] > 0), None)
        if chosen is None:  # even the last one has failed so often: it is all there is
            variables.write({**known, left(order[-1]): f"{TRIAL_BOOTS}"})
            return None
        variables.write({**known, left(chosen): f"{tries[chosen] - 1:x}"})
        if boots(chosen):
            return chosen
    return None
