"""The server changes hands: its database is read, and its broker is run, by whoever has its data directory."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from firmware_store.root import RoleName
from server.cli.drill.scene import COHORT, Scene
from server.cli.drill.thief import Thief
from server.domain.identity import DeviceId, Region, cohort, device_id, region
from server.embedded import EmbeddedBroker, EmbeddedPostgres
from server.mqtt.session import BrokerAccess
from server.protocol.messages import Counter
from server.protocol.topics import Audience, CohortAudience, DeviceAudience

_COUNTERS: Final = "SELECT region, cohort, device_id, epoch, counter FROM directive"
_DEVICES: Final = "SELECT id, region FROM device WHERE hardware IS NOT NULL ORDER BY id"


@dataclass(frozen=True, slots=True)
class Loot:
    """What the thief has read in the database: the devices, and how far the directives have been counted."""

    devices: Mapping[DeviceId, Region]
    counters: Mapping[Audience, Counter]

    def thief(self, scene: Scene, broker: EmbeddedBroker) -> Thief:
        """Return a thief with the keys that lay on the server, and with the server's own way into the broker."""
        own = broker.server_credential
        return Thief(
            BrokerAccess(broker.mqtt_host, broker.mqtt_port, own.client_id, own.username, own.password),
            root=scene.root,
            directive=scene.server_key(RoleName.DIRECTIVE),
            session=scene.server_key(RoleName.SESSION),
            cohort=COHORT,
            devices=self.devices,
            counters=self.counters,
        )


@asynccontextmanager
async def taken_over(scene: Scene) -> AsyncIterator[tuple[EmbeddedBroker, Loot]]:
    """Run the stolen database and the stolen broker for the block; the server itself has ended."""
    async with EmbeddedPostgres(scene.server_folder) as database, EmbeddedBroker(scene.server_folder) as broker:
        yield broker, await _look_around(database.database_url)


async def _look_around(database_url: str) -> Loot:
    """Read what the thief needs: which devices there are, and how far the directives' counters are."""
    connection = await asyncpg.connect(database_url)
    try:
        devices = {device_id(row["id"]): region(row["region"]) for row in await connection.fetch(_DEVICES)}
        counters: dict[Audience, Counter] = {}
        for row in await connection.fetch(_COUNTERS):
            audience: Audience = (
                CohortAudience(region(row["region"]), cohort(row["cohort"]))
                if row["device_id"] is None
                else DeviceAudience(region(row["region"]), device_id(row["device_id"]))
            )
            counters[audience] = Counter(row["epoch"], row["counter"])
    finally:
        await connection.close()
    return Loot(devices, counters)
