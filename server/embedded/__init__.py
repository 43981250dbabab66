"""The services that a single machine needs, from wheels, in the data directory: a database and an MQTT broker.

They are for trying, testing and small fleets. Both can be replaced one by one by servers that somebody else runs.
"""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from server.embedded.broker import EmbeddedBroker
from server.embedded.credentials import MqttCredential
from server.embedded.postgres import EmbeddedPostgres

__all__ = ["Embedded", "EmbeddedBroker", "EmbeddedPostgres", "MqttCredential"]


class Embedded:
    """Both of them, started and stopped together."""

    def __init__(self, data_dir: Path, topic_root: str = "tg/1") -> None:
        self.postgres = EmbeddedPostgres(data_dir)
        self.broker = EmbeddedBroker(data_dir, topic_root)

    @property
    def database_url(self) -> str:
        return self.postgres.database_url

    @property
    def mqtt_host(self) -> str:
        return self.broker.mqtt_host

    @property
    def mqtt_port(self) -> int:
        return self.broker.mqtt_port

    @property
    def server_credential(self) -> MqttCredential:
        return self.broker.server_credential

    def issue_device_credential(self, device: str) -> MqttCredential:
        return self.broker.issue_device_credential(device)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start both; if one cannot, neither is left running.

        Raises:
            ConfigurationError: one of them cannot run like this.
            StoreUnavailableError, BrokerUnavailableError: one of them did not answer in time.
        """
        await self.postgres.start()
        try:
            await self.broker.start()
        except BaseException:
            await self.postgres.stop()
            raise

    async def stop(self) -> None:
        await self.broker.stop()
        await self.postgres.stop()

    async def watch(self) -> None:
        """Return when both have been stopped.

        Raises:
            StoreUnavailableError, BrokerUnavailableError: one of them has ended by itself.
        """
        await asyncio.gather(self.postgres.watch(), self.broker.watch())
