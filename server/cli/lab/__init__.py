"""``tidegate sim run``: scenarios, played on a server with sockets."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def run(
    scenario: str,
    *,
    devices: int | None = None,
    seed: int = 1,
    speed: float | None = None,
    server: str | None = None,
    token: Annotated[str, Parameter(env_var="TIDEGATE_TOKEN")] = "",
    keys: Path | None = None,
    ledger: Path | None = None,
    report: Path | None = None,
    junit: Path | None = None,
) -> int:
    """Play a scenario, and say whether all came of it that it expects: exit code 0, else 1.

    Parameters
    ----------
    scenario
        A scenario's file, or the name of one that is shipped (`tidegate sim ls`).
    devices
        How many devices; default: as many as the scenario says.
    seed
        Fixes who is struck by what.
    speed
        How many times faster than the clock the fleet lives; default: what the scenario says.
    server
        A server that runs already; without it, one with its own database and broker, which ends with the run.
    token
        An API token of that server that may add devices, upload bundles and run campaigns.
    keys
        The folder with that server's release keys, release-1.pem and release-2.pem.
    ledger
        Write what really happens on the devices to this file, as JSON lines.
    report
        Write the report to this folder: report.txt, report.json, report.html.
    junit
        Write what was expected to this file, as JUnit XML.
    """
    import asyncio
    import logging

    from device_sim.scenario.expectations import judge
    from device_sim.scenario.load import load
    from device_sim.scenario.report import as_junit, as_text, write_report
    from device_sim.serve import log_to_stderr
    from firmware_store.errors import InvalidInputError
    from server.cli import ERROR, OK
    from server.cli.lab import wire
    from server.cli.lab.host import Address

    log_to_stderr(logging.WARNING)
    play = load(scenario)
    if devices is not None and not 1 <= devices <= wire.DEVICES_MOST:
        raise InvalidInputError(f"With sockets, a process has 1 to {wire.DEVICES_MOST} devices.")
    address = None
    if server is not None:
        if not token or keys is None:
            raise InvalidInputError("--server needs --token, and --keys for the releases.")
        address = Address(server, token, keys)
    try:
        outcome = asyncio.run(wire.run(play, devices=devices, seed=seed, speed=speed, server=address, ledger=ledger))
    except asyncio.CancelledError:
        return ERROR  # told to end
    findings = judge(play, outcome)
    print(as_text(outcome, findings))
    if report is not None:
        write_report(report, outcome, findings)
    if junit is not None:
        junit.write_text(as_junit(outcome, findings), encoding="utf-8")
    return OK if all(finding.held for finding in findings) else ERROR


def ls() -> None:
    """List the scenarios that are shipped, with their stories."""
    from device_sim.scenario.load import load, shipped

    for name in shipped():
        print(f"{name:<40} {load(name).story}")
