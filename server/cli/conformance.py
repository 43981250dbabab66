"""``tidegate conformance``: try the protocol's rules on a device that runs, in the place of the server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from server.cli.output import Format, show

if TYPE_CHECKING:
    from device_sim.conformance.rules import Finding
    from server.config import Settings

_COLUMNS = ("outcome", "rule", "text", "seen")


def conformance(
    *,
    device: Annotated[str, Parameter(help="The device's id.")],
    cohort: str = "lab",
    bundle: Path | None = None,
    data_dir: Path | None = None,
    wait_s: float = 120.0,
    output: Format = "table",
) -> int:
    """Try every rule of docs/protocol.md on one device that runs, and say which it keeps. Exit code 1: it breaks one.

    For a lab: it takes the server's place at the broker, with the server's own credentials and keys (directive and
    session), so no server may run meanwhile, and the settings are the server's (TIDEGATE_*). The device is told that it
    belongs to the cohort named here, is shown forged and expired orders, is halted in a download, and in the end runs
    the bundle. It takes about half a minute, and what the device takes to reboot. Let the device connect when this says
    that it listens.

    Parameters
    ----------
    cohort
        Of which the device is to be, for the exam; its orders are retained there meanwhile.
    bundle
        A signed bundle that the device would take: newer than what it runs. Without one no update is tried.
    data_dir
        Where the keys and the embedded broker live (TIDEGATE_DATA_DIR, default ./var).
    wait_s
        So many seconds the device may take to connect.
    """
    import asyncio

    from device_sim.conformance.rules import Outcome
    from server import logs
    from server.cli.serve import read_settings

    settings = read_settings() if data_dir is None else read_settings(data_dir=data_dir)
    logs.configure(level=settings.log_level, as_json=settings.log_format == "json")
    findings = asyncio.run(_examine(settings, device, cohort, bundle, wait_s))
    if output == "table":
        for one in findings:
            print(f"{one.outcome.value.upper() if one.outcome is Outcome.FAIL else one.outcome.value:8}{one.rule.id}")
            if one.outcome is not Outcome.PASS:
                print(f"{'':8}{one.rule.text} ({one.rule.source})")
                print(f"{'':8}-> {one.seen}")
        counts = {outcome: sum(one.outcome is outcome for one in findings) for outcome in Outcome}
        print(", ".join(f"{many} {outcome.value}" for outcome, many in counts.items() if many))
    else:
        rows = [
            {"rule": one.rule.id, "text": one.rule.text, "tried": one.rule.tried, "source": one.rule.source}
            | {"outcome": one.outcome.value, "seen": one.seen}
            for one in findings
        ]
        show(rows, _COLUMNS, output)
    return 1 if any(one.outcome is Outcome.FAIL for one in findings) else 0


async def _examine(
    settings: "Settings", device: str, cohort: str, bundle: Path | None, wait_s: float
) -> "list[Finding]":
    import sys
    from contextlib import AsyncExitStack
    from functools import partial

    from device_sim.conformance.exam import examine
    from device_sim.conformance.keys import LabKeys
    from device_sim.conformance.release import read_release
    from server.domain.identity import cohort as cohort_of
    from server.domain.identity import device_id
    from server.mqtt.link import MqttLink
    from server.outside import stand_broker
    from server.services.certificates import Certificates, broker_files

    passphrase = None if settings.key_passphrase is None else settings.key_passphrase.get_secret_value().encode()
    keys = LabKeys.read(settings.keys, passphrase=passphrase)
    release = None if bundle is None else await read_release(bundle, keys.root)
    files = broker_files(ca=settings.mqtt_ca, certificate=settings.mqtt_certificate, key=settings.mqtt_key)
    async with AsyncExitStack() as stack:
        outside = await stand_broker(settings, stack, "", Certificates(rest=None, mqtt=files), ())
        broker = outside.broker
        link = partial(
            MqttLink,
            host=broker.host,
            port=broker.port,
            client_id=f"{broker.client_id}-exam",
            username=broker.username,
            password=broker.password,
            tls=broker.tls,
        )
        return await examine(
            link,
            keys,
            device_id(device),
            cohort=cohort_of(cohort),
            topic_root=settings.topic_root,
            release=release,
            patience_s=wait_s,
            on_ready=partial(print, f"listening: let {device} connect", file=sys.stderr, flush=True),
        )
