"""Tickets: what lets a device fetch blobs over HTTP. ``tk_<expiry, Unix seconds>_<HMAC-SHA-256 in hexadecimal>``.

One ticket is good for all of a fleet's blobs until it expires, and nothing is stored or looked up for it: it comes in
signed directives, which are the same bytes for a million devices. What it keeps out is the rest of the internet; a
release is trusted for its signatures alone, whoever has handed it out.
"""

import hmac
import re
import secrets
from typing import Final, NamedTuple, Self

from server.db.tickets import TicketRepository

PREFIX: Final = "tk_"
LEAST_VALID_S: Final = 24 * 3600
SAME_FOR_S: Final = 3600
"""So long the same ticket is issued: directives that are signed again say the same."""

SECRET_BYTES: Final = 32

_FORM: Final = re.compile(r"tk_([0-9]{1,12})_([0-9a-f]{64})", re.ASCII)


class Ticket(NamedTuple):
    """``expires_at`` in Unix seconds."""

    text: str
    expires_at: int


class Tickets:
    """Issues tickets and tells them from forgeries."""

    def __init__(self, fleet: bytes, secret: bytes) -> None:
        self._fleet = fleet
        self._secret = secret

    @classmethod
    async def load(cls, repository: TicketRepository, fleet: bytes) -> Self:
        """Return those of a fleet; every server of it issues the same. Raises: StoreUnavailableError."""
        return cls(fleet, await repository.secret(fleet, secrets.token_bytes(SECRET_BYTES)))

    def issue(self, now: float) -> str:
        """Return a ticket that is valid for 24 to 25 hours."""
        return self.current(now).text

    def current(self, now: float) -> Ticket:
        """Return what ``issue`` does, with its expiry."""
        expiry = (int(now) // SAME_FOR_S + 1) * SAME_FOR_S + LEAST_VALID_S
        return Ticket(f"{PREFIX}{expiry}_{self._seal(str(expiry))}", expiry)

    def is_valid(self, text: str, now: float) -> bool:
        """It is one of this fleet's, and has not expired."""
        match = _FORM.fullmatch(text)
        if match is None:
            return False
        expiry, seal = match.groups()
        return hmac.compare_digest(self._seal(expiry), seal) and now < int(expiry)

    def _seal(self, expiry: str) -> str:
        return hmac.digest(self._secret, b"tidegate ticket " + self._fleet + expiry.encode(), "sha256").hex()
