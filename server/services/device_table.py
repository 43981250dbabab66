"""Devices as a table (CSV): written row by row, and read as a whole or not at all, with the lines of bad rows named."""

import csv
import io
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from pydantic import ValidationError

from firmware_store.errors import ForbiddenError, InvalidInputError, TidegateError, TooLargeError
from server.db.devices import DeviceRecord, DeviceRepository, ImportedDevice
from server.domain.change import Change
from server.domain.filter import Expression
from server.domain.identity import cohort, device_id, region
from server.domain.scope import EVERYTHING, Scope
from server.services.fleet import Fleet

log = structlog.get_logger(__name__)

WRITTEN: Final = (
    *("id", "region", "cohort", "labels", "vendor", "hardware", "version", "agent_version", "held", "last_seen"),
)
READ: Final = ("id", "region", "cohort", "labels")
"""What an import takes up; the other columns of an export are left alone."""

ROWS_MOST: Final = 200_000
LINE_MOST_BYTES: Final = 16_384
NAMED_MOST: Final = 20
"""Bad rows that are named; the others are counted."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "'")
"""What makes a spreadsheet calculate a cell, or hide what it begins with: devices choose what they say."""


class DeviceTable:
    """Exports and imports."""

    def __init__(self, *, repository: DeviceRepository, fleet: Fleet) -> None:
        self._repository = repository
        self._fleet = fleet

    async def write(self, expression: Expression, *, scope: Scope = EVERYTHING) -> AsyncIterator[bytes]:
        """Yield the lines of the devices within ``scope`` that a filter lets through, some at a time."""
        yield _line(WRITTEN)
        lines: list[bytes] = []
        async for record in self._repository.each_of(expression, scope=scope):
            lines.append(_line(_cells(record)))
            if len(lines) == 500:
                yield b"".join(lines)
                lines.clear()
        yield b"".join(lines)

    async def read(self, pieces: AsyncIterable[bytes], *, scope: Scope = EVERYTHING) -> int:
        """Add the devices of a table, all or none; returns how many.

        Raises:
            InvalidInputError: rows are wrong; the first of them are named with their lines. Nothing was added.
            ForbiddenError: some are not within ``scope``; nothing was added.
        """
        now = datetime.now(UTC)
        devices = await _parsed(pieces)
        if (beyond := next((one for one in devices if not scope.has(one.region, one.cohort)), None)) is not None:
            raise ForbiddenError(f"Line {beyond.line}: your access is limited to {scope}; none was added.")
        wrong = await self._repository.import_all(devices, now=now)
        if wrong:
            raise _refused([(line, f"{name} {why}") for line, name, why in wrong])
        for one in devices:
            self._fleet.add(DeviceRecord(one.id, one.region, one.cohort, now, operator_labels=one.labels))
        log.info("devices_imported", devices=len(devices))
        return len(devices)


async def _parsed(pieces: AsyncIterable[bytes]) -> list[ImportedDevice]:
    """Read all rows. Raises: InvalidInputError."""
    columns: Sequence[str] | None = None
    devices: list[ImportedDevice] = []
    wrong: list[tuple[int, str]] = []
    async for number, text in _lines(pieces):
        if not text.strip():
            continue
        try:
            cells = _split(text)
            if columns is None:
                columns = _columns(cells)
                continue
            devices.append(_device(number, dict(zip(columns, cells, strict=True))))
        except (TidegateError, ValidationError, ValueError, csv.Error) as exc:
            wrong.append((number, _why(exc)))
            if columns is None:
                break
        if len(devices) + len(wrong) > ROWS_MOST:
            raise InvalidInputError(f"A table has at most {ROWS_MOST:,} devices; nothing was added.")
    seen: dict[str, int] = {}
    for one in devices:
        if (first := seen.setdefault(one.id, one.line)) != one.line:
            wrong.append((one.line, f"{one.id} is in line {first} already"))
    if wrong:
        raise _refused(wrong)
    if columns is None or not devices:
        raise InvalidInputError("The table has no devices: its first line names the columns id, region and cohort.")
    return devices


async def _lines(pieces: AsyncIterable[bytes]) -> AsyncIterator[tuple[int, str]]:
    """Yield numbered lines, from 1. Raises: InvalidInputError, TooLargeError."""
    number, rest = 0, b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > LINE_MOST_BYTES:
            raise TooLargeError("A line of the table is too long.", limit_bytes=LINE_MOST_BYTES)
        for line in whole:
            number += 1
            yield number, _text(line, number)
    if rest:
        yield number + 1, _text(rest, number + 1)


def _text(line: bytes, number: int) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InvalidInputError(f"Line {number} is no UTF-8; nothing was added.") from None


def _split(text: str) -> list[str]:
    (cells,) = csv.reader([text], strict=True)
    return [cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell for cell in cells]


def _columns(cells: Sequence[str]) -> Sequence[str]:
    if unknown := [cell for cell in cells if cell not in WRITTEN]:
        raise InvalidInputError(f"there is no column {unknown[0]!r}; there are {', '.join(WRITTEN)}")
    if missing := [name for name in ("id", "region", "cohort") if name not in cells]:
        raise InvalidInputError(f"the column {missing[0]} is missing")
    if len(set(cells)) < len(cells):
        raise InvalidInputError("a column is there twice")
    return cells


def _device(number: int, cells: dict[str, str]) -> ImportedDevice:
    labels: dict[str, Any] = json.loads(cells.get("labels") or "{}")
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        raise InvalidInputError('labels are JSON such as {"site": "hamburg"}')
    if labels:
        Change(labels=labels)
    return ImportedDevice(
        line=number,
        id=_checked(device_id, cells["id"]),
        region=_checked(region, cells["region"]),
        cohort=_checked(cohort, cells["cohort"]),
        labels=labels,
    )


def _checked(check: Callable[[str], Any], text: str) -> Any:
    try:
        return check(text)
    except InvalidInputError as exc:
        raise InvalidInputError(f"{text!r}: {exc}") from None


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors(include_url=False)[0]["msg"])
    if isinstance(error, json.JSONDecodeError):
        return 'labels are JSON such as {"site": "hamburg"}'
    if isinstance(error, ValueError) and "zip()" in str(error):
        return "it has not as many cells as the first line"
    return str(error).rstrip(".")


def _refused(wrong: Sequence[tuple[int, str]]) -> InvalidInputError:
    named = "; ".join(f"line {number}: {why}" for number, why in sorted(wrong)[:NAMED_MOST])
    more = f"; and {len(wrong) - NAMED_MOST} more" if len(wrong) > NAMED_MOST else ""
    return InvalidInputError(f"Nothing was added, {len(wrong)} rows are wrong: {named}{more}.")


def _cells(record: DeviceRecord) -> Sequence[str]:
    return (
        *(record.id, record.region, record.cohort, json.dumps(dict(record.operator_labels))),
        *(record.vendor or "", record.hardware or "", record.running_version or "", record.agent_version or ""),
        *("true" if record.held else "false", "" if record.last_seen is None else record.last_seen.isoformat()),
    )


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells])
    return text.getvalue().replace("\r\n", "\n").encode()
