"""Word to those who notice when the agent hangs: systemd (``sd_notify``), and a watchdog of the kernel."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_KEEP_ALIVE: Final = b"\0"
_CLOSE: Final = b"V"
"""The magic character: whoever closes the device after it has stopped the watchdog on purpose (Linux watchdog-api)."""
_PART: Final = 2
"""systemd waits for WATCHDOG_USEC; it asks to be told in half of that (sd_watchdog_enabled(3))."""


class ServiceManager:
    """systemd, or nobody, where the environment names no socket (sd_notify(3))."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environment.get("WATCHDOG_USEC", "")
        self.interval_s = int(usec) / 1e6 / _PART if watched and usec.isdecimal() and int(usec) > 0 else None
        """How often it wants to hear ``WATCHDOG=1``; None: not at all."""

    def tell(self, state: str) -> None:
        """Send one assignment, such as ``READY=1``. Nobody there is no error."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as talk:
                talk.sendto(state.encode(), address)
        except OSError as exc:
            log.warning("service_manager_deaf", error=str(exc))


async def keep_alive(
    manager: ServiceManager, device: Path | None, *, interval_s: float, ends_in_order: Callable[[], bool]
) -> None:
    """Tell both for as long as the event loop turns.

    Cancelled, the kernel's watchdog is stopped, unless the agent has not ended in order: then it is left to bite.

    Raises:
        OSError: there is no such device.
    """
    descriptor = None if device is None else os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    intervals = [one for one in (manager.interval_s, None if device is None else interval_s) if one is not None]
    try:
        while intervals:
            manager.tell("WATCHDOG=1")
            if descriptor is not None:
                os.write(descriptor, _KEEP_ALIVE)
            await asyncio.sleep(min(intervals))
    finally:
        if descriptor is not None:
            if ends_in_order():
                os.write(descriptor, _CLOSE)
            os.close(descriptor)
