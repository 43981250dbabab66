"""Why a campaign is where it is, followed from its draft to its end."""

from pathlib import Path

import pytest

from server.cli.explanation import explained
from server.db.database import Database
from server.domain.execution import State
from server.domain.plan import Gate, Plan, Wave
from server.services.drafts import Draft
from server.services.explain import Explain, Explanation
from server.services.halt_outlook import silent_until
from tests.integration.test_why import POLICY
from tests.records import EU, MAIN
from tests.service_world import World

CANARY = Wave(ratio=None, count=3, ramp_s=0, soak_s=300, gate=Gate(manual=True))
PLAN = Plan(waves=(CANARY, Wave(ratio=1.0, count=None, ramp_s=600, soak_s=60)))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(60, EU)
    return world


def explain_of(world: World) -> Explain:
    return Explain(
        campaigns=world.campaigns,
        surveyor=world.surveyor,
        evidence=world.evidence,
        room=world.room,
        wire=world.shelf,
        clock=lambda: world.now,
    )


async def test_a_campaign_says_at_each_step_what_it_waits_for_and_what_comes_next(world: World) -> None:
    draft = Draft("spring", MAIN, (EU,), (await world.add_release(7)).id, PLAN, POLICY, "a test")
    campaign = (await world.campaigns.draft(draft, caller="ann")).id
    explain = explain_of(world)
    said: dict[str, Explanation] = {"draft": await explain.ask(campaign)}
    await world.campaigns.start(campaign, caller="ann", reason="because")
    said["blobs"] = await explain.ask(campaign)
    await world.publish()
    await world.live()
    canaries = world.due(campaign, EU)
    await world.report(campaign, State.DOWNLOADING, *canaries)
    await world.live(10)
    said["soaks"] = await explain.ask(campaign)
    for state in (State.REBOOTING, State.TRIAL, State.CONFIRMED):
        await world.report(campaign, state, *canaries)
    await world.live(310)
    said["manual"] = await explain.ask(campaign)
    await world.campaigns.advance(campaign, wave=1, caller="bob", reason="fine")
    await world.live(60)
    said["rises"] = await explain.ask(campaign)
    await world.campaigns.pause(campaign, caller="bob", reason="lunch")
    said["paused"] = await explain.ask(campaign)
    await world.campaigns.halt(campaign, caller="bob", reason="smoke")
    said["halted"] = await explain.ask(campaign)

    assert said["draft"].waits_for == ("somebody submits or starts it",)
    assert said["blobs"].sentence == "spring runs, and its first wave has not opened."
    assert said["blobs"].waits_for[0].startswith("its blobs: ")
    assert said["soaks"].sentence.startswith("spring runs: wave 1 of 2 (3 devices) is open for ")
    assert said["soaks"].sentence.endswith("3 of 60 devices reached, 0 confirmed, 3 under way, 0 failed, 0 silent.")
    assert said["soaks"].waits_for[0].startswith("its soak, until 20")
    assert said["soaks"].next == "wave 2 opens, if its gate lets it through"
    assert said["manual"].waits_for[0].startswith("Wave 1 waits for a person")
    assert said["rises"].waits_for[0].startswith("the level of eu: ")
    assert said["rises"].next == "wave 2 is at its target"
    record = await world.campaign(campaign)
    assert said["rises"].next_at == record.regions[0].planned.t1
    assert (said["paused"].sentence, said["paused"].waits_for) == (
        "spring is paused (operator).",
        ("operator: a person resumes it",),
    )
    assert said["halted"].sentence == "spring is halted: Halted by bob: smoke."
    assert (said["halted"].halt, said["halted"].steps) == (None, ())


async def test_what_would_halt_it_is_what_does_halt_it(world: World) -> None:
    """The rule says how many more devices would have to go dark; so many do, one after the other, and it halts."""
    everybody = Plan(waves=(Wave(ratio=0.5, count=None, ramp_s=0, soak_s=6000, gate=Gate(failure_ratio=1)),))
    halt = POLICY.halt.model_copy(update={"bare_silent": 100, "brake_at": 90, "shadows_most": 10})
    campaign = await world.start(await world.add_release(7), everybody, POLICY.model_copy(update={"halt": halt}), EU)
    await world.live(20)
    doomed = world.due(campaign, EU)
    before = (await explain_of(world).ask(campaign)).halt
    assert before is not None
    assert before.until_halt is not None
    assert before.until_brake is not None

    dead = 0
    while (await world.campaign(campaign)).state.value != "halted":
        await world.die(campaign, doomed[dead])
        await world.live(halt.g1_s + 10)
        dead += 1
        assert dead <= before.until_halt + 2

    assert 1 < before.until_brake <= before.until_halt
    assert abs(dead - before.until_halt) <= 2


async def test_asking_changes_nothing_that_the_rule_knows(world: World) -> None:
    campaign = await world.start(await world.add_release(7), PLAN, POLICY, EU)
    await world.live(20)
    rule = world.evidence.rule(campaign)
    assert rule is not None
    before = rule.dump()

    needed = [silent_until(rule, odds) for odds in (1.0, 10.0, 100.0, 1e30)]

    assert needed[0] == 0
    assert needed[1] is not None
    assert needed[2] is not None
    assert 0 < needed[1] < needed[2]
    assert rule.dump() == before


def test_an_explanation_reads_as_text() -> None:
    halt = {
        "call": "brake", "odds": 12.5, "brake_at": 10, "halt_at": 100, "why": "2 of 9 went dark.", "in_flight": 9,
        "judged": 40, "expected": 0.4, "failed": 1, "succeeded": 30, "explicit_odds": 0.8, "until_brake": 0,
        "until_halt": 1, "braked_seconds": 600.0, "brake_budget_seconds": 7200.0, "weather_known": False,
        "bad_weather": [], "room": 3,
    }  # fmt: skip
    step = {"wave": 2, "target": "85.0%", "opens_at": "10:00", "risen_at": "11:00", "through_at": "12:00"}
    answer = {"sentence": "It runs.", "waits_for": ["its soak"], "next": "wave 2 opens", "next_at": "10:00"}

    text = "\n".join(explained({**answer, "halt": halt, "steps": [step]}))

    assert text.startswith("It runs.\n\nIt waits for\n  - its soak\nNext: wave 2 opens, at 10:00 at the earliest.\n")
    assert "the odds against bad luck are 12.5 to 1; it brakes at 10 and halts at 100." in text
    assert "the odds are high enough to brake it; one more updated device that goes dark" in text
    assert "31 devices have said how it went, 1 of them that it failed (odds 0.8 to 1)." in text
