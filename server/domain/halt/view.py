"""What the halt rule sees of a fleet at one moment, and what it concludes: arrays in, one value out.

Devices have an index that never changes during a run of a campaign; new ones are appended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

NOBODY: Final[Indices] = np.empty(0, np.int64)


UNBOUNDED: Final = 1 << 40
"""More room than any fleet needs."""

DARK_WAKES: Final = 1.5
"""A device that sleeps is dark when nothing was heard of it for so many of its wake intervals: it has missed a wake."""


@dataclass(frozen=True, slots=True)
class Population:
    """What does not change about ``n`` devices.

    ``region`` and ``hardware`` index ``regions`` and ``classes`` (int16, shape n); ``height`` is the device's height in
    the campaign (uint32, shape n). In their own last week, ``unsteady`` devices were away several times a day (bool,
    shape n), and those ``away_by_habit`` every day or two, the unsteady ones among them; None: the unsteady ones.
    ``named`` canaries are no random sample, so they are compared with nothing; ``site`` (any integers) is where devices
    go dark together. ``wake_s`` are the wake intervals of devices that sleep, in seconds (float64, 0: it does not).
    None: there are none, or it is not known.
    """

    regions: tuple[str, ...]
    classes: tuple[str, ...]
    region: npt.NDArray[np.int16]
    hardware: npt.NDArray[np.int16]
    height: npt.NDArray[np.uint32]
    unsteady: Bools
    away_by_habit: Bools | None = None
    named: Bools | None = None
    site: Indices | None = None
    wake_s: Floats | None = None

    def __len__(self) -> int:
        return len(self.height)

    @property
    def settled(self) -> Bools:
        """Devices whose silence of an hour says something: they are not away by habit (mask)."""
        return ~(self.unsteady if self.away_by_habit is None else self.away_by_habit)

    @property
    def wakes_s(self) -> Floats:
        """``wake_s``, with 0 for everybody where nobody sleeps."""
        return np.zeros(len(self)) if self.wake_s is None else self.wake_s


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known at ``now`` (Unix seconds), and what has happened since the moment before.

    Arrays of shape n: ``last_seen`` (Unix seconds, -inf: never), ``online``, and ``present`` (it may be compared: it is
    here, not held, and eligible, or this campaign has updated it). ``level`` is the level of each region (shape
    regions, int64).

    News, as indices of devices: ``started`` have begun (a download), ``rebooted`` have a committed report of their
    reboot at ``rebooted_at``, ``over`` will not reboot any more (cancelled, failed or rejected before it), ``failed``
    have said themselves that the release failed (families signature, boot, health), ``succeeded`` have confirmed, and
    ``dropped`` have lost a session (each as often as it did). ``is_blind``: since the moment before, our own session at
    the broker was down or the evaluator late.
    """

    now: float
    last_seen: Floats
    online: Bools
    present: Bools
    level: Indices
    started: Indices
    rebooted: Indices
    rebooted_at: Floats
    over: Indices
    failed: Indices
    succeeded: Indices
    dropped: Indices
    is_blind: bool = False


class Call(IntEnum):
    """What the rule asks for, in the order of its severity."""

    GO = 0
    BRAKE = 1
    HOLD = 2
    HALT = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rule concludes at one moment.

    ``wealth`` is M, the weighted sum of all wealths. ``channel`` and ``scope`` name the largest term: ``g1`` and
    ``hardware rev-c``; or ``rail``, ``explicit``, ``late``, and ``fleet``. Of that scope, so far: ``silent`` of
    ``judged`` updated devices, ``control_silent`` of ``controls`` comparable ones (for ``flap``: flapping ones).

    ``bad_weather`` names the regions where nothing is judged now; ``is_blind`` means everywhere, ``is_storm_ours``
    that only regions being updated went bad while others stay good. ``room_in_...`` bounds how many more devices may
    start now (shapes: regions, classes), ``room`` in the whole campaign, ``room_of_sleepers`` how many of those that
    sleep, which take none of the room of regions and classes; ``pace`` scales the rate (1.0; 0.0 while the brake waits;
    0.1 after it).
    """

    call: Call = Call.GO
    wealth: float = 1.0
    channel: str = ""
    scope: str = ""
    why: str = ""
    judged: int = 0
    silent: int = 0
    controls: int = 0
    control_silent: int = 0
    is_weather_known: bool = True
    is_blind: bool = False
    is_storm_ours: bool = False
    bad_weather: frozenset[str] = frozenset()
    bad_since: float | None = None
    room_in_regions: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    room_in_classes: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    room: int = UNBOUNDED
    room_of_sleepers: int = UNBOUNDED
    in_flight: int = 0
    pace: float = 1.0
    excess_silent: Floats = field(default_factory=lambda: np.empty(0))
    """Silent updated devices beyond what their neighbours' rate explains, by region, each with its own shadows."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Every number that the sentence is made of, and the terms of M; JSON."""
