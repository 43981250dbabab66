"""What a device in virtual time meets: its broker, and the server behind it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from device_sim.agent.events import Note
from device_sim.virtual.clock import Clock
from device_sim.virtual.orders import Order
from firmware_store.root import Root
from server.protocol.topics import Topics

if TYPE_CHECKING:
    from device_sim.virtual.device import VirtualDevice


class World(Protocol):
    """What a device meets."""

    clock: Clock
    topics: Topics
    root: Root
    kept: dict[bytes, bytes]
    is_broker_up: bool

    def published(self, device: "VirtualDevice", topic: str, payload: bytes) -> None:
        """A device says something, and there is a broker to hear it."""

    def subscribed(self, device: "VirtualDevice", topics: Sequence[str]) -> None:
        """A device wants to hear of these."""

    def concerns(self, device: "VirtualDevice") -> bool:
        """Tell whether a device that sleeps would find something to do if it woke now."""

    def order(self, device: "VirtualDevice") -> Order | None:
        """Return what the device's region is told."""

    def topic_of(self, device: "VirtualDevice") -> str:
        """Return where it is told that."""

    def went(self, device: "VirtualDevice", *, rests: bool) -> None:
        """A session has ended. ``rests``: the device sleeps."""

    def noted(self, device: "VirtualDevice", note: Note) -> None:
        """A fact."""
