"""A device's line in virtual time: what the scenario's channel makes of messages, and what is under way on it."""

from device_sim.scenario.cast import Role
from device_sim.scenario.channel import Channel, Delivery
from device_sim.scenario.draws import generator


class VirtualLine:
    """Of one device; ``now`` is fleet time in seconds."""

    def __init__(self, role: Role, *, seed: int) -> None:
        self._channel = Channel(role.line, role.faults, generator(seed, role.id, "channel"))
        self._is_plain = self._channel.is_plain
        self._under_way: set[str] = set()

    def up(self, payload: bytes, now: float) -> list[Delivery]:
        """Return what arrives at the broker."""
        return [Delivery(0.0, payload)] if self._is_plain else self._channel.carry(payload, now, to_device=False)

    def down(self, payload: bytes, now: float) -> list[Delivery]:
        """Return what arrives at the device."""
        return [Delivery(0.0, payload)] if self._is_plain else self._channel.carry(payload, now, to_device=True)

    def bring(self, blob: bytes, now: float, *, stands_for: float) -> list[Delivery]:
        """Return what arrives of a piece of a release, and is written, that stands for so many bytes."""
        if self._is_plain:
            return [Delivery(0.0, blob)]
        return self._channel.carry(blob, now, to_device=True, is_piece=True, stands_for=stands_for)

    def begins(self, topic: str) -> bool:
        """Begin to carry what lies on a topic; False where it is under way already."""
        if topic in self._under_way:
            return False
        self._under_way.add(topic)
        return True

    def ends(self, topic: str) -> None:
        """It has come, or was lost."""
        self._under_way.discard(topic)

    def cut(self) -> None:
        """What was under way is not any more."""
        self._under_way.clear()
