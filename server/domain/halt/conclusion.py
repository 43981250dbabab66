"""From the state of the rule to its verdict: the strongest call that anything asks for, and why."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from server.domain.halt import pace, rails, sentence
from server.domain.halt.roster import Status, by_region_and_class
from server.domain.halt.state import HALT_FIELDS
from server.domain.halt.view import Bools, Call, Indices, Moment, Verdict
from server.domain.halt.wealth import CHANNELS, Process

if TYPE_CHECKING:
    from server.domain.halt.rule import HaltRule

_TERMS_SHOWN: Final = 5


def conclude(rule: "HaltRule", moment: Moment, elapsed_s: float) -> Verdict:
    roster, policy, population = rule.roster, rule.policy, rule.population
    flight = by_region_and_class(roster.flight(), population)
    silent = by_region_and_class(np.flatnonzero(roster.status == Status.SILENT), population)
    excess = np.maximum(silent - rule.expected, 0)
    everywhere = rule.weather.is_everywhere(moment.now)
    in_regions, in_classes, room = pace.rooms(
        judged=rule.judged,
        excess=silent - rule.expected,
        in_flight=flight,
        moving=int(roster.moving(moment).sum()),
        started=rule.started,
        fleet=len(population),
        is_known=rule.weather.is_known,
        policy=policy,
    )
    odds = max(rule.wealth.total(), rule.explicit.wealth())
    speed = rule.brake.press(
        odds=odds, elapsed_s=elapsed_s, moment=moment, roster=roster, policy=policy, counts=not everywhere
    )
    verdict = _decide(rule, int((roster.status[rule.run_silent] == Status.SILENT).sum()))
    if speed < 1.0 and verdict.call < Call.BRAKE:
        verdict = replace(verdict, call=Call.BRAKE)
    bad = rule.weather.bad_until > moment.now
    updating, untouched = _updating(rule, flight)
    return replace(
        verdict,
        is_weather_known=rule.weather.is_known,
        is_blind=everywhere,
        is_storm_ours=rule.weather.is_storm_ours(updating, untouched, moment.now),
        bad_weather=frozenset(population.regions[each] for each in np.flatnonzero(bad)),
        bad_since=rule.weather.since(moment.now),
        room_in_regions=in_regions,
        room_in_classes=in_classes,
        room=room,
        in_flight=int(flight.sum()),
        pace=speed,
        excess_silent=excess.sum(axis=1),
    )


def _updating(rule: "HaltRule", flight: Indices) -> tuple[Bools, Bools]:
    """Return which regions are being updated, and which have never been touched."""
    begun = rule.population.region[rule.roster.status != Status.NEVER]
    touched = np.bincount(begun, minlength=len(rule.population.regions)) > 0
    return flight.sum(axis=1) > 0, ~touched


def _decide(rule: "HaltRule", silent: int) -> Verdict:
    """Return the call with its reason and numbers; a halt is for ever."""
    if rule.halted is not None:
        return Verdict(**{**rule.halted, "call": Call.HALT})
    policy, wealth = rule.policy, rule.wealth
    total, (process, scope) = wealth.total(), wealth.largest()
    name = sentence.scope_name(scope, rule.population.classes, rule.population.regions)
    tally = [int(each) for each in wealth.tally[process, scope]]
    main = Verdict(
        wealth=total,
        channel=CHANNELS[process],
        scope=name,
        why=sentence.compare(process, name, tally, policy, devices=_size(rule, scope)) if tally[0] else "",
        judged=tally[0],
        silent=tally[1],
        controls=tally[2],
        control_silent=tally[3],
        evidence=_evidence(rule),
    )
    verdict = _call(rule, main, silent)
    if verdict.call == Call.HALT:
        rule.halted = {name: getattr(verdict, name) for name in HALT_FIELDS}
    return verdict


def _call(rule: "HaltRule", main: Verdict, silent: int) -> Verdict:
    policy, told = rule.policy, rule.explicit
    if main.wealth >= policy.halt_at:
        return replace(main, call=Call.HALT)
    other = replace(main, scope="fleet", controls=0, control_silent=0)
    said = replace(
        other,
        channel="explicit",
        why=sentence.explicit(told.failed, told.succeeded, policy),
        judged=told.failed + told.succeeded,
        silent=told.failed,
    )
    if told.wealth() >= policy.halt_at:
        return replace(said, call=Call.HALT)
    gone = {
        "excess": int((rule.roster.status[rule.late_silent] == Status.SILENT).sum()),
        "bare": int((rule.roster.status[rule.bare_silent] == Status.SILENT).sum()),
        "small": silent,
    }
    judged = {
        "excess": rule.rails.late_judged,
        "bare": rule.rails.bare_judged,
        "small": int(rule.judged.sum()),
    }
    call, which = rails.check(
        rule.rails,
        late_silent=gone["excess"],
        bare_silent=gone["bare"],
        silent=silent,
        fleet=len(rule.population),
        policy=policy,
    )
    if which:
        why = sentence.rail(
            which, silent=gone[which], judged=judged[which], expected=rule.rails.late_expected, policy=policy
        )
        return replace(other, call=call, channel="rail", why=why, judged=judged[which], silent=gone[which])
    if rule.late.wealth() >= policy.halt_at:
        why = sentence.late(rule.late.silent, rule.late.watched, rule.late.expected)
        return replace(
            other, call=Call.HOLD, channel="late", why=why, judged=rule.late.watched, silent=rule.late.silent
        )
    reason = said if told.wealth() > main.wealth else main
    if rule.brake.used_s >= policy.brake_budget_s and rule.brake.is_on:
        return replace(reason, call=Call.HOLD, why=sentence.budget(rule.brake.used_s, reason.why))
    return reason if reason.wealth >= policy.brake_at or reason is said else main


def _evidence(rule: "HaltRule") -> dict[str, Any]:
    """Return the numbers behind the verdict: the largest terms of M with their counts, and the other processes."""
    terms = rule.wealth.terms()
    rows = []
    for place_ in np.argsort(terms, axis=None)[::-1][:_TERMS_SHOWN]:
        process, scope = (int(each) for each in np.unravel_index(place_, terms.shape))
        updated, silent, controls, control_silent = (int(each) for each in rule.wealth.tally[process, scope])
        rows.append(
            {
                "process": Process(process).name.lower(),
                "scope": sentence.scope_name(scope, rule.population.classes, rule.population.regions),
                "wealth": float(terms[process, scope]),
                "updated": updated,
                "silent": silent,
                "controls": controls,
                "control_silent": control_silent,
            }
        )
    return {
        "wealth": float(terms.sum()),
        "terms": rows,
        "explicit": {
            "wealth": rule.explicit.wealth(),
            "failed": rule.explicit.failed,
            "succeeded": rule.explicit.succeeded,
        },
        "late": {"wealth": rule.late.wealth(), "silent": rule.late.silent, "expected": rule.late.expected},
        "judged": int(rule.judged.sum()),
        "expected_silent": float(rule.expected.sum()),
        "bare_judged": rule.rails.bare_judged,
        "braked_s": rule.brake.used_s,
        "started": rule.started,
    }


def _size(rule: "HaltRule", scope: int) -> int:
    """Return how many devices a scope has."""
    classes = len(rule.population.classes)
    if scope == 0:
        return len(rule.population)
    if scope <= classes:
        return int((rule.population.hardware == scope - 1).sum())
    return int((rule.population.region == scope - 1 - classes).sum())
