"""Who is struck, and when: all chance of a scenario, from its seed and the names of what is drawn, and nothing else."""

import hashlib
from collections.abc import Iterable, Iterator
from random import Random
from typing import TypeVar

Name = TypeVar("Name", bound=str)


def rank(seed: int, name: str, what: str) -> bytes:
    """Return a place in a random order that is the same at every run."""
    return hashlib.sha256(f"{seed}|{name}|{what}".encode()).digest()


def chosen(names: Iterable[Name], share: float, *, seed: int, what: str) -> list[Name]:
    """Return a share (0..1) of the names as exactly as whole ones can. A higher share only ever adds names."""
    ordered = sorted(names, key=lambda name: rank(seed, name, what))
    return ordered[: round(share * len(ordered))]


def generator(seed: int, name: str, what: str) -> Random:
    """Return a generator of its own for one thing about one name."""
    return Random(f"{seed}|{name}|{what}")


def happenings(rng: Random, per_day: float, duration_s: float) -> Iterator[float]:
    """Yield the times (seconds, rising) at which something happens that happens so often on average."""
    if per_day <= 0:
        return
    at = 0.0
    while True:
        at += rng.expovariate(per_day / 86_400)
        if at >= duration_s:
            return
        yield at
