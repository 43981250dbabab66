"""``tidegate demo``: the main job on real parts, in three minutes.

Three processes, as in the field: the server (`tidegate serve`), the devices (`tidegate sim fleet`) and this driver,
which talks to the server by REST alone. A good release goes out to everybody; then a bad one, which must halt by
itself.
"""

from pathlib import Path


def demo(*, devices: int = 300, seed: int = 1, json: Path | None = None, keep: bool = False) -> int:
    """Roll a good release out to a simulated fleet, then watch a bad one halt by itself.

    Exit code 0 only if every device confirmed the good release, the bad one was halted by the rule, and no device was
    left in a state that the release explains badly.

    Parameters
    ----------
    devices
        How many devices, 100 to 2000, over four regions and two hardware revisions.
    seed
        Which devices the bad release bricks, and how long reboots take.
    json
        Write the figures to this file.
    keep
        Leave the server and the devices running at the end, and say how to look around.
    """
    import asyncio
    from json import dumps

    from firmware_store.errors import InvalidInputError
    from server.cli import ERROR, OK
    from server.cli.demo.show import run

    if not 100 <= devices <= 2000:
        raise InvalidInputError("The demo has 100 to 2000 devices.")
    try:
        figures = asyncio.run(run(devices=devices, seed=seed, keep=keep))
    except asyncio.CancelledError:
        return ERROR  # told to end
    if json is not None:
        json.write_text(dumps(figures, indent=2) + "\n", encoding="utf-8")
    return ERROR if figures["problems"] else OK
