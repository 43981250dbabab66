"""A real device: the agent's runner with slots, health checks, gates and a watchdog around it, over its reboots."""

import asyncio
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from device_sim.agent.authorities import read_authorities
from device_sim.agent.boot_environment import SlotState
from device_sim.agent.device import DeviceConfig
from device_sim.agent.events import Note
from device_sim.agent.http_client import HttpClient
from device_sim.agent.runner import Outcome, Runner
from device_sim.gateway.backends import open_slots
from device_sim.gateway.config import AgentConfig
from device_sim.gateway.gates import find_obstacle
from device_sim.gateway.health_checks import HealthChecks
from device_sim.gateway.settings import device_config, enrolled_folder, utc_offset_minutes
from device_sim.gateway.watchdog import ServiceManager, keep_alive
from firmware_store.errors import TidegateError

RENEWAL_LOOK_S: Final = 3600.0

log = structlog.get_logger(__name__)


class Gateway:
    """``await run()`` until ``stop``, which SIGTERM calls.

    ``renew`` asks for the next certificate, and may block: it is called once the present one is due.
    """

    def __init__(self, config: AgentConfig, *, manager: ServiceManager, renew: Callable[[], None]) -> None:
        self._config = config
        self._manager = manager
        self._renew = renew
        self._health = HealthChecks(config.health.directory, timeout_s=config.health.timeout_s)
        self._runner: Runner | None = None
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End in order."""
        self._stopping.set()
        if self._runner is not None:
            self._runner.stop()

    async def run(self) -> None:
        """Serve until stopped. A reboot is asked for again and again until it comes.

        Also where the agent cannot go on and its release is on trial: each boot uses up one of the bootloader's tries,
        and after the last one the device is back on the release before.

        Raises:
            TidegateError: the configuration, the slots or the state cannot be used.
        """
        try:
            await self._serve()
        except Exception:
            if self._is_on_trial():
                log.exception("agent_failed_on_trial")
                await self._reboot()
            raise

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        watchdog = self._config.watchdog
        watching = keep_alive(
            self._manager, watchdog.device, interval_s=watchdog.interval_s, ends_in_order=self._stopping.is_set
        )
        beside = [
            asyncio.create_task(watching, name="watchdog"),
            asyncio.create_task(self._watch_conditions(), name="conditions"),
            asyncio.create_task(self._watch_settings(), name="settings"),
        ]
        life = asyncio.create_task(self._live(), name="agent")
        try:
            await asyncio.wait((life, *beside), return_when=asyncio.FIRST_COMPLETED)
            for task in (life, *beside):
                if task.done():
                    task.result()
            await life
        finally:
            self._manager.tell("STOPPING=1")
            for task in (life, *beside):
                task.cancel()
            await asyncio.gather(life, *beside, return_exceptions=True)

    def _is_on_trial(self) -> bool:
        """Whether the slots say so; where they cannot be read, nothing is known that a reboot would mend."""
        try:
            slots = open_slots(self._config)
            booted = slots.booted()
            return any(slot.name == booted and slot.state is SlotState.TRIAL for slot in slots.slots())
        except TidegateError:
            return False

    async def _live(self) -> None:
        await self._pause(random.uniform(0, self._config.connect_jitter_s))
        async with HttpClient(tls=read_authorities(self._config.authorities)) as http:
            while not self._stopping.is_set():
                outcome = await self._run_once(http if self._config.http else None)
                if outcome is Outcome.REBOOT:
                    await self._reboot()

    async def _run_once(self, http: HttpClient | None) -> Outcome:
        """Run until a reboot is due, or the settings have changed, or the end."""
        settings: DeviceConfig = replace(device_config(self._config), health_timeout_s=self._health.longest_s)
        slots = open_slots(self._config, at_start=True)
        self._runner = Runner(settings, slots, check_health=self._health.check, observe=_write_down, http=http)
        self._runner.tell_conditions(find_obstacle(self._config.gates, self._config.state))
        self._manager.tell("READY=1")
        log.info("agent_started", device=settings.device_id, slot=slots.booted())
        try:
            return await self._runner.run()
        finally:
            self._runner = None

    async def _reboot(self) -> None:
        """Run the command until the reboot ends us."""
        while not self._stopping.is_set():
            log.info("agent_rebooting", command=self._config.reboot.command)
            try:
                process = await asyncio.create_subprocess_exec(*self._config.reboot.command)
                code = await process.wait()
            except OSError as exc:
                log.exception("reboot_failed", error=str(exc))
            else:
                if code != 0:
                    log.error("reboot_failed", exit_code=code)
            await self._pause(self._config.reboot.timeout_s)

    async def _watch_conditions(self) -> None:
        """Tell the agent again and again whether a gate of the device is shut."""
        while True:
            found = await asyncio.to_thread(find_obstacle, self._config.gates, self._config.state)
            if self._runner is not None:
                self._runner.tell_conditions(found)
            await asyncio.sleep(self._config.gates.look_again_s)

    async def _watch_settings(self) -> None:
        """Renew the certificate when it is due, and begin anew with it, or when the clocks have changed."""
        offset = utc_offset_minutes(self._config)
        while True:
            await asyncio.sleep(RENEWAL_LOOK_S)
            if await asyncio.to_thread(self._has_renewed) or utc_offset_minutes(self._config) != offset:
                offset = utc_offset_minutes(self._config)
                if self._runner is not None:
                    self._runner.stop()

    def _has_renewed(self) -> bool:
        folder = enrolled_folder(self._config)
        if self._config.enrolment is None or folder is None or not folder.is_due():
            return False
        try:
            self._renew()
        except TidegateError as exc:
            log.warning("renewal_failed", error=str(exc))
            return False
        return True

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def _write_down(note: Note) -> None:
    log.info(
        "agent_note",
        what=note.event,
        campaign=None if note.campaign is None else str(note.campaign),
        version=note.version,
        slot=note.slot,
        reason=note.reason.name.lower(),
        detail=note.detail,
    )
