"""``tidegate doctor``: looks from the outside at what people get wrong, and says what to do about each thing."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from server.cli.client import DEFAULT_URL, Url
from server.cli.output import Format, show

if TYPE_CHECKING:
    from server.cli.doctor.finding import Finding


def doctor(
    *,
    server: Url = DEFAULT_URL,
    token: Annotated[str, Parameter(env_var="TIDEGATE_TOKEN", help="an API token")] = "",
    broker: Annotated[str, Parameter(env_var="TIDEGATE_MQTT_URL")] = "",
    topic_root: Annotated[str, Parameter(env_var="TIDEGATE_TOPIC_ROOT")] = "tg/1",
    database: Annotated[str, Parameter(env_var="TIDEGATE_DATABASE_URL")] = "",
    data_dir: Annotated[Path | None, Parameter(env_var="TIDEGATE_DATA_DIR")] = None,
    output: Format = "table",
) -> int:
    """Look at a server from the outside, and say what is wrong and what to do. Exit code 1 if something fails.

    Parameters
    ----------
    broker
        A broker of your own, as the server is told it: what it can do is tried with messages that are cleared again.
    topic_root
        What all topics begin with.
    database
        A PostgreSQL of your own, as the server is told it.
    data_dir
        On the server's machine: where its data lies.
    """
    import asyncio

    from server.cli import ERROR, OK
    from server.cli.doctor.finding import State

    async def examined() -> "list[Finding]":
        return [
            finding
            async for finding in examine(
                server, token, broker=broker, topic_root=topic_root, database=database, data_dir=data_dir
            )
        ]

    found = asyncio.run(examined())
    rows = [{"state": one.state.value, "check": one.check, "says": one.says, "remedy": one.remedy} for one in found]
    if output == "table":
        for one in found:
            print(f"{one.state.value.upper() if one.state is State.FAIL else one.state.value:8}{one.check}: {one.says}")
            if one.remedy:
                print(f"{'':8}-> {one.remedy}")
    else:
        show(rows, (), output)
    return ERROR if any(one.state is State.FAIL for one in found) else OK


async def examine(
    server: str, token: str, *, broker: str, topic_root: str, database: str, data_dir: Path | None
) -> "AsyncIterator[Finding]":
    """Yield what is found, in the order in which things depend on each other."""
    from server.cli.doctor import place, rest
    from server.cli.doctor.finding import Finding, State

    async for finding in rest.examine(server, token):
        yield finding
    if broker:
        from server.cli.doctor import broker as probes

        async for finding in probes.examine(broker, topic_root):
            yield finding
    else:
        yield Finding("broker's abilities", State.SKIPPED, "not looked at: --broker names a broker of your own")
    if database:
        async for finding in place.examine_database(database):
            yield finding
    if data_dir is not None:
        yield place.examine_disk(data_dir)
