"""What came of a campaign, by the server's decisions and the devices' own facts."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from device_sim.agent.events import Note
from device_sim.scenario.cast import draw_cast
from device_sim.scenario.facts import Facts
from device_sim.scenario.faster import faster_plan, faster_policy
from device_sim.scenario.load import load
from device_sim.scenario.model import standard_plan, standard_policy
from device_sim.wire.fleet_clock import FleetClock
from server.cli.lab.found import Seen, outcome_of
from server.domain.identity import CampaignId, DeviceId
from server.protocol.reasons import Reason

ID = UUID(int=5)
BEGAN = 1_000_000.0


def seen(state: str, *decisions: dict[str, Any], causes: tuple[str, ...] = ()) -> Seen:
    view = {"id": f"cmp_{ID.hex}", "state": state, "causes": causes, "sentence": "why", "states": {"silent": 2}}
    return Seen(view, decisions, began_at=BEGAN, speed=60)


def decision(kind: str, actor: str = "orchestrator", **evidence: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(BEGAN + 10, UTC).isoformat()
    return {"at": at, "kind": kind, "actor": actor, "evidence": evidence}


RULE = {"call": "halt", "channel": "g1", "scope": "hardware rev-c"}


@pytest.mark.parametrize(
    ("view", "stopped_by", "settled"),
    [
        (seen("running"), "", False),
        (seen("finished", decision("finish")), "", True),
        (seen("halted", decision("halt", rule=RULE)), "rule", True),
        (seen("halted", decision("halt", actor="ada")), "person", True),
        (seen("halted", decision("halt", actor="trust")), "trust", True),
        (seen("paused", decision("pause"), causes=("weather",)), "", False),
        (seen("paused", decision("pause"), causes=("weather", "gate")), "gate", True),
        (seen("paused", decision("pause"), causes=("evidence",)), "rule", True),
    ],
)
def test_who_has_stopped_a_campaign_follows_from_its_state(view: Seen, stopped_by: str, settled: bool) -> None:
    assert (view.stopped_by, view.is_settled) == (stopped_by, settled)
    assert view.stopped_at == (600.0 if stopped_by else None)


def test_the_rule_is_named_with_channel_and_scope() -> None:
    assert seen("halted", decision("halt", rule=RULE)).rule == "g1, hardware rev-c"


async def test_devices_are_counted_by_what_really_happened_on_them() -> None:
    cast = draw_cast(load("bad-release"), devices=5, seed=1)
    facts, campaign = Facts(FleetClock(60)), CampaignId(ID)

    def say(number: int, *events: str, reason: Reason = Reason.NONE) -> None:
        for event in events:
            facts.write(DeviceId(f"lab-{number:06}"), Note(event, campaign, "1.1.0", "b", reason))

    say(0, "rebooting", "booted", "trial", "confirmed")
    say(1, "rebooting", "bricked")
    say(2, "rebooting", "booted", "trial")
    say(2, "reverted", reason=Reason.HALTED)
    say(3, "refused", reason=Reason.LATE)
    outcome = outcome_of("1.1.0", seen("halted", decision("halt", rule=RULE)), facts, cast, at=7200)

    assert (outcome.updated, outcome.updated_at_stop) == (3, 3)
    assert (outcome.confirmed, outcome.bricked, outcome.reverted, outcome.silent) == (1, 1, 1, 2)
    assert (outcome.reachable, outcome.reachable_unconfirmed) == (4, 3)
    assert outcome.reasons == {"halted": 1}


def test_plan_and_policy_are_as_much_faster_and_still_valid() -> None:
    plan, policy = faster_plan(standard_plan(), 60), faster_policy(standard_policy(), 60)

    assert [wave.ramp_s for wave in plan.waves] == [10, 20, 20, 10, 10]
    assert (policy.halt.g1_s, policy.trial_s, policy.confirm_s, policy.offer_s) == (15.0, 5, 120, 86_400)
