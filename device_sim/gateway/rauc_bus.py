"""RAUC's service over D-Bus: the few of its calls that the agent needs, each of which blocks until it is answered.

Source: RAUC, ``de.pengutronix.rauc.Installer`` (docs/reference, "D-Bus API"); tested against 1.8.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from jeepney import (  # type: ignore[import-untyped]
    DBusAddress,
    DBusErrorResponse,
    MatchRule,
    Properties,
    message_bus,
    new_method_call,
)
from jeepney.io.blocking import open_dbus_connection  # type: ignore[import-untyped]
from jeepney.wrappers import unwrap_msg  # type: ignore[import-untyped]

from device_sim.agent.durable_file import StorageError
from firmware_store.errors import ConfigurationError

SERVICE: Final = "de.pengutronix.rauc"
INTERFACE: Final = "de.pengutronix.rauc.Installer"
CALL_S: Final = 30.0
LOOK_AGAIN_S: Final = 10.0
"""A signal that was lost, or a service that was restarted, is noticed after so long."""
STARTING_S: Final = 60.0
"""An installation that is not under way so long after it was asked for, and has not said that it is done, is lost."""


@dataclass(frozen=True, slots=True)
class RaucSlot:
    """``name``: as in system.conf (``rootfs.0``); ``boot_name``: as the bootloader knows it (``A``)."""

    name: str
    boot_name: str
    is_booted: bool


class RaucBus:
    """``address``: of the bus; the system's by default. Each call has a connection of its own: RAUC may restart."""

    def __init__(self, address: str = "SYSTEM") -> None:
        self._address = address

    def slots(self) -> tuple[RaucSlot, ...]:
        """Those that a bootloader knows. Raises: StorageError."""
        with self._talk() as talk:
            (found,) = talk.call("GetSlotStatus")
        return tuple(
            RaucSlot(name, facts["bootname"][1], facts["state"][1] == "booted")
            for name, facts in found
            if "bootname" in facts
        )

    def primary(self) -> str:
        """The name of the slot that boots next. Raises: StorageError."""
        with self._talk() as talk:
            (name,) = talk.call("GetPrimary")
        return str(name)

    def mark(self, state: str, slot: str) -> None:
        """Mark a slot, by its name, ``good``, ``bad`` or ``active``. Raises: StorageError."""
        with self._talk() as talk:
            talk.call("Mark", "ss", (state, slot))

    def install(self, bundle: str, *, within_s: float) -> None:
        """Have a bundle file installed, and return when it is.

        Raises:
            StorageError: RAUC has refused it, or failed; its words are the message.
        """
        done = MatchRule(type="signal", interface=INTERFACE, member="Completed", path="/")
        ends_at = time.monotonic() + within_s
        with self._talk() as talk:
            talk.ask(message_bus.AddMatch(done))
            with talk.connection.filter(done) as completed:
                talk.call("InstallBundle", "sa{sv}", (bundle, {}))
                result = self._await(talk, completed, ends_at)
            if result != 0:
                raise StorageError(f"RAUC: {talk.property('LastError') or 'the installation failed'}")

    def _await(self, talk: "_Talk", completed: Any, ends_at: float) -> int:
        lost_at = time.monotonic() + STARTING_S
        while time.monotonic() < ends_at:
            try:
                return int(talk.connection.recv_until_filtered(completed, timeout=LOOK_AGAIN_S).body[0])
            except TimeoutError:
                if talk.property("Operation") == "installing":
                    lost_at = time.monotonic() + STARTING_S
                elif time.monotonic() > lost_at:
                    break
        raise StorageError("RAUC does not say that it is done")

    @contextmanager
    def _talk(self) -> Iterator["_Talk"]:

        try:
            with open_dbus_connection(self._address) as connection:
                yield _Talk(connection)
        except DBusErrorResponse as exc:
            raise StorageError(f"RAUC: {exc.data[0] if exc.data else exc.name}") from exc
        except (OSError, TimeoutError, KeyError) as exc:
            raise StorageError(f"RAUC cannot be reached: {exc}") from exc


class _Talk:
    """One connection to the bus."""

    def __init__(self, connection: Any) -> None:

        self.connection = connection
        self._service = DBusAddress("/", bus_name=SERVICE, interface=INTERFACE)
        self._properties = Properties(self._service)

    def call(self, method: str, signature: str | None = None, body: tuple[object, ...] = ()) -> tuple[Any, ...]:

        return self.ask(new_method_call(self._service, method, signature, body))

    def property(self, name: str) -> Any:
        return self.ask(self._properties.get(name))[0][1]

    def ask(self, message: Any) -> tuple[Any, ...]:

        body: tuple[Any, ...] = unwrap_msg(self.connection.send_and_get_reply(message, timeout=CALL_S))
        return body


def boot_names(slots: tuple[RaucSlot, ...], names: Mapping[str, str]) -> dict[str, RaucSlot]:
    """Return RAUC's slot for each of the agent's, by its boot name.

    Raises:
        ConfigurationError: RAUC knows none of that name.
    """
    known = {slot.boot_name: slot for slot in slots}
    missing = sorted(set(names.values()) - set(known))
    if missing:
        raise ConfigurationError(f"RAUC has no slot with the boot name {', '.join(missing)}")
    return {own: known[name] for own, name in names.items()}
