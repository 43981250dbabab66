"""``tidegate drill``: what a thief gets, played with real parts.

The server, the broker, the database and the devices are the real ones, each in a process of its own; keys and releases
are made for the drill. The thief is this process: it has what the drill says was stolen, and nothing else. What it
achieved is read from the devices' own ledger and from the images on their disks.

Exit code 0 only if no device installed anything it must not, and each attack was stopped by a check that is named.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from server.cli.drill.table import Figures

DEVICES_LEAST: Final = 10
DEVICES_MOST: Final = 500

Devices = Annotated[int, Parameter(help=f"How many devices, {DEVICES_LEAST} to {DEVICES_MOST}.")]
Json = Annotated[Path | None, Parameter(help="Write the table to this file.")]

app = App(name="drill", help="See what a thief of the server, or of a key, can make devices do.")


@app.command(name="stolen-server")
def run_stolen_server(*, devices: Devices = 50, json: Json = None) -> int:
    """Own the server, its broker, its database, its blobs and its keys, and try to install what nobody released.

    The thief has everything the server had, and one of the two release keys besides. A row that says "shown" is what
    such a thief can do; everything else must be refused by every device.
    """
    from server.cli.drill.stolen_server import play

    return _run(play, devices, json)


@app.command(name="stolen-release-key")
def run_stolen_release_key(*, devices: Devices = 50, json: Json = None) -> int:
    """Own the server and one of two release keys; then replace the key, and release again."""
    from server.cli.drill.stolen_release_key import play

    return _run(play, devices, json)


@app.command(name="root-rotation")
def run_root_rotation(*, devices: Devices = 50, json: Json = None) -> int:
    """Lose the directive key, rotate the root twice while half of the devices are away, and see them catch up."""
    from server.cli.drill.root_rotation import play

    return _run(play, devices, json)


def _run(play: "Callable[[int], Awaitable[Figures]]", devices: int, json: Path | None) -> int:
    import asyncio
    import logging
    from json import dumps

    import structlog

    from firmware_store.errors import InvalidInputError
    from server.cli import ERROR, OK

    if not DEVICES_LEAST <= devices <= DEVICES_MOST:
        raise InvalidInputError(f"A drill has {DEVICES_LEAST} to {DEVICES_MOST} devices.")

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    # What the broker and the database say in their own names is in their logs; here it would be noise.

    async def main() -> "Figures":
        return await play(devices)

    figures = asyncio.run(main())
    figures.show()
    if json is not None:
        json.write_text(dumps(figures.as_json(), indent=2) + "\n", encoding="utf-8")
    return ERROR if figures.problems else OK
