"""Asking the platform whether the running image works, beside the core: a halt must not wait for a slow check."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from device_sim.agent.events import HealthChecked

HEALTH_TIMEOUT_S: Final = 60.0

log = structlog.get_logger(__name__)


async def assume_healthy() -> bool:
    """The health check of a device that has none of its own: being welcome is proof enough."""
    return True


async def ask_health(device: str, check: Callable[[], Awaitable[bool]]) -> HealthChecked:
    """Return what ``check`` says; one that fails, or takes more than ``HEALTH_TIMEOUT_S``, says no."""
    healthy, detail = False, "the health check says no"
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            healthy = await check()
    except TimeoutError:
        detail = f"the health check took more than {HEALTH_TIMEOUT_S:g} s"
    except Exception as exc:
        log.exception("health_check_failed", device=device)
        detail = f"the health check failed: {type(exc).__name__}"
    return HealthChecked(healthy, "" if healthy else detail)
