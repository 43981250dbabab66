"""``tidegate backup`` and ``tidegate restore``: the database and the blobs, beside the server and not through it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from server.config import Settings
    from server.services.backup.making import Tell

CORRUPT = 1
_NO_KEYS = "Keys are not in it: keep the keys folder and, where the embedded broker runs, the broker folder as well."


def backup(
    to: Path, *, without_blobs: Annotated[bool, Parameter(negative=())] = False, data_dir: Path | None = None
) -> int:
    """Write the database, as it is now, and the blobs that it refers to. The server may go on meanwhile.

    Which database and store, the settings of the server say (TIDEGATE_*). Exit code 1: blobs were missing or damaged
    in the store; everything else is in the backup.

    Parameters
    ----------
    to
        A new or empty folder, or a new file that ends in .zip.
    without_blobs
        Leave their bytes out, where the store has backups of its own, such as a bucket that keeps versions.
    data_dir
        Where the embedded database and the blobs live (TIDEGATE_DATA_DIR, default ./var).
    """
    import asyncio

    from firmware_store.blobs import BlobStore
    from server.cli.own_database import own_database
    from server.services.backup.making import Made, make_backup

    settings = _settings(data_dir)

    async def run(tell: "Tell") -> Made:
        async with own_database(settings) as url:
            return await make_backup(url, BlobStore.at(settings.blobs), to, with_blobs=not without_blobs, tell=tell)

    with _progress() as tell:
        made = asyncio.run(run(tell))
    blobs = made.manifest.blobs
    kept = "" if blobs.kept else " (not in it)"
    print(f"{to}: {made.manifest.rows} rows, {blobs.count} blobs of {blobs.size_bytes} bytes{kept}")
    print(f"sha256 {made.sha256}")
    print(_NO_KEYS)
    for digest in blobs.missing:
        print(f"missing or damaged {digest}")
    return CORRUPT if blobs.missing else 0


def restore(
    source: Path,
    *,
    replace: Annotated[bool, Parameter(negative=())] = False,
    sha256: str | None = None,
    data_dir: Path | None = None,
) -> int:
    """Bring a backup back, while no server runs: all of it is verified before anything is changed.

    The server's keys have to be in their place: the session key signs, for the audit, from which backup it goes on.
    Campaigns that were active come back paused, with the cause `restored`, and wait for a person. Exit code 1: some
    blobs are neither in the backup nor in the store; everything else is back.

    Parameters
    ----------
    source
        What `tidegate backup` has written.
    replace
        Drop what is in the database; without it, a database that is not empty is left as it is.
    sha256
        What `tidegate backup` has printed: nothing is restored from a backup that was altered since.
    data_dir
        Where the embedded database and the blobs live (TIDEGATE_DATA_DIR, default ./var).
    """
    import asyncio

    from firmware_store.blobs import BlobStore
    from server.cli.own_database import own_database
    from server.composition import find_grounds
    from server.services.backup.restoring import Restored, restore_backup

    settings = _settings(data_dir)
    grounds = find_grounds(settings)

    async def run(tell: "Tell") -> Restored:
        async with own_database(settings, alone=True) as url:
            store = BlobStore.at(settings.blobs)
            return await restore_backup(source, url, store, grounds, replace=replace, sha256=sha256, tell=tell)

    with _progress() as tell:
        done = asyncio.run(run(tell))
    print(f"restored as of {done.manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC: {done.manifest.rows} rows")
    for name in done.campaigns:
        print(f"stands still until somebody has looked at it: {name}")
    for digest in done.missing:
        print(f"missing {digest}")
    return CORRUPT if done.missing else 0


def _settings(data_dir: Path | None) -> "Settings":
    from server.cli.serve import read_settings

    return read_settings() if data_dir is None else read_settings(data_dir=data_dir)


@contextmanager
def _progress() -> "Iterator[Tell]":
    """Show how far each step is, on a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], total=total, completed=done)

        yield tell
