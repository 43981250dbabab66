"""What goes into the agent's core and what comes out: events in, effects out, no I/O in between.

Effects are carried out in order. An effect that answers (``Install``, ``Adopt``, ``Stage``, ``Reuse``, ``Make``,
``Seal``, ``Activate``, ``Confirm``, ``Revert``) does so with an event before any later event from outside, ``Activate``
with one after those that came meanwhile (`put_answer`); when a step fails, the effects after it in the same batch are
dropped. ``CheckHealth`` and ``Get`` are answered whenever they are done.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from device_sim.agent.boot_environment import SlotInfo
from device_sim.agent.slots import Piece, Release
from device_sim.agent.state import AgentState
from server.domain.identity import CampaignId
from server.protocol.reasons import Reason


class Step(StrEnum):
    """Work on the slots that has an outcome."""

    INSTALL = "install"
    WRITE = "write"
    STAGE = "stage"
    SEAL = "seal"
    ACTIVATE = "activate"
    CONFIRM = "confirm"
    REVERT = "revert"


class Obstacle(NamedTuple):
    """Why a device must not start now; ``detail`` is for who reads its report."""

    reason: Reason
    detail: str


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The broker has accepted a connection whose last will carries ``nonce``, a new one each time."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection has ended."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the broker."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due at the latest at the agent's ``wake_at``."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step on the slots succeeded; ``slot`` is the one it was about."""

    step: Step
    slot: str
    slots: tuple[SlotInfo, ...]


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step on the slots failed, and changed at most what ``slots`` now shows."""

    step: Step
    reason: Reason
    detail: str
    slots: tuple[SlotInfo, ...]


@dataclass(frozen=True, slots=True)
class Reused:
    """Which of the pieces asked for are in place without a download."""

    found: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Staged:
    """How much of the staged file there is."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImageDone:
    """Whether an image is in place to the last byte after ``Adopt`` or ``Make``; ``detail`` says why it is not."""

    image: int
    whole: bool
    detail: str = ""


class Answer(StrEnum):
    """How an HTTP request ended."""

    BODY = "body"  # as many bytes as were asked for, or fewer
    GONE = "gone"  # not there, or not any more
    FAILED = "failed"  # anything else


@dataclass(frozen=True, slots=True)
class Got:
    """The answer to a ``Get``; what came is not verified."""

    number: int
    answer: Answer
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class HealthChecked:
    """What the device thinks of the image it runs."""

    healthy: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What on the device itself, such as an empty battery, keeps it from starting and activating now, if anything."""

    obstacle: Obstacle | None


Fetched = Reused | Staged | ImageDone | Got
"""What a download waits for, beside messages from the broker."""

Event = LinkUp | LinkDown | Received | Tick | StepDone | StepFailed | HealthChecked | Conditions | Fetched


# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Store the state; nothing after it happens unless that succeeds."""

    state: AgentState


@dataclass(frozen=True, slots=True)
class Subscribe:
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    topic: str
    payload: bytes
    qos: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Begin a new session: the region is another one, and with it the last will."""


@dataclass(frozen=True, slots=True)
class Install:
    """Open the inactive slot for a release; answered by ``StepDone``."""

    release: Release


@dataclass(frozen=True, slots=True)
class Adopt:
    """Look whether an image is on the device already, and put it in place; answered by ``ImageDone``."""

    image: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Open the staged file of this name; answered by ``Staged``."""

    name: bytes


@dataclass(frozen=True, slots=True)
class Make:
    """Turn the staged file into an image, by ``codec`` or as it is; answered by ``ImageDone``."""

    image: int
    codec: str | None


@dataclass(frozen=True, slots=True)
class Get:
    """Ask for at most ``size_bytes`` over HTTP, of an image those from ``first`` on; answered by ``Got``."""

    number: int
    url: str
    ticket: str = field(repr=False)
    size_bytes: int
    first: int | None = None


@dataclass(frozen=True, slots=True)
class StopGets:
    """End every ``Get`` that is under way, at once; none of them is answered any more."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """Look for pieces on the device itself, with ``moved`` anywhere in the running image; answered by ``Reused``."""

    image: int
    pieces: tuple[Piece, ...]
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """Put verified bytes in their places, each an offset in the image and what belongs there; answers only when it
    fails, and then some of them may be there.
    """

    image: int
    parts: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Seal:
    """Verify every image of the open slot and make it bootable; answered by ``StepDone``."""


@dataclass(frozen=True, slots=True)
class Activate:
    """Boot ``slot`` on trial next time; answered by ``StepDone``."""

    slot: str


@dataclass(frozen=True, slots=True)
class Confirm:
    """Keep the running slot; answered by ``StepDone``."""


@dataclass(frozen=True, slots=True)
class Revert:
    """Never boot ``slot`` again; ``verify`` the other one first. Answered by ``StepDone``."""

    slot: str
    verify: bool = False


@dataclass(frozen=True, slots=True)
class CheckHealth:
    """Ask the platform whether the running image works; answered by ``HealthChecked``."""


@dataclass(frozen=True, slots=True)
class Reboot:
    """The last effect of this boot; the core does nothing more."""


@dataclass(frozen=True, slots=True)
class Note:
    """A fact for the device's own log: what it did and why."""

    event: str
    campaign: CampaignId | None = None
    version: str = ""
    slot: str = ""
    reason: Reason = Reason.NONE
    detail: str = ""


Effect = (
    Persist
    | Subscribe
    | Unsubscribe
    | Publish
    | Reconnect
    | Install
    | Adopt
    | Stage
    | Make
    | Get
    | StopGets
    | Reuse
    | Write
    | Seal
    | Activate
    | Confirm
    | Revert
    | CheckHealth
    | Reboot
    | Note
)


def put_answer(queue: deque[Event], effect: Effect, answer: Event) -> None:
    """Put what answers an effect where the core hears it next; what came while a slot was switched goes before.

    A halt that came during the switch has to be heard before the reboot is decided.
    """
    if isinstance(effect, Activate):
        queue.append(answer)
    else:
        queue.appendleft(answer)
