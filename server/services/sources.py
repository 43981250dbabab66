"""Where offers send devices for blobs by HTTP: to this server's own door, with a ticket."""

from typing import Self

from firmware_store.errors import ConfigurationError, InvalidInputError
from server.protocol.sources import HttpSource, Transport, check_http
from server.services.tickets import Tickets


class Sources:
    """``base_url``: where devices reach ``/v1/blobs/`` and ``/v1/images/``."""

    def __init__(self, base_url: str, tickets: Tickets) -> None:
        self._base_url = base_url
        self._tickets = tickets

    @classmethod
    def of(cls, public_url: str | None, tickets: Tickets) -> Self | None:
        """Return them for this setting, where it is set. Raises: ConfigurationError: it is no base URL."""
        if public_url is None:
            return None
        try:
            check_http(HttpSource(Transport.MQTT, public_url, "ticket"))
        except InvalidInputError as exc:
            raise ConfigurationError(f"TIDEGATE_PUBLIC_URL: {exc}") from exc
        return cls(public_url, tickets)

    def http(self, prefer: Transport, now: float) -> HttpSource:
        return HttpSource(prefer, self._base_url, self._tickets.issue(now))
