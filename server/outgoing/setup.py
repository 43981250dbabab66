"""Webhooks with all that they are made of."""

from collections.abc import Callable

from server.db.database import Database
from server.db.outbox import OutboxRepository
from server.db.webhooks import WebhookRepository
from server.outgoing.delivery import HttpDelivery
from server.outgoing.guard import Guard, read_networks
from server.services.deliveries import Deliveries
from server.services.webhooks import Webhooks


def make_webhooks(database: Database, *, networks: str, fleet: Callable[[], bytes]) -> Webhooks:
    """Return them; ``networks``: where they may be, beside the public Internet. Raises: ConfigurationError."""
    guard, repository = Guard(read_networks(networks)), WebhookRepository(database)
    deliveries = Deliveries(
        repository=repository, outbox=OutboxRepository(database), sending=HttpDelivery(guard), fleet=fleet
    )
    return Webhooks(repository=repository, check=guard, deliveries=deliveries)
