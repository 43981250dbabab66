"""What the services need of the broker; ``server.mqtt`` provides it, and the composition root joins the two."""

from typing import Protocol


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

    def publish_nowait(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0: sent once, or lost (the protocol repeats whatever matters)."""
