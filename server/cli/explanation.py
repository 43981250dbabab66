"""An explanation of a campaign as lines of text."""

from collections.abc import Iterator
from typing import Any

from server.cli.words import printable


def explained(answer: dict[str, Any]) -> Iterator[str]:
    """Yield the sentence, then what it waits for, what the halt rule knows, and the waves to come."""
    yield printable(answer["sentence"])
    if answer["waits_for"]:
        yield ""
        yield "It waits for"
        yield from (f"  - {printable(line)}" for line in answer["waits_for"])
    if answer["next"]:
        at = f", at {answer['next_at']} at the earliest" if answer["next_at"] else ""
        yield f"Next: {answer['next']}{at}."
    if answer["halt"] is not None:
        yield ""
        yield from _halt(answer["halt"])
    if answer["steps"]:
        yield ""
        yield "Waves to come, by the plan alone (gates, evidence and weather may take longer)"
        for step in answer["steps"]:
            times = f"opens {step['opens_at']}, is up {step['risen_at']}, has soaked {step['through_at']}"
            yield f"  {step['wave']:>2}  {step['target']:<16} {times}"


def _halt(halt: dict[str, Any]) -> Iterator[str]:
    yield (
        f"The halt rule: the odds against bad luck are {halt['odds']:.3g} to 1; it brakes at {halt['brake_at']:g} and "
        f"halts at {halt['halt_at']:g}."
    )
    yield (
        f"  {halt['judged']:,} devices are judged, {halt['in_flight']:,} are in flight; comparable devices explain "
        f"{halt['expected']:.1f} silent ones."
    )
    if halt["why"]:
        yield f"  Most of it: {printable(halt['why'])}"
    said = halt["failed"] + halt["succeeded"]
    if said:
        odds = f"odds {halt['explicit_odds']:.3g} to 1"
        yield f"  {said:,} devices have said how it went, {halt['failed']:,} of them that it failed ({odds})."
    yield f"  {_until('brake', halt['until_brake'])}; {_until('halt', halt['until_halt'])}."
    if halt["braked_seconds"]:
        used, budget = halt["braked_seconds"] / 60, halt["brake_budget_seconds"] / 60
        yield f"  It has braked for {used:.0f} min; after {budget:.0f} min a person is asked."
    if halt["bad_weather"]:
        yield f"  Devices that only watch are dark in {', '.join(halt['bad_weather'])}: nothing is judged there."
    elif not halt["weather_known"]:
        yield "  Too few devices are left to watch the weather: few may be in flight at once."


def _until(what: str, devices: int | None) -> str:
    if devices is None:
        return f"more than 30 further silent devices would {what} it"
    if devices == 0:
        return f"the odds are high enough to {what} it"
    those = "one more updated device that goes" if devices == 1 else f"{devices} more updated devices that go"
    return f"{those} dark, and none of their comparable ones, would {what} it"
