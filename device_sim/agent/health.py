"""Asking the platform whether the running image works, beside the core: a halt must not wait for a slow check."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from device_sim.agent.events import HealthChecked
from firmware_store.errors import TidegateError

HEALTH_TIMEOUT_S: Final = 60.0

log = structlog.get_logger(__name__)


class UnhealthyError(TidegateError):
    """A health check has said no, and why."""


async def assume_healthy() -> bool:
    """The health check of a device that has none of its own: being welcome is proof enough."""
    return True


async def ask_health(
    device: str, check: Callable[[], Awaitable[bool]], *, timeout_s: float = HEALTH_TIMEOUT_S
) -> HealthChecked:
    """Return what ``check`` says; one that fails, or takes more than ``timeout_s``, says no."""
    healthy, detail = False, "the health check says no"
    try:
        async with asyncio.timeout(timeout_s):
            healthy = await check()
    except TimeoutError:
        detail = f"the health check took more than {timeout_s:g} s"
    except UnhealthyError as exc:
        detail = str(exc)
    except Exception as exc:
        log.exception("health_check_failed", device=device)
        detail = f"the health check failed: {type(exc).__name__}"
    return HealthChecked(healthy, "" if healthy else detail)
