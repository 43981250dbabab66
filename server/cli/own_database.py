"""The database of the server's settings, for commands that work beside the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.config import Settings
from server.embedded import EmbeddedPostgres


@asynccontextmanager
async def own_database(settings: Settings, *, alone: bool = False) -> AsyncIterator[str]:
    """Give the database's URL; the embedded one is started where it does not run. ``alone``: no server may run.

    Raises:
        ConfigurationError, StoreUnavailableError: the embedded one cannot be started, or a server runs it.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    running = None if alone else EmbeddedPostgres.running_url(settings.data_dir)
    if running is not None:
        yield running
        return
    async with EmbeddedPostgres(settings.data_dir) as postgres:
        yield postgres.database_url
