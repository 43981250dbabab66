"""Campaigns of the halt-quality bench, counted: shares with Clopper-Pearson intervals, medians, and what is too bad."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

RULES: Final = ("tidegate", "fixed-2", "fixed-5", "aws-20", "hawkbit-5", "z-test")
STOPPED: Final = ("halt", "hold")
MOST_FALSE: Final = 0.01
LEAST_STOPPED: Final = 0.99
MOST_LONGER: Final = 1.15
MOST_BRICKED: Final = {
    "brick-0.5": 14.3,
    "brick-2": 10,
    "brick-5": 7,
    "brick-30": 7,
    "hardware": 7,
    "region": 45.5,
    "flapping": 19.5,
    "late": 508.3,
}
"""Devices lost at the decision, median: 1.3 times the figure of the rule's own simulation, or 3 more."""

LEAST_SAME: Final = 0.9
"""Of campaigns that are played again: another processor's rounding may turn single ones, another rule turns many."""

Line = dict[str, Any]


class Comparison(NamedTuple):
    is_same: bool
    says: str


def compare(lines: Sequence[Line], earlier: Sequence[Line]) -> Comparison:
    """Compare how campaigns ended with how the same ones (by scenario and seed) ended earlier."""
    before = {(line["scenario"], line["seed"]): line["tidegate"] for line in earlier}
    both = [line for line in lines if (line["scenario"], line["seed"]) in before]
    other = [line for line in both if line["tidegate"] != before[line["scenario"], line["seed"]]]
    names = ", ".join(f"{line['scenario']} {line['seed']}" for line in other)
    says = f"{len(both) - len(other)} of {len(both)} campaigns end as they did{f'; not so {names}' if other else ''}."
    return Comparison(len(other) <= (1 - LEAST_SAME) * len(both), says)


def clopper_pearson(hits: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share, ``hits`` of ``of`` > 0 (Clopper and Pearson 1934), by bisection."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _root(lambda p: 1 - _below(hits - 1, of, p) - tail)
    high = 1.0 if hits == of else _root(lambda p: tail - _below(hits, of, p))
    return low, high


def _root(rises: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < 0 else (low, middle)
    return (low + high) / 2


def _below(most: int, of: int, p: float) -> float:
    """P(X <= most) for X binomial(of, p)."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 or most >= of else 0.0
    logs = (
        math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * math.log(p) + (of - k) * math.log1p(-p)
        for k in range(most + 1)
    )
    return min(1.0, math.fsum(math.exp(each) for each in logs))


def summarise(lines: Sequence[Line], code: str, order: Sequence[str]) -> dict[str, Any]:
    """Return the summary of all scenarios in ``order``, and complaints where the rule is not as good as it must be."""
    by_scenario: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_scenario[line["scenario"]].append(line)
    scenarios = {name: _scenario(by_scenario[name]) for name in order if name in by_scenario}
    return {"code": code, "scenarios": scenarios, "complaints": [*_complaints(scenarios)]}


def _scenario(campaigns: list[Line]) -> dict[str, Any]:
    seeds = [line["seed"] for line in campaigns]
    ratios = [
        line["tidegate"]["completed_s"] / line["without"]["completed_s"]
        for line in campaigns
        if line["tidegate"]["completed_s"] and line.get("without", {}).get("completed_s")
    ]
    return {
        "campaigns": len(campaigns),
        "seeds": [min(seeds), max(seeds)],
        "devices": max(line["devices"] for line in campaigns),
        "cpu_s": round(median(line["cpu_s"] for line in campaigns), 2),
        "longer": round(median(ratios), 3) if ratios else None,
        "unfinished": sum(line["tidegate"]["verdict"] == "unfinished" for line in campaigns),
        "channels": _counts(line["tidegate"]["channel"] for line in campaigns),
        "rules": {rule: _rule([line[rule] for line in campaigns if rule in line]) for rule in RULES},
    }


def _rule(outcomes: list[Line]) -> dict[str, Any]:
    stopped = [one for one in outcomes if one["verdict"] in STOPPED]
    bricked = sorted(one["bricked"] for one in outcomes)
    return {
        "campaigns": len(outcomes),
        "stopped": len(stopped),
        "halted": sum(one["verdict"] == "halt" for one in outcomes),
        "share": round(len(stopped) / len(outcomes), 4),
        "interval": [round(bound, 4) for bound in clopper_pearson(len(stopped), len(outcomes))],
        "bricked_median": median(bricked),
        "bricked_p90": bricked[min(len(bricked) - 1, math.ceil(0.9 * len(bricked)) - 1)],
        "hours_median": round(median(one["at_s"] for one in stopped) / 3600, 2) if stopped else None,
    }


def _counts(names: Any) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        if name:
            counts[name] += 1
    return dict(sorted(counts.items()))


def is_good(scenario: str) -> bool:
    return scenario in {"healthy", "storms", "asleep", "small-30", "small-100", "small-500"}


def _complaints(scenarios: dict[str, Any]) -> list[str]:
    said = []
    for name, one in scenarios.items():
        ours = one["rules"]["tidegate"]
        low, high = ours["interval"]
        if is_good(name) and low > MOST_FALSE:
            said.append(f"{name}: {ours['stopped']} of {one['campaigns']} good releases were stopped.")
        if name == "healthy" and one["longer"] is not None and one["longer"] > MOST_LONGER:
            said.append(f"{name}: the rule makes a campaign {one['longer']} times as long.")
        if name in MOST_BRICKED and high < LEAST_STOPPED:
            said.append(f"{name}: only {ours['stopped']} of {one['campaigns']} bad releases were stopped.")
        if name in MOST_BRICKED and one["campaigns"] >= 30 and ours["bricked_median"] > MOST_BRICKED[name]:
            said.append(f"{name}: {ours['bricked_median']} devices lost (median), more than {MOST_BRICKED[name]}.")
    return said


def table(summary: dict[str, Any]) -> str:
    """Return the summary as Markdown: share stopped with its interval; devices lost at the decision, median (p90)."""
    rows = [
        "| release | campaigns (under the other rules) | " + " | ".join(RULES) + " |",
        "|---|---|" + "---|" * len(RULES),
    ]
    for name, one in summary["scenarios"].items():
        cells = [_cell(one["rules"][rule], good=is_good(name)) for rule in RULES]
        count = f"{one['campaigns']} ({one['rules'][RULES[-1]]['campaigns']})"
        rows.append(f"| {name} | {count} of {one['devices']:,} devices | " + " | ".join(cells) + " |")
    healthy = summary["scenarios"].get("healthy")
    if healthy is not None and healthy["longer"] is not None:
        rows += ["", f"A good release takes {healthy['longer']:.2f} times as long as the same plan without the rule."]
    return "\n".join(rows) + "\n"


def _cell(rule: dict[str, Any], *, good: bool) -> str:
    low, high = rule["interval"]
    share = f"{rule['share']:.1%} [{low:.1%}, {high:.1%}]"
    return share if good else f"{share}; {rule['bricked_median']:g} ({rule['bricked_p90']})"
