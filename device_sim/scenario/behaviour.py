"""Devices that do not tell the truth: they claim success, or say again what they once said (pure)."""

from collections import deque
from dataclasses import replace
from typing import Final, NamedTuple

from firmware_store.errors import CodecError
from server.domain.execution import State
from server.protocol.messages import decode_hello, decode_report, encode_hello, encode_report
from server.protocol.reasons import Reason
from server.protocol.topics import Up

REMEMBERED_MOST: Final = 32

_NO_SUCCESS: Final = frozenset({State.FAILED, State.REJECTED, State.CANCELLED, State.ROLLED_BACK})


class Said(NamedTuple):
    """A report as it went out."""

    topic: str
    payload: bytes


class Tongue:
    """What one device says, over all its boots. ``lies``: whether it claims success from now on."""

    def __init__(self) -> None:
        self.lies = False
        self._said: deque[Said] = deque(maxlen=REMEMBERED_MOST)

    def speak(self, topic: str, payload: bytes) -> bytes:
        """Return what goes out in the place of a message, whatever it is."""
        if topic.endswith(f"/{Up.REPORT}"):
            return self.say(topic, payload)
        return self.greet(payload) if topic.endswith(f"/{Up.HELLO}") else payload

    def say(self, topic: str, payload: bytes) -> bytes:
        """Return what goes out in the place of a report."""
        spoken = claim_success(payload) if self.lies else payload
        self._said.append(Said(topic, spoken))
        return spoken

    def greet(self, payload: bytes) -> bytes:
        """Return what goes out in the place of a hello, which repeats the last report."""
        if not self.lies:
            return payload
        hello = decode_hello(payload)
        if hello.execution is None:
            return payload
        return encode_hello(replace(hello, execution=decode_report(claim_success(encode_report(hello.execution)))))

    def again(self) -> list[Said]:
        """Return the reports of its past, the oldest first."""
        return list(self._said)


def claim_success(payload: bytes) -> bytes:
    """Return the report that says ``confirmed`` where this one says that an update has ended in another way."""
    try:
        report = decode_report(payload)
    except CodecError:
        return payload
    if report.state not in _NO_SUCCESS:
        return payload
    return encode_report(report._replace(state=State.CONFIRMED, reason=Reason.NONE, detail=""))
