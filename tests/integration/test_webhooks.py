"""Events reach webhooks: in order, signed, at least once, and not a thousand times to one that refuses them."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest
import standardwebhooks

from firmware_store.errors import ConflictError, InvalidInputError, NotFoundError
from server.db import webhooks as stored
from server.db.audit import AuditRepository, Wanted
from server.db.database import Database
from server.db.outbox import OutboxRepository
from server.db.webhooks import Result, WebhookRecord, WebhookRepository
from server.domain.events import Event, EventType
from server.domain.identity import CampaignId
from server.domain.webhook_formats import Format
from server.outgoing.delivery import HttpDelivery
from server.outgoing.guard import Guard, read_networks
from server.services.deliveries import PATIENCE, REFUSALS_MOST, Deliveries
from server.services.webhooks import NewWebhook, Webhooks
from tests.receiver import Receiver, Taken, receiving
from tests.records import START, after

FLEET = b"f" * 16
T = EventType


class Post:
    """The services with a clock that a test moves."""

    def __init__(self, store: Database, receiver: Receiver) -> None:
        self.now = START.timestamp()
        self.store, self.receiver = store, receiver
        self.outbox = OutboxRepository(store)
        self.repository = WebhookRepository(store)
        self.guard = Guard(read_networks("127.0.0.0/8"))
        self.webhooks = self.reopened()

    def reopened(self) -> Webhooks:
        """As after a restart."""
        self.deliveries = Deliveries(
            repository=self.repository,
            outbox=self.outbox,
            sending=HttpDelivery(self.guard, try_s=20),
            fleet=lambda: FLEET,
            clock=lambda: self.now,
        )
        return Webhooks(
            repository=self.repository, check=self.guard, deliveries=self.deliveries, clock=lambda: self.now
        )

    async def add(self, **members: Any) -> tuple[WebhookRecord, bytes]:
        given: dict[str, Any] = {"name": "hook", "url": self.receiver.url, "format": Format.STANDARD}
        given |= {"types": frozenset(), "campaign": None, "routing_key": ""} | members
        record, secret = await self.webhooks.add(NewWebhook(**given), caller="ann")
        return record, base64.b64decode(secret.removeprefix("whsec_"))

    async def tell(self, kind: EventType, number: int = 1, *, campaign: CampaignId | None = None, **data: Any) -> None:
        named = f"thing-{number}" if campaign is None else f"cmp_{campaign.hex}"
        await self.outbox.put(Event(kind, named, after(number), {"sentence": "because", **data}, campaign))

    async def pass_on(self, seconds: float = 0) -> None:
        """Let time pass, and deliver what can be delivered."""
        self.now += seconds
        await self.deliveries.tick()

    async def hook(self, record: WebhookRecord) -> WebhookRecord:
        return await self.repository.get(record.id)

    async def tries(self, record: WebhookRecord) -> list[tuple[Result, int | None]]:
        """The oldest first."""
        found = await self.repository.deliveries(record.id, before=1 << 62, limit=1000)
        return [(one.outcome, one.status) for one in reversed(found)]

    def bodies(self) -> list[Any]:
        return [json.loads(one.body) for one in self.receiver.taken]


@pytest.fixture
async def post(store: Database) -> AsyncIterator[Post]:
    async with receiving() as receiver:
        yield Post(store, receiver)


def is_signed(taken: Taken, secret: bytes) -> bool:
    """As a receiver checks it (Standard Webhooks, "Verifying signatures")."""
    headers = {name.lower(): value for name, value in taken.headers.items()}
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + taken.body
    wanted = "v1," + base64.b64encode(hmac.new(secret, content, sha256).digest()).decode()
    return wanted in headers["webhook-signature"].split(" ")


async def test_what_happens_from_now_on_is_delivered_in_order_and_signed(post: Post) -> None:
    await post.tell(T.BUNDLE_ADDED, 1)
    record, secret = await post.add()
    for number in (2, 3, 4):
        await post.tell(T.BUNDLE_ADDED, number)
    await post.pass_on()

    assert [body["subject"] for body in post.bodies()] == ["thing-2", "thing-3", "thing-4"]
    taken = post.receiver.taken[0]
    assert is_signed(taken, secret)
    assert taken.headers["Content-Type"] == "application/cloudevents+json"
    assert taken.headers["webhook-id"] == post.bodies()[0]["id"]
    assert taken.headers["webhook-timestamp"] == str(int(START.timestamp()))
    assert post.bodies()[0] | {"id": ""} == {
        "specversion": "1.0",
        "id": "",
        "source": f"/tidegate/{FLEET.hex()}",
        "type": "dev.tidegate.bundle.added",
        "subject": "thing-2",
        "time": "2026-03-01T12:00:02Z",
        "datacontenttype": "application/json",
        "sequence": "2",
        "data": {"sentence": "because"},
    }
    assert await post.tries(record) == [(Result.DELIVERED, 204)] * 3


async def test_a_receivers_own_library_takes_the_signature(post: Post) -> None:
    post.now = time.time()
    _, secret = await post.add()
    await post.tell(T.BUNDLE_ADDED)
    await post.pass_on()
    taken = post.receiver.taken[0]
    receiver = standardwebhooks.Webhook(base64.b64encode(secret).decode())

    assert receiver.verify(taken.body, dict(taken.headers)) == post.bodies()[0]
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        receiver.verify(taken.body + b" ", dict(taken.headers))


async def test_only_what_was_chosen_is_delivered(post: Post) -> None:
    mine, other = CampaignId(uuid4()), CampaignId(uuid4())
    record, _ = await post.add(types=frozenset({T.CAMPAIGN_STARTED}), campaign=mine)
    await post.tell(T.CAMPAIGN_STARTED, campaign=other)
    await post.tell(T.CAMPAIGN_STARTED, campaign=mine)
    await post.tell(T.CAMPAIGN_CANCELLED, campaign=mine)
    await post.pass_on()

    assert [body["sequence"] for body in post.bodies()] == ["2"]
    assert (await post.hook(record)).cursor == 3


async def test_what_is_not_taken_is_tried_again_later_under_the_same_id(post: Post) -> None:
    record, _ = await post.add()
    post.receiver.answers = [503, 500]
    await post.tell(T.BUNDLE_ADDED, 1)
    await post.tell(T.BUNDLE_ADDED, 2)
    await post.pass_on()
    await post.pass_on(1)
    assert len(post.receiver.taken) == 1

    await post.pass_on(5)
    waiting = await post.hook(record)
    await post.pass_on(30)

    assert (waiting.attempts, waiting.cursor) == (2, 0)
    assert [body["subject"] for body in post.bodies()] == ["thing-1"] * 3 + ["thing-2"]
    assert len({one.headers["webhook-id"] for one in post.receiver.taken}) == 2
    assert await post.tries(record) == [
        (Result.FAILED, 503),
        (Result.FAILED, 500),
        (Result.DELIVERED, 204),
        (Result.DELIVERED, 204),
    ]


async def test_whoever_says_how_long_to_wait_is_heeded(post: Post) -> None:
    await post.add()
    post.receiver.answers, post.receiver.answer_headers = [429], {"Retry-After": "600"}
    await post.tell(T.BUNDLE_ADDED)
    await post.pass_on()
    await post.pass_on(599)
    assert len(post.receiver.taken) == 1

    await post.pass_on(2)

    assert len(post.receiver.taken) == 2


async def test_what_is_refused_again_and_again_is_passed_over(post: Post) -> None:
    record, _ = await post.add()
    post.receiver.answers = [400] * REFUSALS_MOST
    await post.tell(T.BUNDLE_ADDED, 1)
    await post.tell(T.BUNDLE_ADDED, 2)
    for _ in range(REFUSALS_MOST):
        await post.pass_on(3600)

    assert [outcome for outcome, _ in await post.tries(record)] == [
        *[Result.FAILED] * (REFUSALS_MOST - 1),
        Result.GIVEN_UP,
        Result.DELIVERED,
    ]
    assert post.bodies()[-1]["subject"] == "thing-2"


async def test_one_that_takes_nothing_for_days_is_disabled_and_told_of(post: Post) -> None:
    record, _ = await post.add(types=frozenset({T.BUNDLE_ADDED}))
    post.receiver.answers = [500] * 1000
    await post.tell(T.BUNDLE_ADDED)
    await post.pass_on()
    await post.pass_on(PATIENCE.total_seconds())

    hook = await post.hook(record)
    told = (await post.outbox.following(0, 10))[-1]
    written = (await AuditRepository(post.store).page(Wanted(what="webhook.disable"), before=1 << 62, limit=9))[0]
    assert (hook.is_enabled, hook.why_not) == (False, "It has taken nothing since 2026-03-01 12:00 UTC.")
    assert (told.type, told.subject) == (T.WEBHOOK_DISABLED, f"whk_{record.id.hex}")
    assert written.who == "server"

    post.receiver.answers = []
    change: dict[str, Any] = {"name": None, "url": None, "types": None}
    await post.webhooks.change(record.id, is_enabled=True, caller="ann", **change)
    await post.pass_on()
    assert [outcome for outcome, _ in await post.tries(record)][-1] is Result.DELIVERED


async def test_one_that_says_it_is_gone_is_disabled_at_once(post: Post) -> None:
    record, _ = await post.add()
    post.receiver.answers = [410]
    await post.tell(T.BUNDLE_ADDED)
    await post.pass_on()

    assert not (await post.hook(record)).is_enabled


async def test_a_restart_goes_on_where_it_was(post: Post) -> None:
    await post.add()
    await post.tell(T.BUNDLE_ADDED, 1)
    await post.pass_on()
    await post.tell(T.BUNDLE_ADDED, 2)
    post.reopened()
    await post.pass_on()

    assert [body["subject"] for body in post.bodies()] == ["thing-1", "thing-2"]


async def test_one_that_is_slow_keeps_nobody_else_waiting(post: Post) -> None:
    async with receiving() as other:
        post.receiver.may_answer = asyncio.Event()
        await post.add()
        await post.add(url=other.url)
        running = asyncio.create_task(post.webhooks.run())
        await post.tell(T.BUNDLE_ADDED, 1)
        await post.receiver.until(1)
        await post.tell(T.BUNDLE_ADDED, 2)
        await other.until(2)
        post.receiver.may_answer.set()
        await post.receiver.until(2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

        assert [json.loads(one.body)["subject"] for one in other.taken] == ["thing-1", "thing-2"]


async def test_while_a_secret_is_replaced_both_sign(post: Post) -> None:
    record, old = await post.add()
    _, text = await post.webhooks.rotate(record.id, grace=timedelta(hours=1), caller="ann")
    new = base64.b64decode(text.removeprefix("whsec_"))
    await post.tell(T.BUNDLE_ADDED, 1)
    await post.pass_on()
    await post.tell(T.BUNDLE_ADDED, 2)
    await post.pass_on(3601)

    first, second = post.receiver.taken
    assert (is_signed(first, old), is_signed(first, new)) == (True, True)
    assert (is_signed(second, old), is_signed(second, new)) == (False, True)


async def test_a_delivery_is_sent_once_more_when_somebody_asks(post: Post) -> None:
    record, _ = await post.add()
    await post.tell(T.BUNDLE_ADDED)
    await post.pass_on()
    number = (await post.webhooks.deliveries(record.id, before=100, limit=1))[0].id

    again = await post.webhooks.resend(record.id, number)

    assert (again.attempt, again.outcome) == (2, Result.DELIVERED)
    assert post.bodies()[0] == post.bodies()[1]
    await post.outbox.clear(before=after(100), most=0)
    with pytest.raises(NotFoundError):
        await post.webhooks.resend(record.id, number)


async def test_the_log_is_bounded(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "DELIVERIES_KEPT", 3)
    record, _ = await post.add()
    for number in range(5):
        await post.tell(T.BUNDLE_ADDED, number)
    await post.pass_on()

    assert len(await post.tries(record)) == 3


async def test_there_are_no_more_than_the_server_bears(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "WEBHOOKS_MOST", 1)
    await post.add()

    with pytest.raises(ConflictError):
        await post.add()


async def test_no_secret_is_written_down(post: Post) -> None:
    record, secret = await post.add(format=Format.PAGERDUTY, routing_key="the-routing-key")
    await post.webhooks.rotate(record.id, grace=timedelta(), caller="ann")
    rows = await AuditRepository(post.store).page(Wanted(), before=1 << 62, limit=10)

    written = "".join(f"{row.before}{row.after}" for row in rows) + repr(await post.hook(record))
    assert [row.what for row in rows] == ["webhook.rotate", "webhook.add"]
    assert "the-routing-key" not in written
    assert repr(secret) not in written


# --- formats ---


async def test_only_a_halt_and_a_dead_evaluator_page(post: Post) -> None:
    campaign = CampaignId(uuid4())
    await post.add(format=Format.PAGERDUTY, routing_key="key")
    told = {"name": "spring", "cohort": "main"}
    await post.tell(T.CAMPAIGN_PAUSED, campaign=campaign, causes=["gate"], **told)
    await post.tell(T.CAMPAIGN_HALTED, campaign=campaign, before="running", **told)
    await post.tell(T.CAMPAIGN_RESUMED, campaign=campaign, before="paused", **told)
    await post.tell(T.CAMPAIGN_CANCELLED, campaign=campaign, before="halted", **told)
    await post.tell(T.EVALUATOR_DEAD)
    await post.tell(T.EVALUATOR_BACK)
    await post.pass_on()

    key = f"cmp_{campaign.hex}"
    sent = [(body["event_action"], body["dedup_key"]) for body in post.bodies()]
    assert sent == [("trigger", key), ("resolve", key), ("trigger", "evaluator"), ("resolve", "evaluator")]
    page = post.bodies()[0]
    assert page["routing_key"] == "key"
    assert page["payload"]["summary"] == "spring: because"
    assert (page["payload"]["severity"], page["payload"]["component"]) == ("critical", "main")


async def test_a_ticket_is_written_once_for_each_campaign_and_topic(post: Post) -> None:
    first, second = CampaignId(uuid4()), CampaignId(uuid4())
    await post.add(format=Format.TICKET)
    done, behind = {"confirmed": 9}, {"confirmed": 7, "silent": 2}
    await post.tell(T.CAMPAIGN_PAUSED, campaign=first, name="spring", causes=["operator"])
    await post.tell(T.CAMPAIGN_PAUSED, campaign=first, name="spring", causes=["operator", "gate"])
    await post.tell(T.CAMPAIGN_PAUSED, campaign=first, name="spring", causes=["weather"])
    await post.tell(T.CAMPAIGN_HALTED, campaign=first, name="spring")
    await post.tell(T.CAMPAIGN_WATCHING, campaign=first, name="spring", devices=behind)
    await post.tell(T.CAMPAIGN_FINISHED, campaign=first, name="spring", devices=behind)
    await post.tell(T.CAMPAIGN_FINISHED, campaign=second, name="summer", devices=done)
    await post.pass_on()

    assert [(body["action"], body["topic"]) for body in post.bodies()] == [("open", "hold"), ("comment", "stragglers")]
    assert {body["key"] for body in post.bodies()} == {f"cmp_{first.hex}"}
    assert post.bodies()[1]["text"] == "2 devices have not confirmed the release. because"


@pytest.mark.parametrize(
    "members",
    [
        {"format": Format.PAGERDUTY},
        {"routing_key": "key"},
        {"format": Format.TICKET, "types": frozenset({T.CAMPAIGN_HALTED})},
        {"url": "ftp://example.com/"},
        {"url": "https://user@example.com/"},
        {"url": "https://:443/"},
        {"url": "http://192.0.2.1:99999/"},
    ],
    ids=str,
)
async def test_what_makes_no_sense_is_refused(post: Post, members: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        await post.add(**members)
