"""What has to hold on the device itself before it starts or activates anything: room, and power."""

from pathlib import Path
from typing import Final

from device_sim.agent.events import Obstacle
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.gateway.config import GatesTable
from server.protocol.reasons import Reason

_FULL: Final = 100


def find_obstacle(gates: GatesTable, state: Path, *, files: Filesystem = SYSTEM_FILES) -> Obstacle | None:
    """Return what keeps the device from starting now, the first one there is."""
    if gates.free_bytes_least:
        try:
            free = files.free_bytes(str(state))
        except OSError as exc:
            return Obstacle(Reason.STORAGE_ERROR, f"nobody knows how much is free: {exc.strerror}")
        if free < gates.free_bytes_least:
            return Obstacle(Reason.STORAGE_FULL, f"{free} bytes are free, {gates.free_bytes_least} are needed")
    charge = battery_percent(gates.power_supplies)
    if charge < gates.battery_percent_least:
        detail = f"the battery is at {charge} %, {gates.battery_percent_least} % are needed"
        return Obstacle(Reason.OUTSIDE_WINDOW, detail)
    return None


def battery_percent(supplies: Path) -> int:
    """Return the charge of the emptiest battery; 100 where there is none, or where the mains feed the device.

    Source: Linux, Documentation/ABI/testing/sysfs-class-power.
    """
    charges: list[int] = []
    for supply in sorted(supplies.iterdir()) if supplies.is_dir() else ():
        kind = _read(supply / "type")
        if kind in {"Mains", "USB"} and _read(supply / "online") == "1":
            return _FULL
        if kind == "Battery" and _read(supply / "scope") != "Device":  # a device's own is a mouse's, say
            charge = _read(supply / "capacity")
            charges += [int(charge)] if charge.isdecimal() else []
    return min(charges, default=_FULL)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
