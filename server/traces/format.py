"""Traces, ``haltrace/1``: a fleet's background, a release, and what should come of it; JSON lines, gzipped if ``.gz``.

The first line is ``head``; ``release`` comes once; each device has a ``dev`` line before its ``off`` line, which lists
when it was offline whatever the release did: seconds since the head's ``t0``, disjoint and rising. ``expect`` says what
a replay should conclude, ``note`` names an outage that is already inside the ``off`` lines. A missing ``download_s``
is 0, a missing ``site`` is a site of its own, and missing ``unsteady``, ``attrition_p``, ``slow``, ``faults``, ``sel``
and ``fw`` of a device mean none. ``unsteady``: away several times a day; ``habit``: away every day or two (missing: as
``unsteady`` says). ``wake`` is the wake interval that a device declares, in seconds; without it, it does not sleep. Of
its offline times, those no longer than that are sleep, which an update under way puts off. Everything else is said or
the trace is refused.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from firmware_store.errors import InvalidInputError

VERSION: Final = "haltrace/1"
_LONGEST_S: Final = 366 * 86_400
_MOST_DEVICES: Final = 2_000_000
_LINE_BYTES: Final = 1 << 20

Seconds = Annotated[float, Field(ge=0, le=_LONGEST_S, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Verdicts = Literal["halt", "hold", "complete", "pause", "brake"]


class TraceError(InvalidInputError):
    """A trace that cannot be read. ``line`` counts from 1; 0: it is about the whole file."""

    def __init__(self, message: str, *, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lognormal(_Record):
    """Seconds: ``median`` times exp(``sigma`` times a standard normal), clipped to ``min`` .. ``max``."""

    dist: Literal["lognormal"] = "lognormal"
    median: Annotated[float, Field(gt=0, le=_LONGEST_S)]
    sigma: Annotated[float, Field(ge=0, le=10)] = 0.0
    min: Seconds = 0.0
    max: Seconds = float(_LONGEST_S)


class Mqtt(_Record):
    """How the fleet beats, in seconds; ``lwt``: the broker tells when a session is lost."""

    heartbeat: Annotated[float, Field(gt=0, le=86_400)]
    keepalive: Annotated[float, Field(gt=0, le=86_400)]
    lwt: bool

    @property
    def lost_after_s(self) -> float:
        """How long after a device's last word it counts as offline (MQTT 3.1.1 3.1.2.10; 2.5 beats without a will)."""
        return 1.5 * self.keepalive if self.lwt else 2.5 * self.heartbeat


class Head(_Record):
    """The first line. ``tick`` and ``duration`` in seconds."""

    k: Literal["head"] = "head"
    v: Literal["haltrace/1"] = VERSION
    name: Name
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    unit: Literal["s"] = "s"
    tick: Annotated[float, Field(ge=1, le=3600)]
    duration: Annotated[float, Field(gt=0, le=_LONGEST_S)]
    t0: AwareDatetime
    mqtt: Mqtt
    devices: Annotated[int, Field(ge=1, le=_MOST_DEVICES)]


Span = tuple[Seconds, Seconds]


class Slow(_Record):
    """A share ``p`` of all reboots takes between ``s`` seconds; no fault of the release."""

    p: Share
    s: Span


class Selection(_Record):
    """The devices a fault is about: all, or only those of a hardware class, of a region, or that (do not) sleep."""

    hw: Name | None = None
    region: Name | None = None
    sleeps: bool | None = None


class Fault(_Record):
    """What a release does to a share ``p`` of the selected devices.

    ``brick``: never back from the reboot. ``flap``: from then on away for ``off_s`` every ``every_s``. ``late``: dead
    ``after_s`` after the reboot. ``slow``: back after ``reboot_s``.
    """

    kind: Literal["brick", "flap", "late", "slow"]
    p: Share
    sel: Selection = Selection()
    every_s: Span | None = None
    off_s: Span | None = None
    after_s: Lognormal | None = None
    reboot_s: Span | None = None

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        needed = {"brick": (), "flap": ("every_s", "off_s"), "late": ("after_s",), "slow": ("reboot_s",)}[self.kind]
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"a fault {self.kind} says its {name}")
        for span in (self.every_s, self.off_s, self.reboot_s):
            if span is not None and not 1 <= span[0] <= span[1]:
                raise ValueError("the times of a fault are 1 s or more, the shortest first")
        return self


class Release(_Record):
    """What devices do when they update. Of all that reboot, ``attrition_p`` never return, whatever the release."""

    k: Literal["release"] = "release"
    fw: Name
    reboot: Lognormal
    slow: Slow | None = None
    download_s: Lognormal | None = None
    attrition_p: Share = 0.0
    faults: tuple[Fault, ...] = ()


class Expect(_Record):
    """What a replay should conclude: one of the verdicts joined by ``|``, what must happen on the way, and what not."""

    k: Literal["expect"] = "expect"
    verdict: Annotated[str, Field(pattern=r"^(halt|hold|complete|any)(\|(halt|hold|complete|any))*$")]
    scope: Name | None = None
    channel: Name | None = None
    must: tuple[Verdicts, ...] = ()
    must_not: tuple[Verdicts, ...] = ()


class Note(_Record):
    """An outage that is already inside the ``off`` lines; ``broker``: of our own broker, so that we are blind, too."""

    k: Literal["note"] = "note"
    t: Seconds
    d: Seconds
    what: Name
    devices: Annotated[int, Field(ge=0)] = 0
    region: Name | None = None


class _Dev(_Record):
    k: Literal["dev"]
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{2,63}$")]
    region: Name
    hw: Name
    site: Name | None = None
    unsteady: bool = False
    habit: bool | None = None
    wake: Annotated[float, Field(gt=0, le=31 * 86_400)] | None = None
    fw: str = ""


class _Off(_Record):
    k: Literal["off"]
    id: str
    iv: list[Span]


@dataclass(frozen=True, slots=True)
class Devices:
    """The fleet in columns of n: ``region``, ``hardware`` and ``site`` index the three tuples of names.

    ``unsteady`` devices are away several times a day, ``away_by_habit`` every day or two (None: the unsteady ones).
    ``wake_s``: what each declares as its wake interval, in seconds; 0: it does not sleep.
    """

    ids: Sequence[str]
    regions: tuple[str, ...]
    classes: tuple[str, ...]
    sites: tuple[str, ...]
    region: npt.NDArray[np.int16]
    hardware: npt.NDArray[np.int16]
    site: npt.NDArray[np.int32]
    unsteady: npt.NDArray[np.bool_]
    wake_s: npt.NDArray[np.float64]
    away_by_habit: npt.NDArray[np.bool_] | None = None
    fw: str = ""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Away:
    """When devices were offline whatever the release did: columns sorted by device, then by start (seconds)."""

    device: npt.NDArray[np.int64]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trace:
    head: Head
    release: Release
    devices: Devices
    away: Away
    expect: Expect | None = None
    notes: tuple[Note, ...] = field(default=())

    @property
    def epoch(self) -> float:
        """The head's ``t0`` in Unix seconds."""
        return self.head.t0.timestamp()


_LINE: Final[TypeAdapter[Any]] = TypeAdapter(
    Annotated[Head | Release | Expect | Note | _Dev | _Off, Field(discriminator="k")]
)


def read_trace(path: Path) -> Trace:
    """Read a trace.

    Raises:
        TraceError: the file is not there, is no trace, or says two things that cannot both be.
    """
    reader = _Reader()
    number = 0
    try:
        with _open(path, "rb") as file:
            while line := file.readline(_LINE_BYTES + 1):
                number += 1
                if len(line) > _LINE_BYTES:
                    raise TraceError("longer than 1 MiB.", line=number)
                if line.strip():
                    reader.take(line, number)
    except (OSError, EOFError, zlib.error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise TraceError(f"{path}: {reason}.", line=0) from exc
    return reader.finish()


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace; an existing file is replaced.

    Raises:
        TraceError: it cannot be written.
    """
    try:
        with _open(path, "wb") as file:
            for record in lines_of(trace):
                file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    except OSError as exc:
        raise TraceError(f"{path}: {exc.strerror or exc}.") from exc


def lines_of(trace: Trace) -> Iterator[dict[str, Any]]:
    """The records of a trace in their order, ready for JSON."""
    yield _plain(trace.head)
    yield _plain(trace.release)
    if trace.expect is not None:
        yield _plain(trace.expect)
    for note in trace.notes:
        yield _plain(note)
    devices, away = trace.devices, trace.away
    by_habit = devices.unsteady if devices.away_by_habit is None else devices.away_by_habit
    bounds = np.searchsorted(away.device, np.arange(len(devices) + 1))
    for index, name in enumerate(devices.ids):
        yield {
            "k": "dev",
            "id": name,
            "region": devices.regions[devices.region[index]],
            "hw": devices.classes[devices.hardware[index]],
            "site": devices.sites[devices.site[index]],
            "unsteady": bool(devices.unsteady[index]),
            "habit": bool(by_habit[index]),
            **({"wake": _short(float(devices.wake_s[index]))} if devices.wake_s[index] else {}),
            "fw": devices.fw,
        }
    for index, name in enumerate(devices.ids):
        first, last = bounds[index], bounds[index + 1]
        if first < last:
            pairs = zip(away.start[first:last].tolist(), away.end[first:last].tolist(), strict=True)
            yield {"k": "off", "id": name, "iv": [[_short(start), _short(end)] for start, end in pairs]}


class _Reader:
    """Takes a trace line by line, and says what is wrong with which."""

    def __init__(self) -> None:
        self._head: Head | None = None
        self._release: Release | None = None
        self._expect: Expect | None = None
        self._notes: list[Note] = []
        self._index: dict[str, int] = {}
        self._regions = _Names()
        self._classes = _Names()
        self._sites = _Names()
        self._unsteady: list[bool] = []
        self._by_habit: list[bool] = []
        self._wake_s: list[float] = []
        self._fw = ""
        self._away: dict[int, list[Span]] = {}

    def take(self, line: bytes, number: int) -> None:
        try:
            record = _LINE.validate_json(line)
        except ValidationError as exc:
            raise TraceError(_words(exc), line=number) from exc
        try:
            self._take(record)
        except TraceError as exc:
            raise TraceError(str(exc), line=number) from exc

    def _take(self, record: object) -> None:
        if self._head is None and not isinstance(record, Head):
            raise TraceError("the first line of a trace is its head.")
        match record:
            case Head():
                self._head = _only(self._head, record)
            case Release():
                self._release = _only(self._release, record)
            case Expect():
                self._expect = _only(self._expect, record)
            case Note():
                self._notes.append(record)
            case _Dev():
                self._add(record)
            case _Off():
                self._take_off(record)

    def _add(self, record: _Dev) -> None:
        assert self._head is not None
        if record.id in self._index:
            raise TraceError(f"device {record.id} comes twice.")
        if len(self._index) >= self._head.devices:
            raise TraceError(f"more devices than the head's {self._head.devices}.")
        self._index[record.id] = len(self._index)
        self._regions.add(record.region)
        self._classes.add(record.hw)
        self._sites.add(record.site if record.site is not None else f"alone-{record.id}")
        self._unsteady.append(record.unsteady)
        self._by_habit.append(record.unsteady if record.habit is None else record.habit)
        self._wake_s.append(record.wake or 0.0)
        self._fw = self._fw or record.fw

    def _take_off(self, record: _Off) -> None:
        index = self._index.get(record.id)
        if index is None:
            raise TraceError(f"device {record.id} has no dev line before this one.")
        if index in self._away:
            raise TraceError(f"device {record.id} has its off line already.")
        before = -math.inf
        for start, end in record.iv:
            if not before < start < end:
                raise TraceError(f"the offline times of device {record.id} are not disjoint and rising.")
            before = end
        self._away[index] = record.iv

    def finish(self) -> Trace:
        if self._head is None:
            raise TraceError("an empty file is no trace.")
        if self._release is None:
            raise TraceError("the trace has no release line.")
        if len(self._index) != self._head.devices:
            raise TraceError(f"the head promises {self._head.devices} devices, and {len(self._index)} came.")
        devices = Devices(
            ids=list(self._index),
            regions=self._regions.names(),
            classes=self._classes.names(),
            sites=self._sites.names(),
            region=self._regions.column(np.int16),
            hardware=self._classes.column(np.int16),
            site=self._sites.column(np.int32),
            unsteady=np.array(self._unsteady, np.bool_),
            away_by_habit=np.array(self._by_habit, np.bool_),
            wake_s=np.array(self._wake_s, np.float64),
            fw=self._fw,
        )
        self._check_selections(devices)
        return Trace(self._head, self._release, devices, self._columns(), self._expect, tuple(self._notes))

    def _check_selections(self, devices: Devices) -> None:
        assert self._release is not None
        for fault in self._release.faults:
            for name, known in ((fault.sel.hw, devices.classes), (fault.sel.region, devices.regions)):
                if name is not None and name not in known:
                    raise TraceError(f"a fault selects {name}, which no device is of.")
            if fault.sel.sleeps is not None and not np.any((devices.wake_s > 0) == fault.sel.sleeps):
                raise TraceError("a fault selects devices by whether they sleep, and there are none of these.")

    def _columns(self) -> Away:
        order = sorted(self._away)
        counts = [len(self._away[index]) for index in order]
        spans = np.array([span for index in order for span in self._away[index]], np.float64).reshape(-1, 2)
        return Away(np.repeat(np.array(order, np.int64), counts), spans[:, 0].copy(), spans[:, 1].copy())


class _Names:
    """A column of names as numbers in the order they first come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._column: list[int] = []

    def add(self, name: str) -> None:
        self._column.append(self._numbers.setdefault(name, len(self._numbers)))

    def names(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def column(self, kind: type[Any]) -> npt.NDArray[Any]:
        if len(self._numbers) > np.iinfo(kind).max:
            raise TraceError(f"more than {np.iinfo(kind).max} different names of one kind.")
        return np.array(self._column, kind)


def _only(before: Any, record: Any) -> Any:
    if before is not None:
        raise TraceError(f"a second {record.k} line.")
    return record


def _open(path: Path, mode: Literal["rb", "wb"]) -> IO[bytes]:
    if path.suffix != ".gz":
        return path.open(mode)
    return gzip.open(path, mode, compresslevel=5)  # type: ignore[return-value]


def _plain(record: BaseModel) -> dict[str, Any]:
    plain = record.model_dump(mode="json", exclude_none=True, exclude_defaults=False)
    return {"k": plain.pop("k"), **plain}


def _short(value: float) -> float:
    return int(value) if value == int(value) else value


def _words(exc: ValidationError) -> str:
    first = exc.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where + ': ' if where else ''}{first['msg']}."
