"""Parts of the server that stand still are told of once, and once more when they are back."""

import json

from server.db.database import Database
from server.db.outbox import OutboxRepository
from server.domain.events import EventType
from server.services.watch import Watch, Watched


class Part:
    """Something that is well or not, and a clock."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.trouble: str | None = None

    async def ask(self) -> str | None:
        return self.trouble


async def test_trouble_that_lasts_is_told_once_and_its_end_too(store: Database) -> None:
    outbox, part = OutboxRepository(store), Part()
    watched = Watched("evaluator", EventType.EVALUATOR_DEAD, EventType.EVALUATOR_BACK, part.ask)
    watch = Watch(outbox, [watched], patience_s=30, clock=lambda: part.now)

    async def look(seconds: float, trouble: str | None) -> list[EventType]:
        part.now += seconds
        part.trouble = trouble
        await watch.look()
        return [event.type for event in await outbox.following(0, 10)]

    dead, back = EventType.EVALUATOR_DEAD, EventType.EVALUATOR_BACK
    assert await look(0, "12 s late") == []
    assert await look(20, None) == []
    assert await look(5, "12 s late") == []
    assert await look(30, "42 s late") == [dead]
    assert await look(60, "102 s late") == [dead]
    assert await look(5, None) == [dead, back]
    assert await look(5, None) == [dead, back]
    told = (await outbox.following(0, 1))[0]
    assert (told.subject, json.loads(told.data)) == ("evaluator", {"sentence": "42 s late"})
