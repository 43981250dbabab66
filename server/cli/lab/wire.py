"""A scenario with sockets: a server with its broker, and devices that play the scenario's cast, on a fast clock."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Final

from device_sim.agent.device import DeviceConfig
from device_sim.fleet import Fleet, FleetOptions
from device_sim.inventory import Newcomer, add_devices
from device_sim.ledger import Ledger
from device_sim.naps import Nap
from device_sim.scenario.cast import Cast, Role, draw_cast
from device_sim.scenario.facts import Facts, Progress
from device_sim.scenario.faster import faster_plan, faster_policy
from device_sim.scenario.faults import BrokerRestart, Defect, Mode
from device_sim.scenario.model import REFUSED, CampaignOrder, Scenario
from device_sim.scenario.outcome import CampaignOutcome, Moment, Outcome
from device_sim.serve import raise_file_limit
from device_sim.simulated_device import SimulatedDevice
from device_sim.wire.fleet_clock import FleetClock
from device_sim.wire.memory_files import Pool
from device_sim.wire.role_life import RoleLife
from firmware_store.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidInputError,
    RateLimitedError,
    StoreUnavailableError,
    TidegateError,
)
from server.cli.client import BUNDLE_MEDIA_TYPE, Client
from server.cli.demo import stage
from server.cli.lab import trust
from server.cli.lab.found import Seen, outcome_of, refused
from server.cli.lab.host import Address, Host, hosted
from server.cli.lab.releases import COMPONENT, FACTORY, VENDOR, build_release, write_image
from server.cli.lab.view import LiveView
from server.domain.identity import DeviceId

COHORT: Final = "lab"
CONNECTS_PER_S: Final = 100.0
DEVICES_MOST: Final = 15_000
"""A process has some 20,000 file descriptors, and each device takes one, or two for moments."""
DEVICES: Final = Path("/devices")
"""Of each device's own files, which are in memory."""
ONLINE_S: Final = 60.0
SLOWLY: Final = 3
"""A fleet may take so many times as long to come up as its connections are spread over, and ``ONLINE_S``."""
EXPIRES_S: Final = 1
"""How long before its start the trust documents of a campaign hold whose defect is that they have expired."""
LOOK_S: Final = 0.5
SETTLE_S: Final = 300.0
"""Of the fleet: so long the devices have to come to rest once nothing more can come of any campaign."""
MOMENTS_MOST: Final = 500

_OUTSIDE: Final = (StoreUnavailableError, AuthenticationError, ForbiddenError, RateLimitedError)
"""These say nothing of the release, only of the way to the server."""


async def run(
    scenario: Scenario,
    *,
    devices: int | None = None,
    seed: int = 1,
    speed: float | None = None,
    server: Address | None = None,
    ledger: Path | None = None,
) -> Outcome:
    """Play a scenario on a server: this one, or one with its own database and broker that ends with the run.

    Raises:
        InvalidInputError: it cannot be played with sockets.
        StoreUnavailableError: the server, or the fleet, did not come up.
    """
    if Mode.WIRE not in scenario.modes:
        raise InvalidInputError(f"{scenario.name} is for virtual time alone.")
    stage.end_when_told()
    raise_file_limit()
    cast = draw_cast(scenario, devices=devices, seed=seed)
    folder = Path(tempfile.mkdtemp(prefix="tidegate-lab-"))
    try:
        async with hosted(folder, server, heartbeat_s=_heartbeat_s(scenario, speed or scenario.speed)) as host:
            return await _Run(cast, folder, host, speed=speed or scenario.speed, ledger=ledger).play()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _heartbeat_s(scenario: Scenario, speed: float) -> int:
    return max(1, round(scenario.heartbeat / speed))


class _Run:
    """One run, from the first device to the outcome."""

    def __init__(self, cast: Cast, folder: Path, host: Host, *, speed: float, ledger: Path | None) -> None:
        self._cast = cast
        self._scenario = cast.scenario
        self._folder = folder
        self._host = host
        self._server = host.address
        self._speed = speed
        self._clock = FleetClock(speed)
        self._ledger_path = ledger
        self._began_at = 0.0
        self._campaigns: dict[str, str] = {}
        self._to_revoke = {one.version for one in cast.scenario.releases if one.defect is Defect.REVOKED}
        self._refused: dict[str, CampaignOutcome] = {}
        self._seen: dict[str, Seen] = {}
        self._course: list[Moment] = []

    async def play(self) -> Outcome:
        begun = time.monotonic()
        with LiveView(self._scenario.name, len(self._cast)) as view:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(Client(self._server.url, self._server.token))
                bundles = await self._upload(client)
                facts = Facts(self._clock, stack.enter_context(closing(Ledger(self._ledger_path))))
                fleet = await self._fleet(facts)
                view.say(f"{self._scenario.name}: {len(self._cast)} devices are coming up ...")
                await stack.enter_async_context(_living(fleet, len(self._cast)))
                self._clock.begin()
                self._began_at = time.time()
                await self._direct(client, bundles, facts, fleet, view)
                at = self._clock.now
                campaigns = tuple(self._outcome(order.release, facts, at) for order in self._scenario.campaigns)
        return Outcome(
            scenario=self._scenario.name,
            story=self._scenario.story,
            mode=Mode.WIRE,
            devices=len(self._cast),
            seed=self._cast.seed,
            speed=self._speed,
            campaigns=campaigns,
            digest=self._cast.digest,
            fleet_s=round(at, 1),
            real_s=round(time.monotonic() - begun, 1),
            course=tuple(self._course),
        )

    # --- the stage ---

    async def _upload(self, client: Client) -> dict[str, str]:
        """Return the ids of the releases' bundles that the server has taken."""
        taken: dict[str, str] = {}
        for release in self._scenario.releases:
            bundle = build_release(self._scenario, release, keys=self._server.keys, folder=self._folder)
            try:
                taken[release.version] = (await client.upload("/v1/bundles", bundle, BUNDLE_MEDIA_TYPE))["id"]
            except _OUTSIDE:
                raise
            except TidegateError as exc:
                self._refused[release.version] = refused(release.version, str(exc))
        return taken

    async def _fleet(self, facts: Facts) -> Fleet:
        roles = {role.id: role for role in self._cast.roles}
        wanted = [Newcomer(role.id, role.region, COHORT, VENDOR, role.hardware) for role in self._cast.roles]
        entries, root_bytes = await add_devices(self._server.url, self._server.token, wanted)
        configs = [
            entry.config(
                directory=DEVICES,
                root_bytes=root_bytes,
                host=None,
                port=None,
                lab_factor=self._speed,
                nap=self._nap(roles[DeviceId(entry.id)]),
            )
            for entry in entries
        ]

        pool = Pool()

        def life(config: DeviceConfig, device: SimulatedDevice) -> RoleLife:
            return RoleLife(roles[config.device_id], device, self._clock, seed=self._cast.seed, pool=pool)

        factory = {COMPONENT: write_image(self._scenario, FACTORY, self._scenario.releases[0].size, self._folder)}
        options = FleetOptions(connects_per_s=CONNECTS_PER_S, factory=factory, factory_version=FACTORY, has_http=False)
        return Fleet(configs, options=options, ledger=facts, make_life=life)

    def _nap(self, role: Role) -> Nap | None:
        if role.wake_interval_s is None:
            return None
        return Nap(max(2, round(role.wake_interval_s / self._speed)), role.awake_s / self._speed)

    # --- the play ---

    async def _direct(
        self, client: Client, bundles: Mapping[str, str], facts: Facts, fleet: Fleet, view: LiveView
    ) -> None:
        """Start campaigns at their times, and look on until nothing more can come of any."""
        waiting = sorted(self._scenario.campaigns, key=lambda order: order.at)
        restarts = sorted(
            (one for one in self._scenario.faults if isinstance(one, BrokerRestart)), key=lambda one: one.at
        )
        settled_at: float | None = None
        while self._clock.now < self._scenario.duration:
            while waiting and waiting[0].at <= self._clock.now:
                await self._start(client, waiting.pop(0), bundles)
            while restarts and restarts[0].at <= self._clock.now:
                await self._host.restart(away_s=self._clock.real_s(restarts.pop(0).lasts or 0), fleet=fleet)
            await self._look(client)
            await self._take_back(client, facts)
            states = {release: seen.summary for release, seen in self._seen.items()}
            view.show(self._moment(facts), states | dict.fromkeys(self._refused, REFUSED))
            if waiting or restarts or not all(seen.is_settled for seen in self._seen.values()):
                settled_at = None
            elif settled_at is None:
                settled_at = self._clock.now
            elif self._clock.now - settled_at >= SETTLE_S:
                return
            await asyncio.sleep(LOOK_S)

    async def _start(self, client: Client, order: CampaignOrder, bundles: Mapping[str, str]) -> None:
        if order.release not in bundles:
            return
        draft = {
            "name": f"{self._scenario.name} {order.release}",
            "bundle": bundles[order.release],
            "cohort": COHORT,
            "regions": list(self._scenario.regions),
            "plan": faster_plan(order.plan, self._speed).model_dump(mode="json"),
            "policy": faster_policy(order.policy, self._speed).model_dump(mode="json"),
            "reason": "lab",
        }
        try:
            if self._scenario.release(order.release).defect is Defect.EXPIRED:
                await trust.let_expire(client, self._server.keys, within_s=EXPIRES_S)
                await asyncio.sleep(EXPIRES_S)
            campaign = (await client.post("/v1/campaigns", draft))["id"]
            await client.post(f"/v1/campaigns/{campaign}/start", {"reason": "lab"})
        except _OUTSIDE:
            raise
        except TidegateError as exc:
            self._refused[order.release] = refused(order.release, str(exc))
        else:
            self._campaigns[order.release] = str(campaign)

    async def _take_back(self, client: Client, facts: Facts) -> None:
        """Revoke releases that are to be revoked, once they have reached their first devices."""
        for release in list(self._to_revoke):
            if facts.releases[release].rebooted:
                self._to_revoke.remove(release)
                await trust.revoke(client, self._server.keys, self._folder / f"{release}.tgb")

    async def _look(self, client: Client) -> None:
        for release, campaign in self._campaigns.items():
            view = await client.get(f"/v1/campaigns/{campaign}")
            decisions = (await client.get(f"/v1/campaigns/{campaign}/decisions", limit=100))["decisions"]
            self._seen[release] = Seen(view, decisions, began_at=self._began_at, speed=self._speed)

    def _moment(self, facts: Facts) -> Moment:
        """Return where the fleet is now. Who is on line follows from the cast: nobody else can say it at once."""
        at = self._clock.now
        release = max(self._campaigns, key=lambda name: self._scenario.order_of(name).at, default="")
        progress = facts.releases.get(release, Progress())
        moment = Moment(
            at=round(at, 1),
            online=sum(not role.is_away(at) for role in self._cast.roles) - len(progress.lost),
            updated=len(progress.rebooted),
            confirmed=len(progress.confirmed),
            bricked=len(progress.lost),
            reverted=len(progress.booted.keys() - progress.lost.keys())
            - sum(version == release for version in facts.running.values()),
        )
        self._course.append(moment)
        if len(self._course) > MOMENTS_MOST:
            del self._course[::2]
        return moment

    def _outcome(self, release: str, facts: Facts, at: float) -> CampaignOutcome:
        if release in self._refused:
            return self._refused[release]
        if release not in self._seen:
            return refused(release, "the run ended before the campaign began")
        return outcome_of(release, self._seen[release], facts, self._cast, at=at)


@asynccontextmanager
async def _living(fleet: Fleet, devices: int) -> AsyncIterator[None]:
    """Let the devices live for the block, which begins when all of them have reached the broker."""
    task = asyncio.create_task(fleet.run(), name="fleet")
    up = asyncio.create_task(fleet.connected.wait(), name="fleet comes up")
    try:
        await asyncio.wait(
            (task, up), timeout=ONLINE_S + SLOWLY * devices / CONNECTS_PER_S, return_when=asyncio.FIRST_COMPLETED
        )
        if not fleet.connected.is_set():
            raise StoreUnavailableError("The devices did not come up.")
        yield
    finally:
        up.cancel()
        fleet.stop()
        await task
