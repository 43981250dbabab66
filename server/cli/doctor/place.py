"""What can only be seen on the server's own machine, or with its secrets: the database itself, and its disk."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import asyncpg

from firmware_store.errors import TidegateError
from server.cli.doctor.finding import Finding, State
from server.db.migrate import check_schema

OLDEST: Final = 15
_ANSWER_S: Final = 10.0
LEAST_BYTES: Final = 1 << 30
LEAST_SHARE: Final = 0.05


async def examine_database(url: str) -> AsyncIterator[Finding]:
    """Yield how the database is: its version, and its schema."""
    try:
        connection = await asyncpg.connect(url, timeout=_ANSWER_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as exc:
        yield Finding(
            "PostgreSQL", State.FAIL, f"no connection: {exc}", "look at the URL, pg_hba.conf, and whether it runs"
        )
        return
    try:
        number = connection.get_server_version().major
    finally:
        await connection.close()
    if number < OLDEST:
        yield Finding("PostgreSQL", State.FAIL, f"version {number}", f"use PostgreSQL {OLDEST} or newer")
    else:
        yield Finding("PostgreSQL", State.OK, f"version {number}")
    try:
        await check_schema(url)
    except TidegateError as exc:
        yield Finding("schema", State.FAIL, str(exc), "run `tidegate db migrate` of the server's own release")
    else:
        yield Finding("schema", State.OK, "is this release's")


def examine_disk(folder: Path) -> Finding:
    """Return how much room there is where the data lies."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as exc:
        return Finding("disk", State.FAIL, f"{folder}: {exc.strerror}", "name the server's data folder: --data-dir")
    says = f"{folder} has {usage.free / (1 << 30):.1f} of {usage.total / (1 << 30):.1f} GiB free"
    remedy = "make room: `tidegate store gc`, `tidegate db retain`, or a larger disk"
    if usage.free < LEAST_BYTES:
        return Finding("disk", State.FAIL, says, remedy)
    if usage.free < LEAST_SHARE * usage.total:
        return Finding("disk", State.WARN, says, remedy)
    return Finding("disk", State.OK, says)
