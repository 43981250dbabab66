"""``tidegate sim``: simulated devices on the command line. Talk goes to standard error."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

DEVICES_MOST: Final = 20_000  # a process has about as many file descriptors
FACTOR_MOST: Final = 10_000
WAKE_MOST_S: Final = 31 * 86_400

app = App(name="sim", help="Play scenarios, and run simulated devices.")
app.command("server.cli.lab:run", name="run", help="Play a scenario, and say whether it came to what it expects.")
app.command("server.cli.lab:replay", name="replay", help="Play a run in virtual time once more, from its trace.")
app.command("server.cli.lab:ls", name="ls", help="List the scenarios that are shipped.")


@app.command
def fleet(
    *,
    dir: Annotated[Path, Parameter(help="Where each device gets a directory of its own.")],  # noqa: A002
    devices_file: Annotated[
        Path | None,
        Parameter(
            help="JSON lines, one a device: id, region, cohort, vendor, hardware, username, password, client_id,"
            " host, port, topic_root."
        ),
    ] = None,
    root: Annotated[Path | None, Parameter(help="The trust root that the devices have pinned.")] = None,
    devices: Annotated[int, Parameter(help="Without a devices file: how many devices to add to --server.")] = 0,
    server: Annotated[str, Parameter(help="The server's URL.", env_var="TIDEGATE_URL")] = "http://127.0.0.1:8080",
    token: Annotated[str, Parameter(help="An API token that may add devices.", env_var="TIDEGATE_TOKEN")] = "",
    region: Annotated[
        list[str] | None, Parameter(negative=(), help="Regions to spread the added devices over.")
    ] = None,
    cohort: Annotated[str, Parameter(help="The added devices' cohort.")] = "main",
    hardware: Annotated[
        list[str] | None, Parameter(negative=(), help="Hardware classes to spread the added devices over.")
    ] = None,
    vendor: Annotated[str, Parameter(help="The added devices' vendor, a DNS name.")] = "example.com",
    prefix: Annotated[str, Parameter(help="What the added devices' ids begin with.")] = "sim",
    host: Annotated[str | None, Parameter(help="The broker, instead of the one in the devices file.")] = None,
    port: Annotated[int | None, Parameter(help="Its port.")] = None,
    seed: Annotated[int, Parameter(help="Fixes which devices have which fault, and all jitter.")] = 0,
    fault: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            help="brick@1.2.0=30% (never comes back after booting it), unhealthy@1.2.0=10% (fails its health check),"
            " noboot@1.2.0=5% (falls back after three tries), slow=20%:32KiB/s (bandwidth); for one hardware class:"
            " brick@1.2.0[hw=gw100-rev-c]=50%. Repeatable.",
        ),
    ] = None,
    outage: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            help="REGION:SHARE:AFTER:FOR, devices that lose their line for a while: eu:50%:20s:60s (20 s after READY),"
            " eu:100%:@1.2.0:30s (when the first device there boots 1.2.0; @1.2.0+5s: 5 s later), *:100%:20s:1s (all"
            " sessions drop and come back). Repeatable.",
        ),
    ] = None,
    ledger: Annotated[Path | None, Parameter(help="Write what really happens on the devices, as JSON lines.")] = None,
    factory: Annotated[
        list[str] | None, Parameter(negative=(), help="COMPONENT=FILE in every device's factory image. Repeatable.")
    ] = None,
    factory_version: Annotated[str, Parameter(help="The version of the factory image.")] = "1.0.0",
    reboot_s: Annotated[float, Parameter(help="Median seconds that a reboot takes.")] = 1.5,
    trace: Annotated[
        Path | None,
        Parameter(
            help="A file in the format haltrace/1: its devices are added to --server (or come from the devices file),"
            " go offline when it says so, and meet the fate it has for them once they boot its release."
        ),
    ] = None,
    factor: Annotated[float, Parameter(help="How many times faster than the trace the devices live.")] = 1.0,
    wake_interval: Annotated[
        int | None,
        Parameter(help="Seconds: devices sleep, wake at most so long after they last woke, and declare it."),
    ] = None,
    awake: Annotated[float, Parameter(help="Seconds with nothing to do after which such a device goes to sleep.")] = 30,
    sleepers: Annotated[float, Parameter(help="The share of the devices that sleep, 0 to 1.")] = 1.0,
    connects_per_s: Annotated[float, Parameter(help="How fast the devices come up at the start.")] = 100.0,
    ca: Annotated[
        Path | None,
        Parameter(help="PEM file of the authorities to trust for HTTPS and mqtts, instead of the system's."),
    ] = None,
    http: Annotated[bool, Parameter(help="Whether the devices can fetch over HTTP where an offer says so.")] = True,
) -> None:
    """Run devices until SIGINT or SIGTERM. Says READY when all of them have reached the broker.

    Either --devices-file and --root, or --devices (or --trace) with --server and --token. A trace begins at READY.
    """
    import asyncio

    from device_sim.agent.authorities import read_authorities
    from device_sim.faults import Fault
    from device_sim.fleet import FleetOptions
    from device_sim.inventory import Added, add_devices, newcomers_of, read_devices
    from device_sim.naps import draw_sleepers, naps_of
    from device_sim.outages import Outage
    from device_sim.script import scripts_of
    from device_sim.serve import serve
    from firmware_store.errors import InvalidInputError
    from server.traces.format import read_trace

    if not 0 < factor <= FACTOR_MOST:
        raise InvalidInputError(f"A factor is above 0, and {FACTOR_MOST} at most.")
    if not (0 <= sleepers <= 1 and awake > 0 and (wake_interval is None or awake < wake_interval <= WAKE_MOST_S)):
        raise InvalidInputError("A device sleeps for a part of its interval: 0 < --awake < --wake-interval <= 31 days.")
    authorities = read_authorities(ca)
    recorded = None if trace is None else read_trace(trace)
    if devices_file is not None and root is not None:
        entries, root_bytes = read_devices(devices_file), root.read_bytes()
    elif (recorded is not None or 1 <= devices <= DEVICES_MOST) and token:
        if recorded is not None:
            wanted = newcomers_of(recorded, cohort=cohort, vendor=vendor)
        else:
            classes = tuple(hardware or ["gw100-rev-b"])
            wanted = Added(devices, tuple(region or ["eu"]), cohort, classes, vendor, prefix).newcomers()
        entries, root_bytes = asyncio.run(add_devices(server, token, wanted, authorities=authorities))
    else:
        raise InvalidInputError("Give --devices-file and --root, or --devices or --trace with --server and --token.")
    options = FleetOptions(
        seed=seed,
        faults=[Fault.parse(text) for text in fault or ()],
        outages=[Outage.parse(text) for text in outage or ()],
        reboot_s=reboot_s,
        connects_per_s=connects_per_s,
        factory_version=factory_version,
        factory=_pairs(factory or []),
        scripts={} if recorded is None else scripts_of(recorded, factor),
        has_http=http,
        authorities=authorities,
    )
    names = [entry.id for entry in entries]
    drawn = {} if wake_interval is None else draw_sleepers(names, sleepers, wake_interval, awake, seed=seed)
    naps = drawn if recorded is None else naps_of(recorded, factor)
    configs = [
        entry.config(
            directory=dir,
            root_bytes=root_bytes,
            host=host,
            port=port,
            lab_factor=factor,
            nap=naps.get(entry.id),
            authorities=authorities,
        )
        for entry in entries
    ]
    asyncio.run(serve(configs, options=options, ledger=ledger))


def _pairs(texts: list[str]) -> dict[str, Path]:
    from firmware_store.errors import InvalidInputError

    pairs: dict[str, Path] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not (name and separator and Path(path).is_file()):
            raise InvalidInputError(f"{text!r} is not COMPONENT=FILE with a file that exists.")
        pairs[name] = Path(path)
    return pairs
