"""Running a fleet as a process: signals, limits, and word that it is ready."""

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from device_sim.agent.device import DeviceConfig
from device_sim.fleet import Fleet, FleetOptions
from device_sim.ledger import Ledger


async def serve(configs: Sequence[DeviceConfig], *, options: FleetOptions, ledger: Path | None) -> None:
    """Run the fleet until SIGINT or SIGTERM, which let every device disconnect in order."""
    log_to_stderr(logging.INFO)
    raise_file_limit()
    truth = Ledger(ledger)
    fleet = Fleet(configs, options=options, ledger=truth)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, fleet.stop)
    telling = asyncio.create_task(_say_when_ready(fleet, len(configs)), name="ready")
    try:
        await fleet.run()
    finally:
        telling.cancel()
        truth.close()


async def _say_when_ready(fleet: Fleet, count: int) -> None:
    await fleet.connected.wait()
    print(f"READY {count}", file=sys.stderr, flush=True)


def log_to_stderr(level: int) -> None:
    """Let devices log what is of this level (of ``logging``) or above it; standard output is not theirs."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def raise_file_limit() -> None:
    """A device needs a socket, and for moments a file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
