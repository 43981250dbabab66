"""Nonces that the server gives out and takes back once, without keeping those that never come back."""

import hashlib
import hmac
import secrets
from typing import Final

from firmware_store.errors import AuthenticationError

NONCE_LIFE_S: Final = 300

_TIME_BYTES: Final = 8
_RANDOM_BYTES: Final = 8
_MAC_BYTES: Final = 16


class Nonces:
    """32 bytes: the time, a random number, and a MAC by a key that lives as long as this process.

    Only spent nonces are remembered, until they would have expired.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._spent: dict[bytes, float] = {}  # when; the oldest first

    def make(self, *, now: float) -> bytes:
        body = int(now).to_bytes(_TIME_BYTES, "big") + secrets.token_bytes(_RANDOM_BYTES)
        return body + self._mac(body)

    def check(self, nonce: bytes, *, now: float) -> None:
        """Raises: AuthenticationError: not ours, too old, or spent."""
        body, mac = nonce[:-_MAC_BYTES], nonce[-_MAC_BYTES:]
        made = int.from_bytes(body[:_TIME_BYTES], "big")
        ours = hmac.compare_digest(mac, self._mac(body)) and len(body) == _TIME_BYTES + _RANDOM_BYTES
        if not ours or now - made > NONCE_LIFE_S or nonce in self._spent:
            raise AuthenticationError("This nonce is not good, or not any more: ask for another.")

    def spend(self, nonce: bytes, *, now: float) -> None:
        """Take a nonce once. Raises: AuthenticationError: as ``check``, or somebody was faster."""
        self.check(nonce, now=now)
        while self._spent and now - next(iter(self._spent.values())) > NONCE_LIFE_S:
            del self._spent[next(iter(self._spent))]
        self._spent[nonce] = now

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)[:_MAC_BYTES]
