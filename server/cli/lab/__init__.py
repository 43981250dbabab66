"""``tidegate sim run``: scenarios, played on a server with sockets or in virtual time."""

from pathlib import Path
from typing import Annotated, Literal

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
    mode: Literal["wire", "virtual"] | None = None,
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
        Write what really happens on the devices to this file, as JSON lines. In virtual time that is the run's trace,
        which `tidegate sim replay` plays once more.
    mode
        With sockets, or in virtual time: without a server, and the same to the last line for the same seed. Default:
        with sockets, where the scenario can be played so.
    report
        Write the report to this folder: report.txt, report.json, report.html.
    junit
        Write what was expected to this file, as JUnit XML.
    """
    import asyncio
    import logging

    from device_sim.scenario.expectations import judge
    from device_sim.scenario.faults import Mode
    from device_sim.scenario.load import load
    from device_sim.scenario.report import as_junit, as_text, write_report
    from device_sim.serve import log_to_stderr
    from firmware_store.errors import InvalidInputError
    from server.cli import ERROR, OK
    from server.cli.lab import virtual, wire
    from server.cli.lab.host import Address

    log_to_stderr(logging.WARNING)
    play = load(scenario)
    chosen = Mode(mode) if mode is not None else Mode.WIRE if Mode.WIRE in play.modes else Mode.VIRTUAL
    most = wire.DEVICES_MOST if chosen is Mode.WIRE else virtual.DEVICES_MOST
    if devices is not None and not 1 <= devices <= most:
        raise InvalidInputError(f"In this mode, a process has 1 to {most} devices.")
    if chosen is Mode.VIRTUAL and (server is not None or speed is not None):
        raise InvalidInputError("In virtual time there is no server, and no speed: leave out --server and --speed.")
    if server is not None and (not token or keys is None):
        raise InvalidInputError("--server needs --token, and --keys for the releases.")
    address = None if server is None or keys is None else Address(server, token, keys)
    try:
        if chosen is Mode.VIRTUAL:
            outcome = virtual.run(play, devices=devices, seed=seed, ledger=ledger)
        else:
            wired = wire.run(play, devices=devices, seed=seed, speed=speed, server=address, ledger=ledger)
            outcome = asyncio.run(wired)
    except asyncio.CancelledError:
        return ERROR  # told to end
    findings = judge(play, outcome)
    print(as_text(outcome, findings))
    if report is not None:
        write_report(report, outcome, findings)
    if junit is not None:
        junit.write_text(as_junit(outcome, findings), encoding="utf-8")
    return OK if all(finding.held for finding in findings) else ERROR


def replay(trace: Path) -> int:
    """Play a run in virtual time once more, from its trace, and say whether it is the same: exit code 0, else 1.

    Parameters
    ----------
    trace
        What `tidegate sim run --mode virtual --ledger` has written.
    """
    from device_sim.virtual.again import replay as play_again
    from server.cli import ERROR, OK

    again = play_again(trace)
    if again.line is None:
        print(f"{again.scenario}: the same {again.lines} lines; trace {again.digest}")
        return OK
    print(f"{again.scenario}: line {again.line} is another one")
    return ERROR


def ls() -> None:
    """List the scenarios that are shipped, with their stories."""
    from device_sim.scenario.load import load, shipped

    for name in shipped():
        print(f"{name:<40} {load(name).story}")
