"""The broker that every process of a bench talks to: one URL, handed down in the environment, out of ``ps``'s sight."""

import os
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, unquote, urlsplit

VARIABLE: Final = "BENCH_MQTT_URL"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the broker is, and whom it knows."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None

    @classmethod
    def from_environment(cls) -> Self:
        parts = urlsplit(os.environ.get(VARIABLE, ""))
        if parts.scheme != "mqtt" or parts.hostname is None:
            raise SystemExit(f"{VARIABLE} looks like mqtt://user:password@127.0.0.1:1883")
        return cls(
            parts.hostname,
            parts.port or 1883,
            None if parts.username is None else unquote(parts.username),
            None if parts.password is None else unquote(parts.password),
        )

    @property
    def url(self) -> str:
        if self.username is None:
            return f"mqtt://{self.host}:{self.port}"
        return f"mqtt://{quote(self.username, '')}:{quote(self.password or '', '')}@{self.host}:{self.port}"
