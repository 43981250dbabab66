"""``tidegate agent``: the update agent of one real device. Talk goes to standard error."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from server.cli.output import Format, show

if TYPE_CHECKING:
    from device_sim.gateway.config import AgentConfig

app = App(name="agent", help="Update this device.")

Config = Annotated[Path, Parameter(help="The agent's configuration (docs/reference/agent.md).")]
DEFAULT_CONFIG = Path("/etc/tidegate/agent.toml")

_COLUMNS = ("slot", "state", "runs", "version", "sequence_number", "manifest")


@app.command
def run(*, config: Config = DEFAULT_CONFIG, log_json: bool = False) -> None:
    """Run the agent until SIGTERM. It enrols by itself where it has a claim, and renews its certificate.

    Parameters
    ----------
    log_json
        Log JSON lines.
    """
    import asyncio
    import os

    from device_sim.gateway.config import read_config
    from device_sim.gateway.gateway import Gateway
    from device_sim.gateway.settings import sole_agent
    from device_sim.gateway.watchdog import ServiceManager
    from server import logs

    logs.configure(level="info", as_json=log_json)
    told = read_config(config)
    with sole_agent(told.state):
        _enrol(told)

        async def live() -> None:
            await Gateway(told, manager=ServiceManager(os.environ), renew=lambda: _renew(told)).run()

        asyncio.run(live())


@app.command
def install(
    bundle: Path,
    *,
    config: Config = DEFAULT_CONFIG,
    trial_s: Annotated[int, Parameter(help="The shortest trial, in seconds.")] = 60,
    confirm_s: Annotated[int, Parameter(help="Not confirmed after so long, it is given up, in seconds.")] = 1800,
) -> None:
    """Install a release from a bundle file, without any server. The next boot tries it; the agent must not run now.

    Parameters
    ----------
    bundle
        The file (.tgb).
    """
    import asyncio

    from device_sim.agent.state import AgentState
    from device_sim.agent.storage import Storage
    from device_sim.gateway.backends import open_slots
    from device_sim.gateway.config import read_config
    from device_sim.gateway.offline import install_file
    from device_sim.gateway.settings import identity_of, pinned_root, places_of, sole_agent
    from firmware_store.errors import InvalidInputError
    from firmware_store.root import open_root
    from server.protocol.orders import Deadlines

    if not 0 < trial_s < confirm_s:
        raise InvalidInputError("A trial ends before it is given up: 0 < --trial-s < --confirm-s.")
    told = read_config(config)
    with sole_agent(told.state):
        slots = open_slots(told)
        update = asyncio.run(
            install_file(
                bundle,
                storage=Storage(told.state, slots),
                slots=slots,
                factory=AgentState(*places_of(told)),
                identity=identity_of(told),
                pinned=open_root(pinned_root(told), now=None),
                deadlines=Deadlines(download_s=0, trial_s=trial_s, confirm_s=confirm_s),
            )
        )
    print(f"{update.version} is in slot {update.slot}: reboot to try it.")


@app.command
def status(*, config: Config = DEFAULT_CONFIG, output: Format = "table") -> None:
    """Show the slots, and what became of the last update."""
    import sys

    from device_sim.agent.storage import Storage
    from device_sim.gateway.backends import open_slots
    from device_sim.gateway.config import read_config

    told = read_config(config)
    slots = open_slots(told)
    rows = [
        {
            "slot": slot.name,
            "state": slot.state.value,
            "runs": "yes" if slot.name == slots.booted() else "",
            "version": slot.version,
            "sequence_number": slot.sequence_number,
            "manifest": slot.manifest_digest.hex()[:16],
        }
        for slot in slots.slots()
    ]
    show(rows, _COLUMNS, output)
    state = Storage(told.state, slots).read()
    if state is not None and state.update is not None:
        update = state.update
        ended = update.phase.name.lower() if update.ended is None else update.ended.value
        why = f" ({update.reason.name.lower()}) {update.detail}".rstrip() if update.reason else ""
        print(f"last update: {update.version or update.manifest_digest.hex()[:16]}: {ended}{why}", file=sys.stderr)


@app.command
def check_config(*, config: Config = DEFAULT_CONFIG) -> None:
    """Check the configuration and all that it names, as far as that changes nothing."""
    from device_sim.gateway.backends import open_slots
    from device_sim.gateway.config import read_config
    from device_sim.gateway.gates import find_obstacle
    from device_sim.gateway.health_checks import find_checks
    from device_sim.gateway.settings import device_config, enrolled_folder, pinned_root
    from firmware_store.errors import ConfigurationError
    from firmware_store.root import open_root

    told = read_config(config)
    will_enrol = told.enrolment is not None and told.enrolment.claim_file is not None
    if enrolled_folder(told) is None and will_enrol:
        print("identity: not enrolled yet; the claim will be used")
    else:
        settings = device_config(told)
        root = open_root(pinned_root(told), now=None)
        print(f"device: {settings.device_id} in {settings.region}/{settings.cohort}, {settings.hardware_class}")
        print(f"broker: {settings.host}:{settings.port}{' (TLS)' if settings.tls else ''}")
        print(f"root: version {root.version}{' (development)' if root.dev else ''}")
    slots = open_slots(told)
    print(f"slots: {', '.join(f'{slot.name} {slot.state}' for slot in slots.slots())}; {slots.booted()} runs")
    if told.health.directory is not None:
        try:
            names = [path.name for path in find_checks(told.health.directory)]
        except OSError as exc:
            raise ConfigurationError(f"cannot read {told.health.directory}: {exc.strerror}") from exc
        print(f"health checks: {', '.join(names) or 'none'}")
    obstacle = find_obstacle(told.gates, told.state)
    print(f"gates: {'open' if obstacle is None else obstacle.detail}")


@app.command
def boot(
    *,
    config: Config = DEFAULT_CONFIG,
    factory_version: Annotated[str, Parameter(help="The version of what is there before the first update.")] = "1.0.0",
) -> None:
    """Decide which slot runs now, where slots are files: once for each boot, before the agent. Prints its folder."""
    from device_sim.gateway.backends import boot_files
    from device_sim.gateway.config import read_config
    from device_sim.gateway.settings import sole_agent

    told = read_config(config)
    with sole_agent(told.state):
        booted = boot_files(told, factory_version=factory_version)
    print(told.state / "slots" / str(booted.slot))


def _enrol(told: "AgentConfig") -> None:
    """Turn the claim into an identity, where there is one and not the other."""
    from device_sim.gateway.settings import enrolled_folder
    from firmware_store.errors import ConfigurationError
    from firmware_store.keys import Algorithm
    from firmware_store.private_files import read_private_file
    from server.cli.enrol import enrol_device
    from server.domain.identity import device_id

    enrolment = told.enrolment
    if enrolment is None or enrolment.claim_file is None or enrolled_folder(told) is not None:
        return
    if told.identity is None or told.device is None:
        raise ConfigurationError("to enrol, the agent has to be told device and identity")
    claim = read_private_file(enrolment.claim_file, max_bytes=256).decode().strip()
    enrol_device(
        device_id(told.device),
        claim,
        told.identity,
        server=enrolment.server,
        algorithm=Algorithm.ESP256,
        allow_http=enrolment.allow_http,
    )


def _renew(told: "AgentConfig") -> None:
    from server.cli.enrol import renew_device

    if told.enrolment is not None and told.identity is not None:
        renew_device(told.identity, server=told.enrolment.server, allow_http=told.enrolment.allow_http)
