"""Who is let in by what they show, and how often: bounds for each credential, and for each address that has none.

Guessing wins nothing: a secret has 256 random bits. But each guess costs a look into the database, so whoever guesses
gets a bounded number of them. A credential that was good lately is looked at all the same: whoever shares an address
with a guesser, as behind a proxy, goes on with what they have.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from firmware_store.errors import AuthenticationError, RateLimitedError
from server.services.admission import Admission, Buckets, Rate
from server.services.metrics import Metrics
from server.services.tickets import PREFIX as TICKET
from server.services.tickets import Tickets
from server.services.tokens import PREFIX, Caller, Role, Tokens

log = structlog.get_logger(__name__)

TICKET_HOLDER: Final = Caller("a device with a ticket", Role.VIEWER)

BURST_S: Final = 10
"""Somebody who was quiet may do at once what else takes so long."""

FAILURES_TOGETHER: Final = Rate(per_s=1000, burst=2000)

KNOWN_MOST: Final = 10_000
"""Credentials that are remembered as good: 32 bytes each."""

_ID: Final = re.compile(r"tg_([0-9a-f]{8})_", re.ASCII)
"""What a log may show of a token."""


class Foreign(Protocol):
    """Somebody else who says who people are: an OpenID provider."""

    async def authenticate(self, text: str) -> Caller:
        """Raises: AuthenticationError, ForbiddenError, StoreUnavailableError."""


class Authentication:
    """Checks credentials. ``requests_per_s``: with one of them; ``failures_per_s``: from one address."""

    def __init__(
        self,
        *,
        tokens: Tokens,
        tickets: Tickets,
        metrics: Metrics,
        requests_per_s: float,
        failures_per_s: float,
        foreign: Foreign | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._tickets = tickets
        self._metrics = metrics
        self._foreign = foreign
        self._clock = clock
        self._requests: Buckets[bytes] = Buckets(Rate(per_s=requests_per_s, burst=requests_per_s * BURST_S))
        self._failures = Admission(
            together=FAILURES_TOGETHER, each=Rate(per_s=failures_per_s, burst=failures_per_s * BURST_S)
        )
        self._known: OrderedDict[bytes, None] = OrderedDict()

    async def let_in(self, text: str, *, address: str | None, is_device: bool) -> Caller:
        """Return who shows this. ``is_device``: a ticket is good here, and how fast devices fetch is not bounded.

        Raises:
            AuthenticationError: it is not good, or not here.
            RateLimitedError: too many requests with it, or too many that were not good from its address.
            ForbiddenError, StoreUnavailableError.
        """
        if is_device and text.startswith(TICKET):
            return self._check_ticket(text, address)
        key = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
        was_good = key in self._known
        if was_good:
            self._count(key, is_device=is_device)
        else:
            self._reserve(address)
        try:
            caller = await self._check(text)
        except AuthenticationError as exc:
            if was_good:
                self._known.pop(key, None)
                self._failures.note(address, now=self._clock())
            self._tell(text, address, exc)
            raise
        except BaseException:
            if not was_good:
                self._failures.give_back(address)
            raise
        if not was_good:
            self._failures.give_back(address)
            self._count(key, is_device=is_device)
        self._remember(key)
        return caller

    def _check_ticket(self, text: str, address: str | None) -> Caller:
        """A ticket is good or not without a look into the database, and a fleet behind one address has the same."""
        if self._tickets.is_valid(text, time.time()):
            return TICKET_HOLDER
        self._reserve(address)
        why = AuthenticationError("This ticket is not ours, or has expired; the next directive has another.")
        self._tell(text, address, why)
        raise why

    async def _check(self, text: str) -> Caller:
        if self._foreign is not None and not text.startswith(PREFIX):
            return await self._foreign.authenticate(text)
        return await self._tokens.authenticate(text)

    def _reserve(self, address: str | None) -> None:
        """Take what a failure costs before it is known to be one: a thousand at once must not all be looked at."""
        try:
            self._failures.admit(address, now=self._clock())
        except RateLimitedError as exc:
            self._metrics.limited.labels("address").inc()
            raise RateLimitedError(
                "Too many credentials that are not good came from your address; try again a little later.",
                retry_after_s=exc.retry_after_s,
            ) from exc

    def _count(self, key: bytes, *, is_device: bool) -> None:
        if is_device:
            return
        wait_s = self._requests.take(key, self._clock())
        if wait_s > 0:
            self._metrics.limited.labels("token").inc()
            raise RateLimitedError("Too many requests with this token; slow down.", retry_after_s=wait_s)

    def _tell(self, text: str, address: str | None, why: AuthenticationError) -> None:
        kind = next((name for prefix, name in _KINDS if text.startswith(prefix)), "other")
        self._metrics.refused.labels(kind).inc()
        named = _ID.match(text)
        log.warning(
            "credential_refused", kind=kind, token=None if named is None else named[1], address=address, why=str(why)
        )

    def _remember(self, key: bytes) -> None:
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_MOST:
            self._known.popitem(last=False)


_KINDS: Final = ((PREFIX, "token"), (TICKET, "ticket"))
