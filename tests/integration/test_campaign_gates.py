"""Gates that want more than numbers: whose word they wait for, and what becomes of the campaign meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from firmware_store.errors import ConflictError, IllegalTransitionError
from server.db.database import Database
from server.domain.campaign import Cause, Event, State
from server.domain.consent import Awaited
from server.domain.execution import State as Execution
from server.domain.identity import CampaignId
from server.domain.plan import Gate, Plan, Policy, Wave
from server.outgoing.gate import ANSWER_MOST_BYTES, TRIES, HttpAsking
from server.outgoing.guard import Guard, read_networks
from server.protocol.reasons import Reason
from server.services.gate_webhooks import GateWebhooks, UnreachableError
from tests.records import EU, LAB
from tests.service_world import World

HERE = Guard(read_networks("127.0.0.0/8"))
HALT = LAB.model_copy(update={"sleeper_s": 400})
POLICY = Policy(halt=HALT, trial_s=10, watch_s=500, offer_s=1000)
REST = Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60)


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(60, EU)
    return world


async def start(world: World, gate: Gate) -> CampaignId:
    """A canary of three devices behind this gate, then everybody."""
    canary = Wave(ratio=None, count=3, ramp_s=0, soak_s=60, gate=gate)
    return await world.start(await world.add_release(), Plan(waves=(canary, REST)), POLICY, EU)


async def update_canary(world: World, campaign: CampaignId) -> None:
    await world.live()
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign, state, *world.due(campaign, EU))


async def test_a_manual_gate_waits_for_a_person_and_keeps_what_was_said(world: World) -> None:
    campaign = await start(world, Gate(manual=True))
    await update_canary(world, campaign)
    with pytest.raises(IllegalTransitionError) as early:
        await world.campaigns.advance(campaign, wave=1, caller="bob", reason="too early")
    await world.live(90)

    waiting = await world.campaign(campaign)
    assert (waiting.state, waiting.wave, waiting.awaits) == (State.RUNNING, 0, Awaited.ADVANCE)
    assert waiting.sentence.startswith("Wave 1 waits for a person")
    assert early.value.allowed == (Event.PAUSE, Event.COMPLETE, Event.HALT, Event.CANCEL)
    with pytest.raises(ConflictError, match="Wave 1 is open, not 2"):
        await world.campaigns.advance(campaign, wave=2, caller="bob", reason="an old screen")

    advanced = await world.campaigns.advance(campaign, wave=1, caller="bob", reason="looks good")
    await world.live(10)

    assert (advanced.awaits, advanced.sentence) == (Awaited.NOBODY, "")
    assert (await world.campaign(campaign)).wave == 1
    said = [(one.kind, one.actor) for one in await world.campaigns.decisions(campaign, 3)]
    assert said == [("open_wave", "orchestrator"), ("advance", "bob"), ("wait", "orchestrator")]


async def test_a_word_given_before_a_halt_is_asked_for_again_in_the_next_run(world: World) -> None:
    campaign = await start(world, Gate(manual=True))
    await update_canary(world, campaign)
    await world.live(90)
    await world.campaigns.advance(campaign, wave=1, caller="bob", reason="looks good")
    await world.campaigns.halt(campaign, caller="bob", reason="no, it does not")

    await world.campaigns.resume(campaign, caller="bob", reason="it does")

    again = await world.campaign(campaign)
    assert (again.state, again.advanced, again.awaits) == (State.RUNNING, None, Awaited.NOBODY)


async def test_a_wave_that_too_few_confirm_says_so_then_holds_and_goes_on_without_the_devices_that_are_held(
    world: World,
) -> None:
    """One of three refuses for a reason of its own: nothing has failed, so nothing ever broke the gate."""
    campaign = await start(world, Gate())
    await world.live()
    refuses, *others = world.due(campaign, EU)
    await world.report(campaign, Execution.REJECTED, refuses, reason=Reason.UNKNOWN_COMPONENT)
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign, state, *others)
    await world.live(90)
    waiting = await world.campaign(campaign)
    assert (waiting.state, waiting.awaits) == (State.RUNNING, Awaited.DEVICES)
    assert waiting.sentence == (
        "Wave 1 waits: 2 of the 3 devices reached have confirmed, fewer than the 95.0% that it wants (1 not updated), "
        "and nobody is under way."
    )

    await world.live(HALT.sleeper_s)
    held = await world.campaign(campaign)
    assert (held.state, held.causes, held.awaits) == (State.PAUSED, {Cause.GATE}, Awaited.NOBODY)
    assert held.sentence.startswith("Paused by the gate of wave 1: 2 of the 3 devices reached")
    await world.quarantine.hold(refuses.id, for_s=None, caller="bob", reason="it is a prototype")
    await world.live(10)
    await update_canary(world, campaign)  # another has taken its place
    await world.live(90)

    assert (await world.campaign(campaign)).wave == 1
    kinds = [one.kind for one in await world.campaigns.decisions(campaign, 5)]
    assert kinds == ["open_wave", "open_wave", "unpause", "pause", "wait"]


# --- webhooks ---


class Hook:
    """An HTTP server of this machine that answers as a test says: a status and a body, or never."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.asked: list[Any] = []
        self.is_mute = False
        self.end = asyncio.Event()

    def say(self, verdict: str, reason: str = "") -> None:
        self.status, self.body = 200, json.dumps({"verdict": verdict, "reason": reason}).encode()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        if self.is_mute:
            await self.end.wait()
        return web.Response(status=self.status, body=self.body, headers={"Location": "/elsewhere"})


@pytest.fixture
async def hook() -> AsyncIterator[tuple[Hook, str]]:
    hook, application = Hook(), web.Application()
    application.router.add_route("*", "/gate", hook.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield hook, f"http://127.0.0.1:{runner.addresses[0][1]}/gate"
    hook.end.set()
    await runner.cleanup()


def webhooks(world: World) -> GateWebhooks:
    return GateWebhooks(repository=world.repository, asking=HttpAsking(HERE, try_s=0.2), clock=lambda: world.now)


async def ask(world: World, seconds: float = 0) -> None:
    """Let time pass, ask, and decide on the answer."""
    await world.live(seconds)
    await webhooks(world).tick()
    await world.live(1)


async def test_a_webhook_is_asked_until_it_says_go(world: World, hook: tuple[Hook, str]) -> None:
    server, url = hook
    campaign = await start(world, Gate(webhook=url))
    await update_canary(world, campaign)
    await ask(world)
    assert server.asked == []
    await world.live(90)
    assert (await world.campaign(campaign)).awaits is Awaited.WEBHOOK

    server.say("wait", "the\x1b[2J baker\n sleeps")
    await ask(world)
    await ask(world, 30)
    waiting = await world.campaign(campaign)
    assert (waiting.wave, waiting.sentence) == (0, "Wave 1 waits for its webhook: the [2J baker sleeps")
    assert len(server.asked) == 1
    kinds = [decision.kind for decision in await world.campaigns.decisions(campaign, 100)]
    assert kinds.count("wait") == 1  # what it says while it waits fills no table
    assert (server.asked[0]["wave"], server.asked[0]["waves"], server.asked[0]["cohort"]) == (1, 2, "main")
    server.say("go", "bread")
    await ask(world, 60)

    assert (await world.campaign(campaign)).wave == 1
    opened = (await world.campaigns.decisions(campaign, 1))[0]
    asked = opened.evidence["webhook"]
    assert isinstance(asked, dict)
    assert (opened.kind, asked["word"], asked["reason"]) == ("open_wave", "go", "bread")


async def test_a_webhook_that_says_stop_pauses_and_is_asked_again_when_a_person_resumes(
    world: World, hook: tuple[Hook, str]
) -> None:
    server, url = hook
    campaign = await start(world, Gate(webhook=url))
    await update_canary(world, campaign)
    await world.live(90)
    server.say("stop", "errors in the shop")
    await ask(world)
    stopped = await world.campaign(campaign)
    assert (stopped.state, stopped.causes) == (State.PAUSED, {Cause.GATE})
    assert stopped.sentence == "Paused by the webhook of wave 1: errors in the shop"

    await ask(world, 300)
    await world.campaigns.resume(campaign, caller="bob", reason="the shop is shut")
    server.say("go")
    await world.live(5)
    await ask(world)

    assert (await world.campaign(campaign)).wave == 1
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("status", "body", "tries", "why"),
    [
        (503, b"", TRIES, "it answers 503."),
        (403, b"", 1, "it answers 403."),
        (307, b"", 1, "it answers 307."),
        (200, b" " * (ANSWER_MOST_BYTES + 1), 1, f"its answer has more than {ANSWER_MOST_BYTES} bytes."),
        (None, b"", TRIES, "it does not answer within 0.2 s."),
    ],
    ids=["busy", "refuses", "leads elsewhere", "too long", "mute"],
)
async def test_what_may_pass_is_tried_again_and_nothing_else_is(
    hook: tuple[Hook, str], status: int | None, body: bytes, tries: int, why: str
) -> None:
    server, url = hook
    server.is_mute = status is None
    server.status, server.body = status or 200, body

    with pytest.raises(UnreachableError) as caught:
        await HttpAsking(HERE, try_s=0.2).ask(url, b"{}")

    assert (str(caught.value), len(server.asked)) == (why, tries)


async def test_a_webhook_that_is_not_there_keeps_its_wave_waiting_and_that_is_said(world: World) -> None:
    campaign = await start(world, Gate(webhook="http://127.0.0.1:1/gate"))
    await update_canary(world, campaign)
    await world.live(90)

    await ask(world)

    waiting = await world.campaign(campaign)
    assert waiting.wave == 0
    assert waiting.sentence == "Wave 1 waits for its webhook, which cannot be asked: there is no connection to it."


async def test_a_campaign_that_cannot_be_read_ends_nobodys_asking(world: World, store: Database) -> None:
    await start(world, Gate(webhook="http://127.0.0.1:1/gate"))
    async with store.transaction() as connection:
        await connection.execute("""UPDATE campaign SET plan = '{"waves": []}'""")

    with capture_logs() as logs:
        asking = asyncio.create_task(webhooks(world).run())
        while not logs and not asking.done():
            await asyncio.sleep(0.01)
        is_over = asking.done()
        asking.cancel()
        await asyncio.wait((asking,))

    assert not is_over
    assert [(entry["event"], entry["log_level"]) for entry in logs[:1]] == [("webhooks_not_asked", "error")]
