"""``tidegate campaign``: create, start, watch and stop."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from firmware_store.errors import InvalidInputError
from server.cli import HALTED, OK
from server.cli.client import DEFAULT_URL, Client, Token, Url, call
from server.cli.order import Yes, give_order, look_and_order
from server.cli.output import Format, show

CampaignId = Annotated[str, Parameter(help="Its id (cmp_...).")]
Why = Annotated[str, Parameter(help="Why.")]
Supersede = Annotated[bool, Parameter(negative="", help="End whatever else is active on its devices.")]

Membership = Literal["dynamic", "snapshot"]
PlanHash = Annotated[str, Parameter(help="What `campaign plan` has shown: refused if it is another plan by now.")]

app = App(name="campaign", help="Create, start, watch and stop campaigns.")

_COLUMNS = ("id", "name", "cohort", "state", "causes", "created_by", "sentence")
_REGION_COLUMNS = ("region", "level", "eligible", "reached", "in_flight", "confirmed", "failed", "silent", "weather")
_WAVE_COLUMNS = ("number", "regions", "target", "devices", "ramp_s", "soak_s", "manual")
_DELTA_COLUMNS = ("component", "source_version", "devices", "state", "codec", "bytes", "otherwise_bytes")


@app.command
def create(
    name: str,
    *,
    bundle: str,
    cohort: str,
    region: list[str],
    reason: str,
    token: Token,
    server: Url = DEFAULT_URL,
    plan: Path | None = None,
    policy: Path | None = None,
    membership: Membership = "dynamic",
    plan_hash: PlanHash = "",
) -> None:
    """Make a draft and print its id; nothing happens to any device until it is started.

    Parameters
    ----------
    name
        What people call it.
    bundle
        The bundle's id (bun_...).
    cohort
        Which part of the fleet.
    region
        Once for each region, in the order of the rollout.
    reason
        Why, or a ticket.
    plan
        A JSON file with the waves; without it the default plan is made.
    policy
        A JSON file with the policy; what it does not say has its default. Or the name of one that the server keeps.
    membership
        Whether devices that join the cohort after the start are of the campaign, too (dynamic), or not (snapshot).
    """
    body = _draft(name, region, plan, policy, bundle=bundle, cohort=cohort, membership=membership) | {"reason": reason}
    if plan_hash:
        body["plan_hash"] = plan_hash
    print(call(server, token, lambda client: client.post("/v1/campaigns", body))["id"])


@app.command(name="plan")
def show_plan(
    name: str,
    *,
    bundle: str,
    cohort: str,
    region: list[str],
    token: Token,
    server: Url = DEFAULT_URL,
    plan: Path | None = None,
    policy: Path | None = None,
    membership: Membership = "dynamic",
    output: Format = "table",
) -> None:
    """Show what a campaign would do, wave by wave, and what to know before it starts; nothing is stored.

    Parameters
    ----------
    name
        What people would call it.
    bundle
        The bundle's id (bun_...).
    cohort
        Which part of the fleet.
    region
        Once for each region, in the order of the rollout.
    plan
        A JSON file with the waves; without it the default plan is shown.
    policy
        A JSON file with the policy; what it does not say has its default. Or the name of one that the server keeps.
    membership
        Whether devices that join the cohort after the start would be of the campaign, too.
    """
    body = _draft(name, region, plan, policy, bundle=bundle, cohort=cohort, membership=membership)
    answer = call(server, token, lambda client: client.post("/v1/campaigns?dry_run=true", body))
    if output != "table":
        show([answer], (), output)
        return
    show([{**wave, "regions": ", ".join(wave["regions"])} for wave in answer["waves"]], _WAVE_COLUMNS, "table")
    print()
    show(answer["regions"], ("region", "devices"), "table")
    for warning in answer["warnings"]:
        print(f"\n{warning}")
    print(f"\nPlan hash: {answer['plan_hash']}")


@app.command
def policy(*, lab: bool = False) -> None:
    """Print the default policy as JSON, to be edited and given to `create`.

    Parameters
    ----------
    lab
        On a lab's clock: an hour of the halt rule is a minute, and nobody is watched for days.
    """
    from server.domain.plan import Policy

    given = Policy()
    if lab:
        given = given.model_copy(update={"halt": given.halt.scaled(1 / 60), "trial_s": 5, "watch_s": 2})
    print(given.model_dump_json(indent=2))


@app.command
def ls(
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    filter: str = "",  # noqa: A002 - the option is --filter
    output: Format = "table",
) -> None:
    """List campaigns, the newest first.

    Parameters
    ----------
    filter
        Only those that this lets through, such as "state = running AND cohort = main" (docs/reference/filters.md).
    """
    only = {"filter": filter} if filter else {}
    show(call(server, token, lambda client: client.get_all("/v1/campaigns", "campaigns", only)), _COLUMNS, output)


@app.command(name="show")
def show_one(campaign: CampaignId, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Show one campaign and its regions."""
    answer = call(server, token, lambda client: client.get(f"/v1/campaigns/{campaign}"))
    show([answer], _COLUMNS, output)
    if output == "table":
        print()
        show([{**row, "level": f"{row['level']:.1%}"} for row in answer["regions"]], _REGION_COLUMNS, output)
        _show_more(answer)


@app.command
def explain(campaign: CampaignId, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Say why a campaign is where it is, what it waits for, what the halt rule knows, and what comes next."""
    from server.cli.explanation import explained

    answer = call(server, token, lambda client: client.get(f"/v1/campaigns/{campaign}/explain"))
    if output == "table":
        print(*explained(answer), sep="\n")
    else:
        show([answer], (), output)


@app.command
def rehearse(
    target: str,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    effect: Annotated[list[str] | None, Parameter(help="A bad release, such as brick=2%.", negative="")] = None,
    output: Format = "table",
) -> None:
    """Play a campaign in virtual time on the fleet as it is: how long it takes, and what bad releases would cost.

    Parameters
    ----------
    target
        A campaign's id (cmp_...), or a file of one as `apply` takes it.
    """
    from server.cli.rehearsed import rehearse as ask
    from server.cli.rehearsed import rehearsed

    report = ask(server, token, target, effect or ())
    if output == "table":
        print(*rehearsed(report), sep="\n")
    else:
        show([report], (), output)


@app.command
def executions(
    campaign: CampaignId,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    state: str = "",
    reason: str = "",
    filter: str = "",  # noqa: A002 - the option is --filter
    output: Format = "table",
) -> None:
    """List how far each device is.

    Parameters
    ----------
    state
        Only those in this state, such as failed.
    reason
        Only those with this reason, such as no_way_back.
    filter
        Only those that this lets through, such as "region = eu AND updated < now-1h" (docs/reference/filters.md).
    """
    path = f"/v1/campaigns/{campaign}/executions"
    only = {name: value for name, value in (("state", state), ("reason", reason), ("filter", filter)) if value}
    rows = call(server, token, lambda client: client.get_all(path, "executions", only))
    show(rows, ("device", "region", "state", "attempt", "reason", "detail", "updated_at"), output)


@app.command
def decisions(campaign: CampaignId, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Show what was decided and why, the newest first."""
    path = f"/v1/campaigns/{campaign}/decisions"
    show(
        call(server, token, lambda client: client.get_all(path, "decisions")),
        ("at", "kind", "actor", "sentence"),
        output,
    )


@app.command
def windows(
    campaign: CampaignId,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    zone: list[str] | None = None,
    count: int = 3,
    output: Format = "table",
) -> None:
    """Show when its maintenance windows open next, region by region.

    Parameters
    ----------
    zone
        REGION=ZONE, such as eu=Europe/Berlin: go by this wall clock there, also when it is changed; otherwise by the
        offsets from UTC that devices have now.
    count
        How many openings of each.
    """
    path = f"/v1/campaigns/{campaign}/windows"
    answer = call(server, token, lambda client: client.get(path, zone=zone or [], count=count))
    rows = [{**row, "opens_at": ", ".join(row["opens_at"])} if output == "table" else row for row in answer["openings"]]
    show(rows, ("region", "zone", "utc_offset_minutes", "devices", "is_open", "opens_at"), output)


@app.command
def watch(
    campaign: CampaignId,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    or_paused: Annotated[
        bool, Parameter(negative="", help="End also when it is paused, whoever or whatever did.")
    ] = False,
) -> int:
    """Show a campaign's progress until it ends; exit code 5 if it was halted, or paused."""
    from server.cli.progress import follow

    until = ("finished", "halted", "cancelled", "rolled_back", *(("paused",) if or_paused else ()))

    async def until_it_ends(client: Client) -> dict[str, Any]:
        return await follow(client, campaign, until=until)

    answer = call(server, token, until_it_ends)
    print(answer["sentence"] or answer["state"])
    return HALTED if answer["state"] in ("halted", "paused") else OK


@app.command
def submit(campaign: CampaignId, *, token: Token, server: Url = DEFAULT_URL, reason: Why = "not given") -> None:
    """Ask for the approvals that a draft's policy wants."""
    give_order("submit", campaign, reason, server, token)


@app.command
def approve(campaign: CampaignId, *, token: Token, server: Url = DEFAULT_URL, reason: Why = "not given") -> None:
    """Approve the start of a campaign, the resume of a halted one, or an emergency after the fact."""
    give_order("approve", campaign, reason, server, token)


@app.command
def start(
    campaign: CampaignId,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    reason: Why = "not given",
    supersede: Supersede = False,
    emergency: Annotated[
        bool, Parameter(negative="", help="Without approval, through freezes, without soak; needs --reason.")
    ] = False,
    plan_hash: PlanHash = "",
) -> None:
    """Start a draft that needs no approval, or a campaign that has it."""
    further: dict[str, bool | str] = {"supersede": supersede, "emergency": emergency, "plan_hash": plan_hash}
    give_order("start", campaign, reason, server, token, **further)


@app.command
def advance(
    campaign: CampaignId,
    *,
    wave: int,
    token: Token,
    server: Url = DEFAULT_URL,
    reason: Why = "not given",
    yes: Yes = False,
) -> None:
    """Let a wave through whose gate waits for a person.

    Parameters
    ----------
    wave
        Its number, from 1: refused if another is open by now.
    """
    look_and_order("advance", campaign, reason, server, token, yes=yes, wave=wave)


@app.command
def pause(campaign: CampaignId, *, token: Token, server: Url = DEFAULT_URL, reason: Why = "not given") -> None:
    """Hold it: nobody starts, nobody activates; downloads go on."""
    give_order("pause", campaign, reason, server, token)


@app.command
def resume(
    campaign: CampaignId,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    reason: Why = "not given",
    supersede: Supersede = False,
    yes: Yes = False,
) -> None:
    """Let a paused campaign go on, or begin a halted one's next run, which needs a reason."""
    look_and_order("resume", campaign, reason, server, token, yes=yes, supersede=supersede)


@app.command
def rollback(
    campaign: CampaignId,
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    reason: Why = "not given",
    supersede: Supersede = False,
    yes: Yes = False,
) -> None:
    """Send its devices back to the release they ran before."""
    look_and_order("rollback", campaign, reason, server, token, yes=yes, supersede=supersede)


@app.command
def halt(campaign: CampaignId, *, token: Token, server: Url = DEFAULT_URL, reason: Why = "not given") -> None:
    """Halt it: downloads stop, devices in trial go back to their old slot."""
    give_order("halt", campaign, reason, server, token)


@app.command
def cancel(campaign: CampaignId, *, token: Token, server: Url = DEFAULT_URL, reason: Why = "not given") -> None:
    """End it: downloads stop, a trial finishes by its own checks."""
    give_order("cancel", campaign, reason, server, token)


def _draft(name: str, region: list[str], plan: Path | None, policy: Path | None, **members: str) -> dict[str, Any]:
    body: dict[str, Any] = {"name": name, "regions": region, **members}
    if plan is not None:
        body["plan"] = _read_json(plan)
    if policy is not None:
        is_name = not (policy.suffix or policy.exists())
        body["policy"] = str(policy) if is_name else _read_json(policy)
    return body


def _show_more(answer: dict[str, Any]) -> None:
    """Say where its blobs are, what approvals there are and are missing, who waits to reboot, how far a rollback is."""
    print(f"\nBlobs: {answer['publication']['sentence']}.")
    if answer["approvals"]:
        print()
        show(answer["approvals"], ("run", "who", "at", "reason"), "table")
    if answer["approvals_missing"]:
        after = " after the fact: it was started as an emergency" if answer["emergency"] else ""
        print(f"\nApprovals missing{after}: {answer['approvals_missing']}.")
    if answer["reboots_waiting"]:
        print(f"\nWritten, and waiting to reboot: {answer['reboots_waiting']}.")
    if answer["deltas"]:
        print()
        show(answer["deltas"], _DELTA_COLUMNS, "table")
    if answer["rollback"] is not None:
        print()
        show([answer["rollback"]], ("since", "returned", "no_way_back", "waiting", "seconds"), "table")
        if answer["rollback"]["hint"]:
            print(answer["rollback"]["hint"])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidInputError(f"Cannot read {path}: {exc.strerror}.") from exc
    except ValueError as exc:
        raise InvalidInputError(f"{path} is not JSON: {exc}.") from exc
