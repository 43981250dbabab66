"""Whether a run came to what its scenario expects: one sentence for each expectation, held or not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from device_sim.scenario.model import REFUSED, Expectation, Scenario
from device_sim.scenario.outcome import CampaignOutcome, Outcome

_BY_ITSELF = frozenset({"rule", "gate"})


@dataclass(frozen=True, slots=True)
class Finding:
    """``name``: the expectation's, with its release; ``sentence``: what was found."""

    name: str
    held: bool
    sentence: str


def judge(scenario: Scenario, outcome: Outcome) -> list[Finding]:
    """Return what there is to say of each expectation, in the scenario's order."""
    campaigns = {campaign.release: campaign for campaign in outcome.campaigns}
    last = scenario.campaigns[-1].release
    return [
        Finding(f"{campaign.release}: {name}", held, sentence)
        for expectation in scenario.expect
        for campaign in [campaigns[expectation.release or last]]
        for name, held, sentence in _findings(expectation, campaign, outcome.devices)
    ]


def _findings(expected: Expectation, found: CampaignOutcome, devices: int) -> Iterator[tuple[str, bool, str]]:
    stop = f"stopped by the {found.stopped_by}" if found.stopped_by else "never stopped"
    if expected.halted_before is not None:
        ratio = found.updated_at_stop / devices
        held = found.stopped_by in _BY_ITSELF and ratio < expected.halted_before
        yield "halted_before", held, f"{stop}, when {found.updated_at_stop} of {devices} devices had rebooted into it"
    if expected.max_bricked is not None:
        is_share = isinstance(expected.max_bricked, float)
        most = expected.max_bricked * devices if is_share else expected.max_bricked
        yield "max_bricked", found.bricked <= most, f"{found.bricked} devices were lost; {most:g} are allowed"
    if expected.false_halt is not None:
        is_halted = found.stopped_by in _BY_ITSELF
        held = found.state != REFUSED and is_halted == expected.false_halt
        yield "false_halt", held, "never begun" if found.state == REFUSED else f"{stop}{_because(found)}"
    if expected.all_confirmed is not None:
        left = found.reachable_unconfirmed
        sentence = f"{found.reachable - left} of {found.reachable} devices that can be reached have confirmed it"
        have_all = left == 0 and found.reachable > 0 and found.state != REFUSED
        yield "all_confirmed", have_all == expected.all_confirmed, sentence
    if expected.none_updated is not None:
        held = (found.updated == 0) == expected.none_updated
        yield "none_updated", held, f"{found.updated} devices have booted it"
    if expected.state:
        wanted = " or ".join(expected.state)
        yield "state", found.state in expected.state, f"it is {found.state}; {wanted} was expected"
    if expected.reasons or expected.no_other_reasons:
        yield "reasons", *_reasons(expected, sorted(found.reasons))


def _reasons(expected: Expectation, given: Sequence[str]) -> tuple[bool, str]:
    missing = [reason for reason in expected.reasons if reason not in given]
    others = [reason for reason in given if reason not in expected.reasons] if expected.no_other_reasons else []
    said = f"devices gave {', '.join(given) or 'no reasons'}"
    return not missing and not others, said + (f"; {', '.join(missing)} is missing" if missing else "")


def _because(found: CampaignOutcome) -> str:
    return f": {found.sentence}" if found.stopped_by and found.sentence else ""
