"""What must hold of the halt rule whatever happens: reloading changes nothing, and labels at random seldom halt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.halt import HaltPolicy, HaltRule, Verdict
from server.domain.halt.pace import level_within, rooms
from server.domain.halt.rates import Rates, Tables, place
from server.domain.halt.wealth import Process, Wealth
from tests.halt_fleet import FULL, Fleet, Release, population

RELEASES = st.sampled_from(
    [Release(), Release(bricks=0.1), Release(flaps=0.2), Release(dies_later=0.2), Release(fails=0.03)]
)


def same(a: Verdict, b: Verdict) -> bool:
    arrays = ("room_in_regions", "room_in_classes", "excess_silent")
    plain = [name for name in Verdict.__slots__ if name not in arrays]
    return all(getattr(a, name) == getattr(b, name) for name in plain) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays
    )


@settings(max_examples=12, deadline=None)
@given(release=RELEASES, seed=st.integers(0, 99), cut=st.integers(1, 160))
def test_a_reloaded_rule_goes_on_as_the_original(release, seed, cut) -> None:
    fleet = Fleet(population(600, seed=seed), release, seed=seed, outages=((0, 20, 50, 0.5),), rate=0.02)
    policy = HaltPolicy()
    rule, verdict = HaltRule(fleet.people, policy, seed), Verdict()
    for _ in range(cut):
        verdict = rule.step(fleet.next(verdict))
    again = HaltRule.load(rule.dump(), fleet.people, policy)

    for _ in range(25):
        moment = fleet.next(verdict)
        verdict = rule.step(moment)
        assert same(verdict, again.step(moment))
    assert rule.dump() == again.dump()


@pytest.mark.parametrize("data", [b"", b"nothing", b"x\x9c\x03\x00\x00\x00\x00\x01"])
def test_bytes_that_are_no_state_are_refused(data) -> None:
    with pytest.raises(ValueError, match="no state"):
        HaltRule.load(data, population(10), HaltPolicy())


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.15])
def test_labels_at_random_halt_at_most_as_often_as_the_odds_allow(share) -> None:
    """200 healthy campaigns of 60 blocks, devices of very different reliability, labels drawn after the outcomes."""
    rng, halts, most = np.random.default_rng(11), 0, 6
    for _ in range(200):
        wealth, rates, reached = Wealth(3, 2), Rates(), 1.0
        for _ in range(5):
            place(_blocks(rng, 12, share), wealth, rates, beta=1.25)
            reached = max(reached, wealth.total())
        halts += reached >= 100

    assert halts <= most  # 1 in 100 would be 2; more than 6 of 200 then have a chance of 0.5 %


def _blocks(rng: np.random.Generator, many: int, share: float) -> Tables:
    """Blocks of 20 updated and 400 other devices of 3 classes; who is which is drawn when all outcomes are known."""
    counts, silent = np.zeros((many, 3, 3), np.int32), np.zeros((many, 3, 3), np.int32)
    for block in range(many):
        hardware = rng.integers(0, 3, 520)
        chance = rng.beta(0.2, 0.2 / share - 0.2, 520) * rng.choice([0.5, 1.5])
        is_silent = rng.random(520) < chance
        arm = rng.permutation(np.repeat([0, 1, 2], [20, 400, 100]))
        np.add.at(counts[block], (arm, hardware), 1)
        np.add.at(silent[block], (arm[is_silent], hardware[is_silent]), 1)
    return Tables(
        process=np.full(many, int(Process.G1)),
        d0=np.full(many, 0.001),
        region=np.arange(many) % 2,
        unsteady=np.zeros(many, np.bool_),
        counts=counts,
        silent=silent,
    )


@given(
    heights=st.lists(st.integers(0, FULL - 1), min_size=1, max_size=60),
    classes=st.lists(st.integers(0, 2), min_size=60, max_size=60),
    room=st.integers(0, 40),
    of_class=st.lists(st.integers(0, 20), min_size=3, max_size=3),
    level=st.integers(0, FULL),
)
def test_the_level_within_the_rooms_is_the_highest_that_fits(heights, classes, room, of_class, level) -> None:
    ascending = np.sort(np.array(heights, np.int64))
    hardware = np.array(classes[: len(heights)], np.int64)
    limits = np.array(of_class, np.int64)

    found = level_within(ascending, hardware, room=room, room_in_classes=limits, level=level)

    def fits(at: int) -> bool:
        due = ascending < at
        by_class = np.bincount(hardware[due], minlength=3)
        return bool(due.sum() <= room) and bool((by_class <= limits).all())

    assert found <= level
    assert fits(found)
    assert found == level or not fits(found + 1)


@given(
    judged=st.lists(st.integers(0, 5000), min_size=6, max_size=6),
    bad=st.lists(st.floats(-50, 50), min_size=6, max_size=6),
    flying=st.lists(st.integers(0, 300), min_size=6, max_size=6),
    known=st.booleans(),
)
def test_rooms_are_never_negative_and_shrink_with_what_flies(judged, bad, flying, known) -> None:
    def at(extra: int) -> tuple[np.ndarray, np.ndarray, int]:
        return rooms(
            judged=np.array(judged, float).reshape(2, 3),
            excess=np.array(bad).reshape(2, 3),
            in_flight=np.array(flying).reshape(2, 3) + extra,
            moving=9,
            started=100,
            fleet=5000,
            is_known=known,
            policy=HaltPolicy(),
        )

    few, many = at(0), at(1)

    assert all((a >= 0).all() for a in few[:2])
    assert all((a <= b).all() for a, b in zip(many[:2], few[:2], strict=True))
    assert known or few[2] <= max(HaltPolicy().slow_room, sum(judged) / 1000)
