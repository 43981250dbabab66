"""Tickets: the same for an hour, good for a day, and nobody else can make one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.services.tickets import LEAST_VALID_S, SAME_FOR_S, Tickets

FLEET, SECRET = b"f" * 16, b"s" * 32
NOW = 1_800_000_000.0
TICKETS = Tickets(FLEET, SECRET)

TIMES = st.floats(0, 1e11)


@given(TIMES, st.floats(0, LEAST_VALID_S))
def test_a_ticket_is_good_for_a_day_at_least(issued: float, later: float) -> None:
    assert TICKETS.is_valid(TICKETS.issue(issued), issued + later - 1)


@given(TIMES)
def test_a_ticket_ends_after_a_day_and_an_hour_at_most(issued: float) -> None:
    ticket = TICKETS.current(issued)

    assert issued + LEAST_VALID_S < ticket.expires_at <= issued + LEAST_VALID_S + SAME_FOR_S
    assert not TICKETS.is_valid(ticket.text, ticket.expires_at)
    assert len(ticket.text) <= 128


def test_it_changes_once_an_hour() -> None:
    hour = NOW - NOW % SAME_FOR_S

    assert len({TICKETS.issue(hour + second) for second in range(0, SAME_FOR_S, 60)}) == 1
    assert TICKETS.issue(hour) != TICKETS.issue(hour + SAME_FOR_S)


@given(st.text())
def test_what_was_not_issued_is_not_valid(text: str) -> None:
    assert not TICKETS.is_valid(text, NOW)


@pytest.mark.parametrize("other", [Tickets(b"g" * 16, SECRET), Tickets(FLEET, b"t" * 32)], ids=["fleet", "secret"])
def test_a_ticket_of_another_fleet_or_secret_is_not_valid(other: Tickets) -> None:
    assert not TICKETS.is_valid(other.issue(NOW), NOW)


@given(st.integers(1, 10**9))
def test_nobody_gives_a_ticket_more_time(more: int) -> None:
    _, expiry, seal = TICKETS.issue(NOW).split("_")

    assert not TICKETS.is_valid(f"tk_{int(expiry) + more}_{seal}", NOW)


@pytest.mark.parametrize("form", ["tk_0{}_{}", "tk_{}_{}\n", " tk_{}_{}", "tk_{}_{}0", "TK_{}_{}"])
def test_a_ticket_has_one_form(form: str) -> None:
    _, expiry, seal = TICKETS.issue(NOW).split("_")

    assert not TICKETS.is_valid(form.format(expiry, seal), NOW)
