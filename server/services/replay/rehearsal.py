"""A campaign that has not run yet, on the real fleet in virtual time: how long it takes, and what bad releases cost.

``python -m server.services.replay.rehearsal`` reads a job as JSON on standard input and writes JSON lines: how far it
is, and at last what came of it. It is a process of its own, so that no server stands still while it computes.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from pydantic import TypeAdapter

from firmware_store.errors import TidegateError
from server.domain.decide import Decision, Kind
from server.domain.halt import HaltPolicy, HaltRule
from server.domain.plan import Plan, Policy
from server.services.replay.inventory import Clock, Picture, trace_of
from server.services.replay.run import Result, replay
from server.services.replay.world import Count, population_of

BRICKED: Final = (0.01, 0.05, 0.3)
"""Shares of the devices that bad releases never let return, where nobody asks for others."""

SEEDS: Final = 3
SEEDS_UP_TO: Final = 5000
"""Larger fleets are rehearsed once for each release."""

TICKS_MOST: Final = 20_000
DURATION_MOST_S: Final = 60 * 86_400.0
_LINE_EVERY: Final = 0.01
_NICENESS: Final = 10
_ORDINARY: Final = HaltPolicy()


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be rehearsed, from ``begins`` (Unix seconds) on: a good release, then one for each of ``bricked``."""

    picture: Picture
    plan: Plan
    policy: Policy
    heartbeat_s: float
    begins: float
    bricked: tuple[float, ...] = BRICKED


@dataclass(frozen=True, slots=True)
class Effect:
    """What came of a release that never lets a share ``bricked`` return, in so many ``runs``.

    ``stopped`` of these were halted, held or stood still; ``started`` and ``lost`` devices are the medians at that
    moment, or at the end, and ``seconds`` how long that took. ``opened``: when each wave opened in the first run, from
    its beginning; None: it did not. ``verdict`` and ``sentence`` are the first run's.
    """

    bricked: float
    runs: int
    stopped: int
    verdict: str
    sentence: str
    started: int
    lost: int
    seconds: float
    completed_seconds: float | None
    opened: tuple[float | None, ...]


def rehearse(job: Job, on_progress: Callable[[float, str], None], *, runs: int | None = None) -> list[Effect]:
    """Play each release, the good one first; ``on_progress`` hears the share that is done, and of what.

    ``runs`` of each; None: ``SEEDS``, or one where the fleet is large.

    Raises:
        InvalidInputError: the plan names devices.
    """
    seeds = range(1, 1 + (runs or (SEEDS if len(job.picture.ids) <= SEEDS_UP_TO else 1)))
    effects, releases = [], (0.0, *job.bricked)
    for number, bricked in enumerate(releases):
        results = []
        for turn, seed in enumerate(seeds):
            base, part = (number + turn / len(seeds)) / len(releases), 1 / len(seeds) / len(releases)
            results.append(_play(job, bricked, seed, _share(on_progress, base, part, bricked)))
        effects.append(_effect(bricked, results))
    return effects


def _share(
    on_progress: Callable[[float, str], None], base: float, part: float, bricked: float
) -> Callable[[float, Count], None]:
    what = f"a release that bricks {100 * bricked:.3g}%" if bricked else "a good release"
    said = -1.0

    def note(done: float, _count: Count) -> None:
        nonlocal said
        share = base + done * part
        if share - said >= _LINE_EVERY:
            said = share
            on_progress(share, what)

    return note


def _play(
    job: Job, bricked: float, seed: int, on_tick: Callable[[float, Count], None]
) -> tuple[Result, tuple[float | None, ...]]:
    clock = clock_of(job.plan, job.policy, job.heartbeat_s)
    trace = trace_of(job.picture, clock, name="rehearsal", bricked=bricked, seed=seed, begins=job.begins)
    population = population_of(trace)
    opened: list[float | None] = [None] * len(job.plan.waves)

    def note(now: float, decision: Decision) -> None:
        if decision.kind is Kind.OPEN_WAVE and decision.wave is not None and opened[decision.wave] is None:
            opened[decision.wave] = now - trace.epoch

    result = replay(
        trace,
        HaltRule(population, job.policy.halt, seed),
        population,
        plan=job.plan,
        policy=job.policy,
        watch=False,
        on_tick=on_tick,
        on_decision=note,
    )
    return result, tuple(opened)


def clock_of(plan: Plan, policy: Policy, heartbeat_s: float) -> Clock:
    """Return a clock that is long enough for twice the plan, and some slow verdicts."""
    planned = sum(wave.ramp_s + wave.soak_s for wave in plan.waves)
    halt = policy.halt
    duration = min(DURATION_MOST_S, 2 * planned + 6 * halt.g2_s)
    tick = max(1.0, halt.block_s, duration / TICKS_MOST)
    return Clock(duration, min(tick, 3600.0), halt.reboot_s / _ORDINARY.reboot_s, heartbeat_s)


def _effect(bricked: float, results: list[tuple[Result, tuple[float | None, ...]]]) -> Effect:
    first, opened = results[0]
    found = [result for result, _ in results]
    completed = [result.completed_s for result in found if result.completed_s is not None]
    return Effect(
        bricked=bricked,
        runs=len(found),
        stopped=sum(result.completed_s is None for result in found),
        verdict=first.verdict,
        sentence=first.sentence,
        started=round(median(result.started for result in found)),
        lost=round(median(result.bricked for result in found)),
        seconds=float(median(result.virtual_s for result in found)),
        completed_seconds=float(median(completed)) if completed else None,
        opened=opened,
    )


def dump_job(job: Job) -> bytes:
    plain = {**asdict(job), "plan": job.plan.model_dump(mode="json"), "policy": job.policy.model_dump(mode="json")}
    return json.dumps(plain).encode()


def load_job(data: bytes) -> Job:
    """Raises: ValueError."""
    return _JOB.validate_json(data)


_JOB: Final[TypeAdapter[Job]] = TypeAdapter(Job)


def lines(job: Job, write: Callable[[dict[str, Any]], None]) -> None:
    """Rehearse, and write how far it is and what came of it."""
    effects = rehearse(job, lambda done, what: write({"done": round(done, 3), "doing": what, "complete": False}))
    write({"done": 1.0, "complete": True, "effects": [asdict(effect) for effect in effects]})


def main() -> int:
    """Do it here; 1, and a sentence on standard error, where it cannot be done."""
    os.nice(_NICENESS)

    def write(line: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    try:
        lines(load_job(sys.stdin.buffer.read()), write)
    except (TidegateError, ValueError, MemoryError) as exc:
        sys.stderr.write(f"{str(exc) or 'not enough memory'}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
