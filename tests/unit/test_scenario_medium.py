"""Faults of a device's storage and of its tongue, each on a whole update of the real core with real slots."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from pydantic import TypeAdapter

from device_sim.agent.durable_file import StorageError
from device_sim.scenario.behaviour import Tongue, claim_success
from device_sim.scenario.faults import TimedFault
from device_sim.scenario.faulty_slots import Medium
from firmware_store.errors import DigestError
from server.domain.execution import State
from server.domain.identity import CampaignId
from server.protocol.messages import Report, decode_report, encode_report
from server.protocol.reasons import Reason
from tests.agent_world import CAMPAIGN

FAULT: TypeAdapter[Any] = TypeAdapter(TimedFault)


def medium(fault: str, *, now: float = 0.0, on_step: Callable[[int], None] = lambda _number: None) -> Medium:
    return Medium(
        [FAULT.validate_python({"fault": fault, "at": 0, "for": "1h"})], now=lambda: now, rng=Random(1), on_step=on_step
    )


def report(state: State, reason: Reason = Reason.NONE) -> bytes:
    return encode_report(Report(7, CampaignId(CAMPAIGN), bytes(32), 1, state, reason, "why"))


def test_a_full_medium_opens_no_slot() -> None:
    with pytest.raises(StorageError) as refusal:
        medium("full").begin_update()

    assert refusal.value.reason is Reason.STORAGE_FULL


def test_a_worn_out_medium_takes_no_bytes() -> None:
    with pytest.raises(StorageError) as refusal:
        medium("write-error").write([(0, b"data")])

    assert refusal.value.reason is Reason.STORAGE_ERROR


def test_a_torn_write_says_that_all_is_well() -> None:
    assert medium("torn-write").write([(8, b"data")]) == [(8, b"da")]


def test_a_delta_to_something_else_makes_something_else() -> None:
    with pytest.raises(DigestError):
        medium("wrong-delta-base").apply_delta()


@pytest.mark.parametrize("fault", ["full", "write-error", "torn-write", "wrong-delta-base"])
def test_before_and_after_its_time_a_fault_does_nothing(fault: str) -> None:
    for now in (-1.0, 3600.0):
        healthy = medium(fault, now=now)
        healthy.begin_update()
        healthy.apply_delta()

        assert healthy.write([(0, b"data")]) == [(0, b"data")]


def test_steps_are_counted_anew_in_each_update() -> None:
    heard: list[int] = []
    counting = medium("full", now=-1, on_step=heard.append)
    for _ in range(2):
        counting.begin_update()
        counting.step()

    assert heard == [1, 2, 1, 2]


@pytest.mark.parametrize("state", [State.FAILED, State.ROLLED_BACK, State.CANCELLED, State.REJECTED])
def test_a_liar_claims_success_whatever_became_of_it(state: State) -> None:
    said = decode_report(claim_success(report(state, Reason.BOOT_FAILED)))

    assert (said.state, said.reason, said.detail) == (State.CONFIRMED, Reason.NONE, "")


def test_a_liar_says_nothing_else_than_others_while_an_update_goes_on() -> None:
    assert claim_success(report(State.TRIAL)) == report(State.TRIAL)
    assert claim_success(b"no report") == b"no report"


def test_a_tongue_remembers_what_it_said() -> None:
    tongue = Tongue()
    first = tongue.say("t", report(State.FAILED))
    tongue.lies = True
    second = tongue.say("t", report(State.FAILED))

    assert first == report(State.FAILED) != second
    assert [said.payload for said in tongue.again()] == [first, second]
