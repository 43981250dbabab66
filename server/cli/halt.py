"""``tidegate halt``: try the halt rule on recorded or generated fleets, in virtual time."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import App, Parameter

from server.cli.client import DEFAULT_URL, Token, Url
from server.cli.output import Format, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

    from server.domain.identity import CampaignId
    from server.services.replay.run import Result
    from server.traces.format import Trace

_Model = TypeVar("_Model", bound="BaseModel")

app = App(name="halt", help="Say what the halt rule decided, and try it on other fleets.", version_flags=[])


@app.command
def explain(
    campaign: Annotated[str, Parameter(help="Its id (cmp_...).")],
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    output: Format = "table",
) -> None:
    """Say what was decided about a campaign, with the numbers that each decision was made on, the oldest first."""
    from server.cli.client import call

    path = f"/v1/campaigns/{campaign}/decisions"
    decisions = call(server, token, lambda client: client.get_all(path, "decisions"))[::-1]
    if output != "table":
        show(decisions, ("at", "kind", "actor", "sentence", "evidence"), output)
        return
    for decision in decisions:
        print(f"{decision['at']}  {decision['kind']} by {decision['actor']}: {decision['sentence']}")
        rule = decision["evidence"].get("rule")
        if rule:
            print(f"    odds {rule['wealth']:.3g} to 1, {rule['in_flight']} under way; largest: ", end="")
            print(f"{rule['channel'] or 'none'}, {rule['scope'] or 'the fleet'}")
        for term in (rule or {}).get("terms", []):
            if term["updated"]:
                print(
                    f"    {term['process']}, {term['scope']}: {term['silent']} of {term['updated']} updated, ", end=""
                )
                print(f"{term['control_silent']} of {term['controls']} others; {term['wealth']:.3g} of the odds")


@app.command
def replay(
    trace: Path,
    *,
    policy: Path | None = None,
    plan: Path | None = None,
    campaign: str | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    plot: Path | None = None,
) -> int:
    """Run a campaign over a trace in virtual time, and say how it ends; exit code 1 if that is not as expected.

    Parameters
    ----------
    trace
        A file in the format haltrace/1; gzipped if its name ends in .gz.
    policy
        A JSON file with a campaign's policy; what it does not say has its default.
    plan
        A JSON file with a campaign's plan; without it, one that takes about a day.
    campaign
        The id (cmp_...) of a campaign whose heights the devices have, so that they come in its order; without it, the
        trace's seed says which.
    json_file
        Where to write the outcome as JSON.
    plot
        Where to draw updated against other devices, the limits and the decision (.png, .svg, .pdf).
    """
    import json

    from rich.console import Console
    from rich.progress import Progress

    from firmware_store.errors import InvalidInputError
    from server.cli import ERROR, OK
    from server.domain.halt import HaltRule
    from server.domain.plan import Plan, Policy
    from server.services.replay.plot import draw
    from server.services.replay.run import misses
    from server.services.replay.run import replay as run
    from server.services.replay.world import population_of
    from server.traces.format import read_trace

    settings, waves = _read(Policy, policy) or Policy(), _read(Plan, plan)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        recorded = read_trace(trace)
        population = population_of(recorded, None if campaign is None else _uuid(campaign))
        progress.reset(task, description="replaying", total=1.0)
        result = run(
            recorded,
            HaltRule(population, settings.halt, recorded.head.seed),
            population,
            plan=waves,
            policy=settings,
            curve=plot is not None,
            on_tick=lambda done, _: progress.update(task, completed=done),
        )
    wrong = [] if recorded.expect is None else misses(result, recorded.expect)
    print(*_lines(recorded, result, wrong), sep="\n")
    if json_file is not None:
        try:
            json_file.write_text(json.dumps({**result.plain(), "misses": wrong}, indent=2) + "\n")
        except OSError as exc:
            raise InvalidInputError(f"cannot write {json_file}: {exc.strerror}") from exc
    if plot is not None:
        draw(result, settings.halt, plot)
    return ERROR if wrong else OK


@app.command
def generate(output: Path, *, scenario: str, devices: int = 2000, seed: int = 1) -> None:
    """Write the trace of a fleet that never was, under a good or a bad release.

    Parameters
    ----------
    output
        The file to write; gzipped if its name ends in .gz.
    scenario
        What is released to whom; a name that does not exist lists those that do.
    devices
        How many devices there are; scenarios of small fleets have a number of their own.
    seed
        The same scenario, number and seed give the same trace; another seed, another fleet and other outages.
    """
    from server.services.replay.scenarios import make_trace
    from server.traces.format import write_trace

    trace = make_trace(scenario, devices=devices, seed=seed)
    write_trace(output, trace)
    print(output)


def _lines(trace: "Trace", result: "Result", wrong: list[str]) -> "Iterator[str]":
    from server.cli.words import line, printable
    from server.domain.decide import duration

    yield line("trace", f"{printable(result.name)}, seed {result.seed}, {result.devices:,} devices")
    about = ", ".join(part for part in (result.channel, result.scope) if part)
    yield line(
        "verdict", f"{result.verdict} after {duration(result.virtual_s)}" + (f" ({printable(about)})" if about else "")
    )
    if result.sentence:
        yield line("because", printable(result.sentence))
    yield line("started", f"{result.started:,} devices; {result.updated:,} of them have rebooted")
    yield line("lost", f"{result.bricked:,} devices dark or flapping because of the release")
    yield line("on the way", f"{result.pauses} pauses" + ("; the brake was on" if "brake" in result.seen else ""))
    if trace.expect is not None:
        yield line("expected", trace.expect.verdict + (f", but: {'; '.join(wrong)}" if wrong else ": as it is"))


def _uuid(campaign: str) -> "CampaignId":
    from server.domain.identity import CampaignId
    from server.services import identifiers

    return CampaignId(identifiers.parse(identifiers.CAMPAIGN, campaign))


def _read(model: "type[_Model]", path: Path | None) -> "_Model | None":
    """Read a JSON file of a plan or a policy.

    Raises:
        InvalidInputError: it is none; the message says where.
    """
    from pydantic import ValidationError

    from firmware_store.errors import InvalidInputError
    from server.cli.ask import read_file

    if path is None:
        return None
    try:
        return model.model_validate_json(read_file(path))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInputError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from exc
