"""``tidegate db``: the schema."""

import asyncio

from cyclopts import App

from firmware_store.errors import ConfigurationError

app = App(name="db", help="Bring a database's schema up to date.")


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
