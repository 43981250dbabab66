"""What a device must do, as far as one that runs shows it at the broker: the rules that an exam tries.

``source`` is a section of docs/protocol.md, where each rule stands with its reasons.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """Values are what is shown."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Rule:
    """``tried``: what the exam does, and what it looks at."""

    id: str
    text: str
    tried: str
    source: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a rule; ``seen``: what the device did, or why it was not tried."""

    rule: Rule
    outcome: Outcome
    seen: str


_SESSION, _CHECKS, _REPORTS = "A session", "The order of checks", "Reports"

RULES: Final = (
    Rule(
        "session.hello",
        "A well-formed hello comes with each connection, on the device's own topic.",
        "waits for it",
        _SESSION,
    ),
    Rule(
        "session.beat",
        "Beats come at the welcome's interval, 10 % early or late, with the boot id of the hello.",
        "welcomes the session with an interval of a second, and takes the time between four beats",
        _SESSION,
    ),
    Rule(
        "session.welcome-of-another",
        "A welcome that does not repeat the nonce of this session is none.",
        "sends one that asks for a beat every 600 seconds, and waits for the next beats",
        _CHECKS,
    ),
    Rule(
        "session.welcome-signature",
        "A welcome that the session role has not signed is none.",
        "sends one, signed by the directive key, that asks for a beat every 600 seconds",
        _CHECKS,
    ),
    Rule(
        "order.taken",
        "A good directive is taken, and the beat says which counter is held.",
        "publishes one that orders nothing",
        _CHECKS,
    ),
    Rule(
        "order.counter-lower",
        "A directive below the counter that is held is a replay.",
        "publishes an offer one below it, validly signed",
        _CHECKS,
    ),
    Rule(
        "order.counter-equal",
        "Another directive under the counter that is held is a replay.",
        "publishes an offer under the same counter, validly signed",
        _CHECKS,
    ),
    Rule(
        "order.signature",
        "A directive that no key of the directive role has signed is refused.",
        "publishes an offer under the next counter, signed by a key that nobody knows",
        _CHECKS,
    ),
    Rule(
        "order.role",
        "A directive that another role's key has signed is refused.",
        "publishes an offer under the next counter, signed by the session key",
        _CHECKS,
    ),
    Rule(
        "order.audience",
        "A directive for another cohort is refused, on whatever topic it comes.",
        "publishes one for another cohort on this cohort's topic",
        _CHECKS,
    ),
    Rule("order.fleet", "A directive of another fleet is refused.", "publishes one under the next counter", _CHECKS),
    Rule(
        "order.unknown-key",
        "A signed document with a key that is not known is refused as a whole.",
        "publishes a directive with key 23, validly signed",
        _CHECKS,
    ),
    Rule(
        "order.not-deterministic",
        "A signed document in any but the deterministic encoding is refused.",
        "publishes a directive whose keys are in another order, validly signed",
        _CHECKS,
    ),
    Rule("order.empty", "An empty payload is no order.", "publishes one, and waits for the next beats", _CHECKS),
    Rule(
        "offer.expired",
        "An offer that has expired starts nothing.",
        "publishes one that expired a minute ago, with its line above the device's height",
        _CHECKS,
    ),
    Rule(
        "offer.below-level",
        "A device whose height the line has not passed does not start.",
        "publishes an offer whose line ends just below the device's height",
        "The idea in four sentences",
    ),
    Rule(
        "offer.starts",
        "It starts when the line passes its height, and says so.",
        "draws the line on until it has passed it, while the device looks",
        "Being late",
    ),
    Rule(
        "report.repeated",
        "A report that is not acknowledged is sent again; hellos and beats repeat the last one.",
        "does not acknowledge the first report until it has come twice",
        _REPORTS,
    ),
    Rule(
        "halt.download",
        "A halt in the middle of a download ends it: cancelled(halted).",
        "leaves all but the envelope out, and halts",
        "What an order means",
    ),
    Rule(
        "attempt.counted",
        "What is offered anew after it was cancelled is begun anew, as the next attempt.",
        "offers the same release once more, with all of its blobs",
        "What an order means",
    ),
    Rule(
        "reboot.acknowledged",
        "Rebooting is acknowledged before the device reboots.",
        "leaves that report alone for two beats",
        "An update",
    ),
    Rule(
        "session.will",
        "A session that ends without a word leaves its last will, with its own boot id and nonce.",
        "listens while the device reboots",
        _SESSION,
    ),
    Rule(
        "reboot.boot-id",
        "After a reboot the boot id is another one, and so is the nonce.",
        "compares the hello after the reboot with the one before",
        _SESSION,
    ),
    Rule(
        "trial.ends",
        "A trial is said, and ends: confirmed by the new slot, or rolled back to the old one.",
        "waits for the longest trial",
        "An update",
    ),
    Rule(
        "trial.slots",
        "The hello says what is in the slots, and which of them runs.",
        "compares the hello of the trial with the manifest that was offered",
        "Slots and the bootloader",
    ),
    Rule("report.rising", "Numbers of reports rise, and never repeat for another report.", "compares all", _REPORTS),
    Rule(
        "report.acknowledged",
        "A report that was acknowledged is not sent again.",
        "listens to the end",
        _REPORTS,
    ),
    Rule("telemetry.well-formed", "Everything that a device sends can be read.", "reads all", "Topics"),
)
BY_ID: Final = {rule.id: rule for rule in RULES}


class Sheet:
    """What is known of each rule; what was never noted was skipped."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}
        self.why_not = "the exam did not come so far"
        """Why the rules that were not noted are skipped."""

    def note(self, rule: str, holds: bool, seen: str) -> bool:
        """Keep what was seen; returns whether the rule holds. What was seen first stays."""
        outcome = Outcome.PASS if holds else Outcome.FAIL
        self._found.setdefault(rule, Finding(BY_ID[rule], outcome, seen))
        return holds

    def skip(self, rule: str, why: str) -> None:
        self._found.setdefault(rule, Finding(BY_ID[rule], Outcome.SKIPPED, why))

    def findings(self) -> list[Finding]:
        """Return one for each rule, in the order of the rules."""
        return [self._found.get(rule.id, Finding(rule, Outcome.SKIPPED, self.why_not)) for rule in RULES]
