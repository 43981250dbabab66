"""What the halt rule knows of a campaign, with its numbers, and what further evidence would make it act."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import numpy as np

from server.domain.halt import HaltRule, Verdict
from server.domain.halt.ledger import Arm
from server.domain.halt.rates import Tables, place
from server.domain.halt.wealth import Process

ASKED_MOST: Final = 30
"""More silent devices in a row than this are not asked about: a guard rail would have halted long before."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """``odds`` against bad luck; ``brake_at`` and ``halt_at`` are the policy's.

    ``judged`` devices have a verdict; of these, comparable devices explain ``expected`` silent ones. ``why`` is the
    largest part of the odds in words. ``until_brake`` and ``until_halt``: so many updated devices, one after the other
    and none of their comparable ones, would have to go dark; None: more than ``ASKED_MOST``. ``braked_s`` of
    ``brake_budget_s`` are used up, after which a person is asked.
    """

    call: str
    odds: float
    brake_at: float
    halt_at: float
    why: str
    in_flight: int
    judged: int
    expected: float
    failed: int
    succeeded: int
    explicit_odds: float
    until_brake: int | None
    until_halt: int | None
    braked_s: float
    brake_budget_s: float
    is_weather_known: bool
    bad_weather: tuple[str, ...]
    room: int | None


def outlook(rule: HaltRule, verdict: Verdict) -> Outlook:
    """Return what the rule knows; it is read and not changed."""
    policy = rule.policy
    rooms = verdict.room_in_regions
    evidence = verdict.evidence
    explicit = evidence.get("explicit", {})
    return Outlook(
        call=verdict.call.name.lower(),
        odds=float(verdict.wealth),
        brake_at=policy.brake_at,
        halt_at=policy.halt_at,
        why=verdict.why,
        in_flight=verdict.in_flight,
        judged=int(rule.judged.sum()),
        expected=float(rule.expected.sum()),
        failed=int(explicit.get("failed", 0)),
        succeeded=int(explicit.get("succeeded", 0)),
        explicit_odds=float(explicit.get("wealth", 1.0)),
        until_brake=silent_until(rule, policy.brake_at),
        until_halt=silent_until(rule, policy.halt_at),
        braked_s=rule.brake.used_s,
        brake_budget_s=policy.brake_budget_s,
        is_weather_known=verdict.is_weather_known,
        bad_weather=tuple(sorted(verdict.bad_weather)),
        room=int(min(verdict.room, rooms.sum())) if len(rooms) else None,
    )


def silent_until(rule: HaltRule, odds: float) -> int | None:
    """Return how many updated devices, each dark and none of its comparable ones, take the wealth to ``odds``.

    They are taken to be of the region and the hardware class that have been judged most.
    """
    classes = rule.judged.shape[1]
    if not rule.judged.size:
        return None
    region, hardware = np.unravel_index(int(rule.judged.argmax()), rule.judged.shape)
    wealth, rates = deepcopy(rule.wealth), deepcopy(rule.rates)
    for number in range(ASKED_MOST + 1):
        if wealth.total() >= odds:
            return number
        counts = np.zeros((1, len(Arm), classes), np.int32)
        silent = np.zeros_like(counts)
        counts[0, Arm.UPDATED, hardware] = silent[0, Arm.UPDATED, hardware] = 1
        counts[0, Arm.SHADOW, hardware] = rule.policy.shadows_most
        block = Tables(
            process=np.array([int(Process.G1)]),
            d0=np.array([rule.policy.d0]),
            region=np.array([int(region)]),
            unsteady=np.array([False]),
            counts=counts,
            silent=silent,
        )
        place(block, wealth, rates, beta=rule.policy.beta)
    return None
