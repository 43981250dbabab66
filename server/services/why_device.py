"""Checks of one device that ask itself: what it is, what it says, whether it hears and is heard."""

from typing import Final

from server.domain.decide import duration
from server.domain.eligibility import Target, fits
from server.domain.execution import State as Execution
from server.domain.gate import DEAD_MAN_S
from server.domain.windows import fits as window_fits
from server.domain.windows import needed_s, next_opening
from server.protocol.reasons import Reason
from server.services.why_facts import Check, Facts, Outcome, failed, moment, passed
from server.services.why_reasons import SAID

MILLISECONDS: Final = 1000
"""A counter is the time of its directive in Unix milliseconds, at the least."""


def enrolled(facts: Facts) -> Check:
    if facts.device.revoked:
        return failed("enrolled", "it is revoked: no broker lets it in", "claim it and let it enrol again")
    return passed("enrolled", "it is not revoked")


def seen(facts: Facts) -> Check:
    if facts.device.vendor_id:
        return passed("seen", f"it has said what it is: {facts.device.hardware}")
    return failed(
        "seen",
        "it has never said hello, so nobody knows what it is",
        "let it enrol and connect; if it is on, look at its credential and at the broker's address",
    )


def held(facts: Facts) -> Check:
    record = facts.record
    if not record.held:
        return passed("held", "nobody holds it")
    until = record.held_until
    when = f"until {moment(until.timestamp())}" if until is not None else "until somebody releases it"
    why = f": {record.held_reason.rstrip('.')}" if record.held_reason else ""
    changes = f"release it: `tidegate device release {record.id}`"
    return failed("held", f"it is held {when}{why}", changes, None if until is None else until.timestamp())


def hardware(facts: Facts) -> Check:
    bundle, device = facts.bundle, facts.device
    target = Target(bundle.vendor_id, frozenset(bundle.class_ids), bundle.manifest_digest)
    if not device.vendor_id:
        return Check("hardware", Outcome.UNKNOWN, "it has not said what it is", "its first hello tells")
    if fits(target, vendor_id=device.vendor_id, class_id=device.class_id):
        return passed("hardware", f"{bundle.version} is for its hardware")
    return failed(
        "hardware",
        f"{bundle.version} is not for its hardware ({facts.record.vendor} {device.hardware})",
        "make a campaign of a release for it",
    )


def version(facts: Facts) -> Check:
    mine, theirs = facts.record.running_sequence, facts.bundle.sequence_number
    if mine is None:
        return Check("version", Outcome.UNKNOWN, "it has not said which release it runs", "its next hello tells")
    if mine > theirs:
        return failed(
            "version",
            f"it runs release number {mine}, and {facts.bundle.version} has number {theirs}: devices take none that is "
            "lower",
            f"build the release again under a number above {mine}",
        )
    return passed("version", f"release number {theirs} is not lower than {mine}, which it runs")


def online(facts: Facts) -> Check:
    device, now = facts.device, facts.now
    if facts.online:
        return passed("online", f"it was heard {duration(max(0.0, now - device.last_seen))} ago")
    if not device.last_seen:
        return failed("online", "it was never heard", "let it connect")
    last = f"last heard {duration(max(0.0, now - device.last_seen))} ago, at {moment(device.last_seen)}"
    if facts.fleet.is_asleep(device, now):
        wakes = device.last_seen + device.wake_interval_s
        return failed("online", f"it is asleep ({last})", "it is asked when it wakes", wakes)
    return failed("online", f"it is offline ({last})", "let it connect: look at its power and at its line")


def directive(facts: Facts) -> Check:
    """Whether its session at the broker carries orders: it repeats the counter that it holds in each beat."""
    told, current = facts.device.told_counter, facts.current
    if told is None:
        says = "it has not told this process which order it holds"
        return Check("directive", Outcome.UNKNOWN, says, "its next beat tells")
    if not told < current:
        return passed("directive", f"it holds the current order of its cohort ({told.counter})")
    age_s = facts.device.told_at - current.counter / MILLISECONDS
    remedy = "see that the broker lets it read its cohort's directives, root and status, and look at its log"
    says = f"it holds order {told.counter}, and the current one is {current.counter}"
    if age_s <= DEAD_MAN_S:
        return Check("directive", Outcome.UNKNOWN, f"{says}, which is new", remedy)
    refused = f"; it has refused {facts.device.refusals} orders since its boot" if facts.device.refusals else ""
    return failed("directive", f"{says}, which was {duration(age_s)} old when it said so{refused}", remedy)


def window(facts: Facts) -> Check:
    policy, device = facts.campaign.policy, facts.device
    if not policy.windows:
        return passed("window", "the campaign has no maintenance windows")
    offset = device.utc_offset_minutes or 0
    clock = "its clock is taken to be on UTC" if device.utc_offset_minutes is None else f"its clock is {offset:+d} min"
    if window_fits(policy.device_windows, facts.now, utc_offset_minutes=offset, needed_s=needed_s(policy.trial_s)):
        return passed("window", f"a maintenance window is open ({clock})")
    opens = next_opening(policy.device_windows, facts.now, utc_offset_minutes=offset)
    when = "none opens" if opens is None else f"the next one opens at {moment(opens)}"
    return failed("window", f"no maintenance window is open for it ({clock})", when, opens)


def said(facts: Facts) -> Check:
    """What the device itself says of why it waits."""
    one = facts.execution
    if one is None or one.state is not Execution.DUE or one.reason in {Reason.NONE, Reason.LATE}:
        return passed("said", "it does not say that anything keeps it")
    because, remedy = SAID[Reason(one.reason)]
    if one.reason == Reason.HELD and not facts.device.held:
        return passed("said", "it was held when it last said so, and is no more")
    ago = duration(max(0.0, facts.now - one.updated_at.timestamp()))
    return failed("said", f"it says that {because} ({ago} ago)", remedy)


def site(facts: Facts) -> Check:
    most, device = facts.campaign.policy.site_reboots_most, facts.device
    if not most or not device.site:
        return passed("site", "its reboot waits for no others")
    told = device.reboot
    if told is not None and told.campaign == facts.campaign.id and told.until > facts.now:
        return passed("site", f"it may reboot until {moment(told.until)}")
    if facts.state is Execution.INSTALLING:
        says = f"it has written the release and waits to reboot: {most} of site {device.site} do so at once"
        return failed("site", says, "it follows when another of its site has confirmed")
    return passed("site", f"it will wait with its reboot for its site ({most} at once)")


def space(facts: Facts) -> Check:
    free, needs = facts.device.free_bytes, sum(facts.bundle.components.values())
    if free is None:
        return Check("space", Outcome.UNKNOWN, "it does not say how much room it has", "its beats may tell")
    if free < needs:
        says = f"it has {free:,} bytes free, and the images have {needs:,}: its slots may have room of their own"
        return Check("space", Outcome.UNKNOWN, says, "make room on it if an attempt fails as storage_full")
    return passed("space", f"it has {free:,} bytes free, and the images have {needs:,}")


def power(facts: Facts) -> Check:
    del facts
    return Check("power", Outcome.UNKNOWN, "devices do not tell how they are powered", "look at the device")
