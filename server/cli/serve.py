"""``tidegate serve``: the server, in the foreground."""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from firmware_store.errors import ConfigurationError
from server.config import Settings


def serve(
    *,
    data_dir: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    heartbeat_s: int | None = None,
    standby: bool = False,
) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    Everything else is set by TIDEGATE_* variables (docs/settings.md). On an empty database the first admin token is
    printed, once.

    Parameters
    ----------
    data_dir
        Where the embedded database, broker and the blobs live (TIDEGATE_DATA_DIR, default ./var).
    host
        Where REST listens (TIDEGATE_HOST, default 127.0.0.1).
    port
        Where REST listens (TIDEGATE_PORT, default 8080; 0 for any free port).
    heartbeat_s
        How often devices beat, in seconds (TIDEGATE_HEARTBEAT_S, default 60).
    standby
        Wait while another node serves the same database, and take over when it is gone (TIDEGATE_STANDBY).
    """
    from server import app, logs

    given = {"data_dir": data_dir, "host": host, "port": port, "heartbeat_s": heartbeat_s, "standby": standby or None}
    settings = read_settings(**{name: value for name, value in given.items() if value is not None})
    logs.configure(level=settings.log_level, as_json=settings.log_format == "json")

    def ready(facts: app.Ready) -> None:
        print(f"{'standing by' if facts.standby else 'listening'} on {facts.url}", flush=True)
        if facts.first_token is not None:
            print(f"first admin token (shown once): {facts.first_token}", flush=True)

    asyncio.run(app.run(settings, ready))


def read_settings(**given: Any) -> Settings:
    """Raises: ConfigurationError: a variable cannot be what it is."""
    try:
        return Settings(**given)
    except ValidationError as exc:
        wrong = "; ".join(f"{'_'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in exc.errors())
        raise ConfigurationError(f"A setting is wrong: {wrong}.") from exc
