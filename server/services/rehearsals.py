"""Rehearsals of campaigns on the fleet as it is: what it looks like is taken here, and played in a process of its own.

One at a time, of so many devices and for so long at most: it takes a core, and gives way to everything else.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from firmware_store.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, TidegateError
from server.domain.eligibility import Target, fits
from server.domain.identity import CampaignId, Cohort, Region
from server.domain.plan import Plan, Policy, default_plan
from server.domain.scope import EVERYTHING, Scope
from server.services.apart import apart, last_words
from server.services.campaigns import Campaigns
from server.services.device import Device
from server.services.fleet import Fleet
from server.services.replay import rehearsal
from server.services.replay.inventory import Picture
from server.services.replay.rehearsal import BRICKED, Job, dump_job
from server.services.visible import check_whole

DEVICES_MOST: Final = 20_000
"""A larger fleet is rehearsed by so many of its devices, drawn at random."""

RUN_S: Final = 900.0
_AT_ONCE: Final = 5000
"""So many devices are looked at before everything else has its turn."""

_LINE_BYTES: Final = 1 << 20

Play = Callable[[Job], AsyncGenerator[dict[str, Any], None]]
"""Plays a job, and yields lines as ``server.services.replay.rehearsal`` writes them."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What is played: ``devices`` there are for it, of which the job has some; ``numbers`` are its waves', from 1.

    ``left_out``: what its plan and policy say that a rehearsal does not play.
    """

    job: Job
    devices: int
    numbers: tuple[int, ...]
    left_out: tuple[str, ...]

    @property
    def about(self) -> dict[str, Any]:
        """What the answer says of it."""
        waves = [
            {"number": number, "target": wave.target, "regions": list(wave.regions)}
            for number, wave in zip(self.numbers, self.job.plan.waves, strict=True)
        ]
        played = {"devices": self.devices, "rehearsed": len(self.job.picture.ids)}
        return {**played, "waves": waves, "left_out": list(self.left_out)}


class Rehearsals:
    """Takes pictures of the fleet, and has them played."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        campaigns: Campaigns,
        heartbeat_s: float,
        play: Play | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fleet = fleet
        self._campaigns = campaigns
        self._heartbeat_s = heartbeat_s
        self._play = play or play_apart
        self._clock = clock
        self._is_busy = False

    async def of_campaign(
        self, campaign: CampaignId, *, bricked: Sequence[float] = BRICKED, scope: Scope = EVERYTHING
    ) -> Rehearsal:
        """Prepare what a campaign would be if it began now; ``bricked``: shares that bad releases never let return.

        Raises:
            NotFoundError: there is no such campaign, or it has no devices.
            ForbiddenError: a part of it is beyond ``scope``.
            InvalidInputError: its plan only names devices.
        """
        record = await self._campaigns.get(campaign)
        check_whole(record, scope)
        bundle = await self._campaigns.bundle_of(record)
        target = Target(bundle.vendor_id, frozenset(bundle.class_ids), bundle.manifest_digest)
        regions = [one.region for one in record.regions]
        mine = await self._members(record.cohort, regions, target)
        return self._prepared(mine, regions, record.plan, record.policy, bricked)

    async def of_draft(
        self,
        cohort: Cohort,
        regions: Sequence[Region],
        plan: Plan | None,
        policy: Policy,
        *,
        bricked: Sequence[float] = BRICKED,
        scope: Scope = EVERYTHING,
    ) -> Rehearsal:
        """Prepare a campaign that is not there, for every device of these regions; without a plan by the default one.

        Raises:
            NotFoundError: there are no devices.
            ForbiddenError: some of it is beyond ``scope``.
            InvalidInputError: its plan only names devices.
        """
        if not scope.has_all(regions, cohort):
            raise ForbiddenError(f"Your access is limited to {scope}, and so are the campaigns that you rehearse.")
        if plan is None:
            first = sum(1 for _ in self._fleet.members(cohort, regions[0]))
            plan = default_plan(regions, first, largest_step=policy.largest_step, holdout=policy.holdout)
        return self._prepared(await self._members(cohort, regions, None), regions, plan, policy, bricked)

    async def _members(self, cohort: Cohort, regions: Sequence[Region], target: Target | None) -> list[Device]:
        mine: list[Device] = []
        for region in regions:
            members = list(self._fleet.members(cohort, region))
            for begin in range(0, len(members), _AT_ONCE):
                mine += (device for device in members[begin : begin + _AT_ONCE] if _is_for(device, target))
                await asyncio.sleep(0)
        if not mine:
            raise NotFoundError("There is no device in these regions that such a release would be for.")
        return mine

    def _prepared(
        self, mine: list[Device], regions: Sequence[Region], plan: Plan, policy: Policy, bricked: Sequence[float]
    ) -> Rehearsal:
        numbers = tuple(number for number, wave in enumerate(plan.waves, 1) if not wave.devices)
        if not numbers:
            raise InvalidInputError("A rehearsal knows levels, and all waves name devices.", pointer="/plan")
        level = Plan(waves=tuple(plan.waves[number - 1] for number in numbers))
        now = self._clock()
        some = mine if len(mine) <= DEVICES_MOST else random.Random(0).sample(mine, DEVICES_MOST)
        picture = picture_of(self._fleet, some, list(regions), now)
        job = Job(picture, level, policy, self._heartbeat_s, now, tuple(bricked))
        return Rehearsal(job, len(mine), numbers, left_out(plan, policy))

    async def run(self, rehearsal: Rehearsal, *, scope: Scope = EVERYTHING) -> AsyncGenerator[dict[str, Any], None]:
        """Yield how far it is, and at last, with ``complete``, what came of it.

        Raises:
            ConflictError: another one is under way.
            TidegateError: it cannot be played; the text says why.
        """
        del scope  # what it is of was checked when it was prepared
        if self._is_busy:
            raise ConflictError("Another rehearsal is under way, and takes a core: wait for its end.")
        self._is_busy = True
        try:
            async with aclosing(self._play(rehearsal.job)) as lines:
                async for line in lines:
                    yield {**line, **rehearsal.about} if line["complete"] else line
        finally:
            self._is_busy = False


def left_out(plan: Plan, policy: Policy) -> tuple[str, ...]:
    """Say what a plan and its policy want that no rehearsal plays."""
    named = [number for number, wave in enumerate(plan.waves, 1) if wave.devices]
    manual = [number for number, wave in enumerate(plan.waves, 1) if wave.gate.manual]
    asking = [number for number, wave in enumerate(plan.waves, 1) if wave.gate.webhook is not None]
    said = (
        (policy.windows, "maintenance windows: they would make it longer"),
        (policy.region_bytes_per_s_most, "the cap on bytes of a region: it would make downloads longer"),
        (policy.site_reboots_most, "the cap on reboots of a site: it would make it longer"),
        (named, f"devices that are let in by name, in {_waves(named)}"),
        (manual, f"the word of a person, for {_waves(manual)}: it is taken as given"),
        (asking, f"the word of a webhook, for {_waves(asking)}: it is taken as given"),
    )
    return tuple(text for is_so, text in said if is_so)


def _waves(numbers: Sequence[int]) -> str:
    return f"wave{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def picture_of(fleet: Fleet, devices: Sequence[Device], regions: Sequence[Region], now: float) -> Picture:
    """Return what is known of these devices that matters to a rehearsal; columns in their order."""
    classes: dict[str, int] = {}
    sites: dict[tuple[Region, str], int] = {}
    places = {region: index for index, region in enumerate(regions)}
    return Picture(
        ids=[device.id for device in devices],
        regions=list(regions),
        region=[places[device.region] for device in devices],
        hardware=[classes.setdefault(device.hardware, len(classes)) for device in devices],
        classes=list(classes),
        site=[sites.setdefault((device.region, device.site), len(sites)) if device.site else -1 for device in devices],
        unsteady=[device.is_unsteady for device in devices],
        by_habit=[device.is_away_by_habit for device in devices],
        wake_s=[device.wake_interval_s for device in devices],
        absences=[device.absences_at(now) for device in devices],
        dark_s=[max(1.0, now - device.last_seen) if fleet.is_dark(device, now) else 0.0 for device in devices],
    )


def _is_for(device: Device, target: Target | None) -> bool:
    if not device.vendor_id or device.revoked or device.held:
        return False
    return target is None or fits(target, vendor_id=device.vendor_id, class_id=device.class_id)


async def play_apart(job: Job) -> AsyncGenerator[dict[str, Any], None]:
    """Play a job in a process of its own, which ends with this generator.

    Raises:
        TidegateError: it cannot be played, or takes too long; the text says why.
    """
    pipe = asyncio.subprocess.PIPE
    until = asyncio.get_running_loop().time() + RUN_S
    try:
        async with apart(rehearsal.__name__, stdin=pipe, stdout=pipe, stderr=pipe, limit=_LINE_BYTES) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            async with asyncio.timeout_at(until):
                process.stdin.write(dump_job(job))
                await process.stdin.drain()
                process.stdin.close()
            while True:
                async with asyncio.timeout_at(until):
                    line = await process.stdout.readline()
                if not line:
                    break
                yield json.loads(line)
            async with asyncio.timeout_at(until):
                said = await process.stderr.read()
                await process.wait()
    except TimeoutError as exc:
        raise TidegateError(f"The rehearsal takes more than {RUN_S:.0f} seconds: rehearse a shorter plan.") from exc
    if process.returncode:
        raise TidegateError(f"The rehearsal broke off: {last_words(said) or process.returncode}")
