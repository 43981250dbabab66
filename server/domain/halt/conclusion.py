"""From the state of the rule to its verdict: the strongest call that anything asks for, and why."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from server.domain.halt import pace, rails, sentence
from server.domain.halt.roster import Status, by_region_and_class
from server.domain.halt.state import HALT_FIELDS
from server.domain.halt.view import Bools, Call, Floats, Indices, Moment, Verdict
from server.domain.halt.wealth import CHANNELS, Process, largest

if TYPE_CHECKING:
    from server.domain.halt.rule import HaltRule

RAIL: Final = "rail"
_TERMS_SHOWN: Final = 5
_PROCESSES: Final = tuple(process.name.lower() for process in Process)


@dataclass(frozen=True, slots=True)
class _Odds:
    """What the bets have come to: the parts of M (shape processes, scopes), M, and the two wealths beside it."""

    terms: Floats
    total: float
    explicit: float
    late: float


def conclude(rule: "HaltRule", moment: Moment, elapsed_s: float) -> Verdict:
    roster, policy, population = rule.roster, rule.policy, rule.population
    flying = roster.flight()
    flight = by_region_and_class(flying, population)
    sleeps = rule.world.sleeps
    is_small = len(population) < pace.SMALL_FLEET
    asleep = flying[sleeps[flying]]
    silent = by_region_and_class(np.flatnonzero(roster.status == Status.SILENT), population)
    excess = np.maximum(silent - rule.expected, 0)
    everywhere = rule.weather.is_everywhere(moment.now)
    in_regions, in_classes, room = pace.rooms(
        judged=rule.judged,
        excess=silent - rule.expected,
        in_flight=by_region_and_class(flying[~sleeps[flying]], population),
        moving=int(np.count_nonzero(roster.moving(moment) & (~sleeps | is_small))),
        started=rule.started,
        fleet=len(population),
        is_known=rule.weather.is_known,
        policy=policy,
    )
    terms = rule.wealth.terms()
    odds = _Odds(terms, float(terms.sum()), rule.explicit.wealth(), rule.late.wealth())
    speed = rule.brake.press(
        odds=max(odds.total, odds.explicit),
        elapsed_s=elapsed_s,
        moment=moment,
        roster=roster,
        sleeps=sleeps,
        policy=policy,
        counts=not everywhere,
    )
    verdict = _decide(rule, odds, _still_silent(rule, rule.run_silent))
    bad = rule.weather.bad_until > moment.now
    return replace(
        verdict,
        call=max(verdict.call, Call.BRAKE) if speed < 1.0 else verdict.call,
        is_weather_known=rule.weather.is_known,
        is_blind=everywhere,
        is_storm_ours=bool(bad.any()) and rule.weather.is_storm_ours(*_updating(rule, flight), moment.now),
        bad_weather=frozenset(population.regions[each] for each in np.flatnonzero(bad)),
        bad_since=rule.weather.since(moment.now),
        room_in_regions=in_regions,
        room_in_classes=in_classes,
        room=room,
        room_of_sleepers=pace.room_of_sleepers(
            judged=rule.sleepers_judged,
            excess=_still_silent(rule, asleep) - rule.sleepers_expected,
            in_flight=int(np.count_nonzero(roster.holds_slot(asleep, moment.now, policy.sleeper_s))),
            is_braked=speed < 1.0,
            policy=policy,
        ),
        in_flight=int(flight.sum()),
        pace=speed,
        excess_silent=excess.sum(axis=1),
    )


def _updating(rule: "HaltRule", flight: Indices) -> tuple[Bools, Bools]:
    """Return which regions are being updated, and which have never been touched."""
    begun = rule.population.region[rule.roster.status != Status.NEVER]
    touched = np.bincount(begun, minlength=len(rule.population.regions)) > 0
    return flight.sum(axis=1) > 0, ~touched


def _still_silent(rule: "HaltRule", devices: Indices) -> int:
    return int(np.count_nonzero(rule.roster.status[devices] == Status.SILENT))


def _decide(rule: "HaltRule", odds: _Odds, silent: int) -> Verdict:
    """Return the call with its reason and numbers; a halt is for ever."""
    if rule.halted is not None:
        return Verdict(**{**rule.halted, "call": Call.HALT})
    policy = rule.policy
    process, scope = largest(odds.terms)
    name = sentence.scope_name(scope, rule.population.classes, rule.population.regions)
    tally = rule.wealth.tally[process, scope].tolist()
    main = Verdict(
        wealth=odds.total,
        channel=CHANNELS[process],
        scope=name,
        why=sentence.compare(process, name, tally, policy, devices=_size(rule, scope)) if tally[0] else "",
        judged=tally[0],
        silent=tally[1],
        controls=tally[2],
        control_silent=tally[3],
        evidence=_evidence(rule, odds),
    )
    verdict = _call(rule, main, odds, silent)
    if verdict.call == Call.HALT:
        rule.halted = {name: getattr(verdict, name) for name in HALT_FIELDS}
    return verdict


def _call(rule: "HaltRule", main: Verdict, odds: _Odds, silent: int) -> Verdict:
    policy = rule.policy
    if main.wealth >= policy.halt_at:
        return replace(main, call=Call.HALT)
    if odds.explicit >= policy.halt_at:
        return replace(_said(rule, main), call=Call.HALT)
    gone = {
        "excess": _still_silent(rule, rule.late_silent),
        "bare": _still_silent(rule, rule.bare_silent),
        "small": silent,
        "flapping": rule.rails.flapping,
    }
    judged = {
        "excess": rule.rails.late_judged,
        "bare": rule.rails.bare_judged,
        "small": int(rule.judged.sum()),
        "flapping": rule.rails.flap_watched,
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
        return _alone(main, call=call, channel=RAIL, why=why, judged=judged[which], silent=gone[which])
    if odds.late >= policy.halt_at:
        why = sentence.late(rule.late.silent, rule.late.watched, rule.late.expected)
        return _alone(main, call=Call.HOLD, channel="late", why=why, judged=rule.late.watched, silent=rule.late.silent)
    reason = _said(rule, main) if odds.explicit > main.wealth else main
    if rule.brake.used_s >= policy.brake_budget_s and rule.brake.is_on:
        return replace(reason, call=Call.HOLD, why=sentence.budget(rule.brake.used_s, reason.why))
    return reason


def _said(rule: "HaltRule", main: Verdict) -> Verdict:
    """Return the verdict whose reason is what devices have said themselves."""
    told = rule.explicit
    why = sentence.explicit(told.failed, told.succeeded, rule.policy)
    return _alone(main, channel="explicit", why=why, judged=told.failed + told.succeeded, silent=told.failed)


def _alone(main: Verdict, **fields: Any) -> Verdict:
    """Return ``main`` with the reason of something that is not compared with anybody."""
    return replace(main, **{"scope": "fleet", "controls": 0, "control_silent": 0, **fields})


def _evidence(rule: "HaltRule", odds: _Odds) -> dict[str, Any]:
    """Return the numbers behind the verdict: the largest terms of M with their counts, and the other processes."""
    terms = odds.terms
    rows = []
    for place_ in np.argsort(terms, axis=None)[::-1][:_TERMS_SHOWN]:
        process, scope = divmod(int(place_), terms.shape[1])
        updated, silent, controls, control_silent = rule.wealth.tally[process, scope].tolist()
        rows.append(
            {
                "process": _PROCESSES[process],
                "scope": sentence.scope_name(scope, rule.population.classes, rule.population.regions),
                "wealth": float(terms[process, scope]),
                "updated": updated,
                "silent": silent,
                "controls": controls,
                "control_silent": control_silent,
            }
        )
    return {
        "wealth": odds.total,
        "terms": rows,
        "explicit": {
            "wealth": odds.explicit,
            "failed": rule.explicit.failed,
            "succeeded": rule.explicit.succeeded,
        },
        "late": {"wealth": odds.late, "silent": rule.late.silent, "expected": rule.late.expected},
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
