"""Checks of one device that ask its campaign: is it for it, does it run, has its level passed it, is there room?"""

from typing import Final

from server.domain.campaign import OFFERING, Cause, State
from server.domain.decide import duration
from server.domain.execution import ATTEMPTS_MOST, IN_FLIGHT
from server.domain.execution import State as Execution
from server.domain.gate import FULL
from server.domain.identity import Region
from server.protocol.reasons import Reason
from server.services.approvals import missing
from server.services.forecast import due
from server.services.transitions import ceiling
from server.services.why_facts import Check, Facts, Outcome, failed, moment, passed, share
from server.services.why_reasons import SAID


def audience(facts: Facts) -> Check:
    device, campaign = facts.device, facts.campaign
    where = f"cohort {device.cohort} in region {device.region}"
    if facts.region is not None:
        return passed("audience", f"{campaign.name} is for {where}")
    regions = ", ".join(one.region for one in campaign.regions)
    return failed(
        "audience",
        f"it is in {where}, and {campaign.name} is for cohort {campaign.cohort} in {regions}",
        "move the device, or make a campaign for where it is",
    )


def membership(facts: Facts) -> Check:
    before = facts.campaign.members_before
    since = facts.device.member_since
    if before is None or int(since) < before:
        return passed("membership", "the campaign is for those who joined the cohort when this device did")
    return failed(
        "membership",
        f"it joined the cohort at {moment(since)}, and {facts.campaign.name} is for those who were in it at "
        f"{moment(before)}, when it started",
        "make another campaign",
    )


def outcome(facts: Facts) -> Check:
    """Whether it runs the release, is on its way, or has ended its attempts otherwise."""
    one = facts.execution
    version = facts.bundle.version
    if facts.runs_it and facts.state not in IN_FLIGHT:
        return failed("outcome", f"it runs {version} already", "nothing has to change")
    if one is None or one.state in {Execution.WAITING, Execution.DUE}:
        return passed("outcome", "it has not begun")
    reason = Reason(one.reason)
    since = f"since {duration(max(0.0, facts.now - one.updated_at.timestamp()))}"
    if one.state in IN_FLIGHT:
        return passed("outcome", f"it is updating: {one.state.value} {since}, attempt {one.attempt}")
    because, remedy = SAID[reason]
    detail = f" ({one.detail})" if one.detail else ""
    if one.state is Execution.CONFIRMED:
        return failed("outcome", f"it has confirmed {version} and runs something else since", remedy)
    if facts.is_earlier:
        return failed(
            "outcome",
            f"its attempt ended as {one.state.value} in an earlier run of the campaign: {because}{detail}",
            "make another campaign: a later run tries it not again",
        )
    if one.state is Execution.SILENT:
        return failed("outcome", f"it fell silent after its reboot, {since}", SAID[Reason.WENT_SILENT][1])
    if one.state is Execution.FAILED and one.attempt < ATTEMPTS_MOST:
        remedy = f"{remedy}; attempt {one.attempt + 1} of {ATTEMPTS_MOST} follows by itself after a pause"
    if one.state in {Execution.REJECTED, Execution.ROLLED_BACK}:
        remedy = f"{remedy}; this campaign tries it not again"
    said = f"its attempt {one.attempt} of {ATTEMPTS_MOST} ended as {one.state.value}: {because}{detail}"
    return failed("outcome", said, remedy)


_LACKS: Final = {
    State.DRAFT: ("is a draft", "submit or start it"),
    State.SCHEDULED: ("is approved and has not been started", "start it"),
    State.FINISHED: ("is finished", "make another campaign"),
    State.HALTED: ("is halted", "a person resumes it, or rolls it back"),
    State.ROLLING_BACK: ("is being rolled back", "make another campaign"),
    State.ROLLED_BACK: ("was rolled back", "make another campaign"),
    State.CANCELLED: ("was cancelled", "make another campaign"),
}
CLEARED_BY: Final = {
    Cause.OPERATOR: "a person resumes it",
    Cause.WEATHER: "it goes on when the devices that only watch are back",
    Cause.FREEZE: "it goes on when the freeze is over",
    Cause.WINDOW: "it goes on when a window opens",
    Cause.EVALUATOR: "it goes on when the evaluator is back",
    Cause.BROKER: "it goes on when the broker is back",
    Cause.BRAKE_BUDGET: "a person looks and resumes it",
    Cause.GATE: "it goes on when the gate's numbers hold again",
    Cause.TRUST: "publish a valid root and status",
    Cause.EVIDENCE: "a person looks and resumes it",
}


def running(facts: Facts) -> Check:
    campaign = facts.campaign
    if campaign.state in OFFERING:
        return passed("campaign", f"{campaign.name} is {campaign.state.value}")
    why = f": {campaign.sentence.rstrip('.')}" if campaign.sentence else ""
    if campaign.state is State.PAUSED:
        causes = sorted(campaign.causes)
        changes = "; ".join(CLEARED_BY[cause] for cause in causes)
        named = ", ".join(cause.value for cause in causes)
        return failed("campaign", f"{campaign.name} is paused ({named}){why}", changes)
    if campaign.state is State.AWAITING_APPROVAL:
        wanted = missing(campaign)
        says = f"{campaign.name} waits for {wanted} approval{'s' * (wanted != 1)}"
        return failed("campaign", says, "somebody other than its creator approves it, then start it")
    says, changes = _LACKS[campaign.state]
    return failed("campaign", f"{campaign.name} {says}{why}", changes)


def trust(facts: Facts) -> Check:
    if not facts.refusal:
        return passed("trust", "the release may be offered by root and status of today")
    remedy = "publish a valid root and status, or make a release that they allow"
    return failed("trust", f"the release may not be offered: {facts.refusal.rstrip('.')}", remedy)


def server(facts: Facts) -> Check:
    if facts.hearing_since is not None:
        return passed("server", f"it hears its devices since {moment(facts.hearing_since)}")
    return failed("server", "the server has no session at the broker", "see that the broker is up; levels stand still")


def blobs(facts: Facts) -> Check:
    if facts.campaign.blobs_ready:
        return passed("blobs", "its devices can fetch what they need")
    return failed(
        "blobs", "the release's blobs are not at the broker yet", "they are on their way: `tidegate campaign show`"
    )


def level(facts: Facts) -> Check:
    """Whether the level has passed its height, and when it will."""
    campaign, region = facts.campaign, facts.region
    assert region is not None
    if facts.state in IN_FLIGHT:
        return passed("level", "it has begun")
    if facts.is_named:
        return passed("level", "an open wave names it, so that it waits for no level")
    now = region.ramp.level(facts.now)
    stand = f"its height is {share(facts.height)} and the level of {region.region} is {share(now)}"
    if facts.height < now:
        return passed("level", stand)
    if facts.height >= ceiling(campaign):
        holdout = f"it belongs to the holdout: no wave goes above {share(ceiling(campaign))}"
        return failed("level", f"{stand}; {holdout}", "make a campaign without holdout, or one that names it")
    found = due(campaign, Region(region.region), facts.height, facts.now)
    if found is None:
        return failed("level", stand, "a later wave reaches it; nobody knows yet which")
    waves = len(campaign.plan.waves)
    when = f"wave {found.wave + 1} of {waves} reaches it, at {moment(found.at)} at the earliest"
    return failed("level", stand, when, found.at)


def room(facts: Facts) -> Check:
    """Whether the evidence so far leaves room for one more: whom the level has passed in time does not wait for it."""
    verdict, region = facts.verdict, facts.region
    if facts.state in IN_FLIGHT or (facts.is_due and not facts.is_named and not facts.waits_to_be_asked):
        return passed("room", "it does not wait for room")
    if verdict is None or region is None:
        return Check("room", Outcome.UNKNOWN, "the halt rule has not looked yet", "it looks each second")
    if verdict.is_blind or region.region in verdict.bad_weather:
        return failed("room", f"devices that only watch are dark in {region.region}", "it goes on when they are back")
    if verdict.pace == 0:
        return failed("room", "the halt rule brakes", "it goes on when those in flight are judged")
    index = [one.region for one in facts.campaign.regions].index(region.region)
    rooms = verdict.room_in_regions
    left = min(verdict.room, int(rooms[index])) if index < len(rooms) else verdict.room
    if facts.device.wake_interval_s:
        left = min(verdict.room, verdict.room_of_sleepers)
    if left <= 0:
        says = f"{verdict.in_flight} devices are in flight, and the evidence so far leaves room for no more"
        return failed("room", says, "each good verdict makes room")
    return passed("room", f"there is room for {'more' if left >= FULL else f'{left} more'} devices")


def admitted(facts: Facts) -> Check:
    """Whether it has to be asked, since it was late or sleeps, and was."""
    device = facts.device
    admit = device.admit
    if not facts.waits_to_be_asked:
        return passed("admitted", "it does not wait to be admitted")
    if admit is not None and admit.campaign == facts.campaign.id and admit.until > facts.now:
        return passed("admitted", f"it was admitted until {moment(admit.until)}")
    who = "it sleeps" if device.wake_interval_s else "it was away when the level passed it"
    left = room(facts)
    why = f", and {left.says}" if left.outcome is Outcome.FAILED else ""
    remedy = "the lowest heights are admitted first, as there is room"
    return failed("admitted", f"{who}, so that it waits to be admitted{why}", remedy)
