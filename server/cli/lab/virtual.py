"""A scenario in virtual time, from the command line."""

import asyncio
import gc
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from device_sim.scenario.model import Scenario
from device_sim.scenario.outcome import Outcome
from device_sim.virtual.run import run as play

DEVICES_MOST: Final = 200_000


def run(scenario: Scenario, *, devices: int | None, seed: int, ledger: Path | None) -> Outcome:
    """Play it in this process. A fleet lives as long as the run does, so nothing is gained by looking for waste.

    Raises:
        InvalidInputError: it is for the wire.
    """
    with ExitStack() as stack:
        file = None if ledger is None else stack.enter_context(ledger.open("w", encoding="utf-8"))
        gc.disable()
        stack.callback(gc.enable)
        return asyncio.run(play(scenario, devices=devices, seed=seed, trace=file))
