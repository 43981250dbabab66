"""What the services need of the broker; ``server.mqtt`` provides it, and the composition root joins the two."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from server.protocol.topics import Audience


@dataclass(slots=True)
class Retained:
    """What the broker retains of our own; roots by the version in their topic."""

    directives: dict[Audience, bytes] = field(default_factory=dict)
    roots: dict[int, bytes] = field(default_factory=dict)
    status: bytes | None = None


class Wire(Protocol):
    """The server's own session at the broker."""

    @property
    def up_since(self) -> float | None:
        """Unix seconds since when the session is up, or None while it is down."""

    async def publish_retained(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 1, retained, and return when the broker has it.

        Raises:
            BrokerUnavailableError: it may have it all the same; publish again.
        """

    async def read_retained(self, topics: Collection[str]) -> Mapping[str, bytes]:
        """Return what the broker retains on some blobs' topics; what it has not sent in time is left out.

        Raises:
            BrokerUnavailableError: it may retain them or not.
            ForbiddenError: it lets us read none of them.
        """

    def publish_nowait(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0: sent once, or lost (the protocol repeats whatever matters)."""
