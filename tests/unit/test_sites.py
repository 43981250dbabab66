"""How many devices of a site reboot at once."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from server.domain.execution import State
from server.domain.identity import DeviceId, Region
from server.services.sites import AWAY, Rebooter, count_waiting, may_reboot

NORTH, SOUTH = (Region("eu"), "north"), (Region("eu"), "south")


def one(number: int, **members: object) -> Rebooter:
    given = {
        "told_at": 0.0,
        "height": number,
        "device": DeviceId(f"gw-{number}"),
        "site": NORTH,
        "state": State.INSTALLING,
        "is_told": False,
        "is_online": True,
    }
    return Rebooter(**(given | members))  # type: ignore[arg-type]


def test_a_site_has_so_many_places_and_others_are_not_its_business() -> None:
    waiting = [one(3), one(1), one(2), one(4, site=SOUTH), one(5, site=None), one(6, site=(Region("us"), "north"))]

    assert may_reboot(waiting, most=2) == ["gw-1", "gw-2", "gw-4", "gw-5", "gw-6"]


def test_whoever_is_away_or_was_told_or_is_silent_has_a_place() -> None:
    for state, told in ((State.TRIAL, False), (State.SILENT, False), (State.INSTALLING, True)):
        assert may_reboot([one(1), one(2, state=state, is_told=told)], most=1) == []


def test_whoever_has_written_and_was_not_told_waits() -> None:
    others = [one(2, is_told=True), *(one(3, state=state) for state in AWAY)]

    assert count_waiting([one(1), one(4, is_online=False), *others]) == 2


def test_a_device_that_has_said_that_it_reboots_is_told_again_while_it_is_there() -> None:
    assert may_reboot([one(1, state=State.REBOOTING)], most=1) == ["gw-1"]
    assert may_reboot([one(1, state=State.REBOOTING, is_online=False)], most=1) == []


def test_a_device_that_was_told_and_did_not_reboot_goes_to_the_end_of_the_line() -> None:
    assert may_reboot([one(1, told_at=50.0), one(2), one(3, told_at=40.0)], most=1) == ["gw-2"]
    assert may_reboot([one(1, told_at=50.0), one(3, told_at=40.0)], most=1) == ["gw-3"]


rebooters = st.builds(
    Rebooter,
    told_at=st.sampled_from([0.0, 40.0, 50.0]),
    height=st.integers(0, 1 << 32),
    device=st.integers(0, 1 << 32).map(lambda number: DeviceId(f"gw-{number}")),
    site=st.sampled_from([None, NORTH, SOUTH]),
    state=st.sampled_from(sorted(AWAY | {State.INSTALLING})),
    is_told=st.booleans(),
    is_online=st.booleans(),
)


@given(st.lists(rebooters, max_size=30, unique_by=lambda found: found.device), st.integers(1, 4))
def test_no_site_ever_gets_more_places_than_it_has_nor_stays_empty(waiting: list[Rebooter], most: int) -> None:
    chosen = set(may_reboot(waiting, most=most))

    before = Counter(found.site for found in waiting if found.state in AWAY or found.is_told)
    after = Counter(found.site for found in waiting if found.state in AWAY or found.is_told or found.device in chosen)
    for site in (NORTH, SOUTH):
        assert after[site] <= max(most, before[site])
        idle = [found for found in waiting if found.site == site and found.state is State.INSTALLING]
        assert after[site] >= most or all(
            found.is_told or not found.is_online or found.device in chosen for found in idle
        )
