"""Both embedded services together, for tests that kill whoever runs them; the server starts each on its own."""

from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from server.embedded import EmbeddedBroker, EmbeddedPostgres, MqttCredential


class Embedded:
    """Both of them, started and stopped together."""

    def __init__(self, data_dir: Path) -> None:
        self._postgres = EmbeddedPostgres(data_dir)
        self._broker = EmbeddedBroker(data_dir)
        self._stack = AsyncExitStack()

    @property
    def database_url(self) -> str:
        return self._postgres.database_url

    @property
    def mqtt_host(self) -> str:
        return self._broker.mqtt_host

    @property
    def mqtt_port(self) -> int:
        return self._broker.mqtt_port

    @property
    def server_credential(self) -> MqttCredential:
        return self._broker.server_credential

    def issue_device_credential(self, device: str) -> MqttCredential:
        return self._broker.issue_device_credential(device)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._postgres)
            await stack.enter_async_context(self._broker)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
