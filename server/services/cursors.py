"""Cursors of lists: where the next page begins, sealed, so that nobody reads a meaning into them or makes their own.

``<HMAC-SHA-256, 16 bytes><where>`` in URL-safe base64, by the fleet's secret: every server of it takes the others'.
"""

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, Self

from firmware_store.errors import InvalidInputError
from server.db.tickets import TicketRepository
from server.services.tickets import SECRET_BYTES

_SEAL_BYTES: Final = 16


class Cursors:
    """Seals and opens them; each is of one list."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    async def load(cls, repository: TicketRepository, fleet: bytes) -> Self:
        """Return those of a fleet. Raises: StoreUnavailableError."""
        return cls(await repository.secret(fleet, secrets.token_bytes(SECRET_BYTES)))

    def seal(self, of: str, after: str) -> str:
        """Return the cursor of the page of the list ``of`` that begins after this."""
        return urlsafe_b64encode(self._mac(of, after.encode()) + after.encode()).decode().rstrip("=")

    def open(self, of: str, text: str) -> str:
        """Return what the page begins after; of an empty text, an empty one: the first page.

        Raises:
            InvalidInputError: it is no cursor of ours, or that of another list.
        """
        if not text:
            return ""
        try:
            data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            mac, after = data[:_SEAL_BYTES], data[_SEAL_BYTES:]
            # Base64 has several texts for the same bytes: only the one that was given out is a cursor.
            if hmac.compare_digest(mac, self._mac(of, after)) and self.seal(of, after.decode()) == text:
                return after.decode()
        except ValueError:
            pass
        raise InvalidInputError("This is no cursor: take the `next` of the page before.", pointer="?cursor")

    def _mac(self, of: str, after: bytes) -> bytes:
        return hmac.digest(self._secret, f"tidegate cursor {of} ".encode() + after, "sha256")[:_SEAL_BYTES]
