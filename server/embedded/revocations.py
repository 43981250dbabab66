"""Whose credentials the embedded broker refuses, and from when on it accepts newer ones: kept in the broker's folder.

The database knows it too; the file is there so that the broker alone, even beside a database that was restored from
an old backup, never lets a revoked device in again.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from firmware_store.errors import ConfigurationError, InvalidInputError
from server.domain.enrolment import CREDENTIAL_LIFE
from server.domain.identity import DeviceId, device_id
from server.embedded.process import write_private

_KEEP: Final = CREDENTIAL_LIFE + timedelta(days=1)
"""After this the credentials that an entry is about have expired by themselves."""


class Revocations:
    """Device -> Unix second: its credentials issued then or earlier are refused."""

    def __init__(self, path: Path) -> None:
        """Raises: ConfigurationError: the file is damaged; it is not replaced."""
        self._path = path
        self._seconds = _read(path)

    def as_seconds(self) -> dict[str, int]:
        return {str(name): second for name, second in self._seconds.items()}

    def add(self, devices: Mapping[DeviceId, datetime], *, now: datetime) -> None:
        """Write them down; an entry never moves back. Blocking."""
        forgotten = int((now - _KEEP).timestamp())
        merged = {name: second for name, second in self._seconds.items() if second > forgotten}
        for name, at in devices.items():
            if (second := int(at.timestamp())) > forgotten:
                merged[device_id(name)] = max(second, merged.get(name, 0))
        if merged != self._seconds:
            write_private(self._path, json.dumps(merged, indent=1, sort_keys=True) + "\n")
            self._seconds = merged


def _read(path: Path) -> dict[DeviceId, int]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {device_id(name): int(second) for name, second in stored.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, InvalidInputError) as exc:
        raise ConfigurationError(f"{path} is damaged: restore it from a backup.") from exc
