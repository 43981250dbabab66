"""``tidegate db``: the schema, and what in it is old."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from firmware_store.errors import ConfigurationError

if TYPE_CHECKING:
    from server.config import Settings
    from server.db.retention import Kind

app = App(name="db", help="Bring a database's schema up to date, and delete what is old.")


@app.command
def migrate(*, database_url: str | None = None) -> None:
    """Apply the migrations that are missing.

    The embedded database is migrated by `tidegate serve` itself.

    Parameters
    ----------
    database_url
        A PostgreSQL URL (TIDEGATE_DATABASE_URL).
    """
    from server.cli.serve import read_settings
    from server.db.migrate import apply_migrations

    configured = read_settings().database_url
    url = database_url or (None if configured is None else configured.get_secret_value())
    if url is None:
        raise ConfigurationError("Say which database: --database-url or TIDEGATE_DATABASE_URL.")
    applied = asyncio.run(apply_migrations(url))
    for migration in applied:
        print(f"applied {migration}")
    if not applied:
        print("up to date")


@app.command
def retain(
    *,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    days: int | None = None,
    decisions_days: int | None = None,
    data_dir: Path | None = None,
) -> None:
    """Delete what is old, in small batches: the audit never, and nothing of a campaign that goes on.

    The server does the same once a day (TIDEGATE_RETAIN_DAYS, TIDEGATE_RETAIN_DECISIONS_DAYS). Which database, its
    settings say.

    Parameters
    ----------
    dry_run
        Only say how many rows would be deleted.
    days
        How old what devices reported, claims that ended and operations that ended become; 0: kept for ever.
    decisions_days
        The same, of the decisions of campaigns that are over, with the numbers they were made on.
    data_dir
        Where the embedded database lives (TIDEGATE_DATA_DIR, default ./var).
    """
    from server.cli.serve import read_settings

    given = {"data_dir": data_dir, "retain_days": days, "retain_decisions_days": decisions_days}
    settings = read_settings(**{name: value for name, value in given.items() if value is not None})
    found = asyncio.run(_retain(settings, dry_run=dry_run))
    for kind, count in found.items():
        print(f"{'would be deleted' if dry_run else 'deleted'}: {count} {kind}")


async def _retain(settings: "Settings", *, dry_run: bool) -> "dict[Kind, int]":
    from getpass import getuser

    from rich.console import Console
    from rich.progress import Progress

    from server.cli.own_database import own_database
    from server.db.database import Database
    from server.db.pool import close_pool, open_pool
    from server.db.retention import Kind, RetentionRepository
    from server.services.retention import Retention, ages_of

    console = Console(stderr=True)
    ages = ages_of(days=settings.retain_days, decisions_days=settings.retain_decisions_days)
    async with own_database(settings) as url:
        pool = await open_pool(url, max_size=1)
        try:
            retention = Retention(RetentionRepository(Database(pool)), ages)
            if dry_run:
                return await retention.count()
            with Progress(console=console, disable=not console.is_terminal) as progress:
                tasks = {kind: progress.add_task(kind.value, total=None) for kind in ages}

                def tell(kind: Kind, done: int, total: int) -> None:
                    progress.update(tasks[kind], total=total, completed=done)

                return await retention.clear(who=f"{getuser()} (tidegate db retain)", tell=tell)
        finally:
            await close_pool(pool)
