"""How often strangers may knock: token buckets, one for everybody and one for each address.

What is behind these doors needs 128 random bits or a signature, so nothing is won by guessing; the limits keep whoever
tries anyway from taking the database and the processor from the others.
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from firmware_store.errors import RateLimitedError

ADDRESSES_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, then ``per_s``."""

    per_s: float
    burst: float


ALL_TOGETHER: Final = Rate(per_s=100, burst=200)
EACH_ADDRESS: Final = Rate(per_s=10, burst=50)
"""A proxy, or a factory behind one address, counts as one: it still enrols 36,000 devices an hour."""


class _Bucket:
    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._left = rate.burst
        self._at = 0.0

    def wait_s(self, now: float) -> float:
        """Return 0 if there is one to take, else how long until then."""
        self._left = min(self._rate.burst, self._left + max(0.0, now - self._at) * self._rate.per_s)
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) / self._rate.per_s

    def take(self) -> None:
        self._left -= 1

    def give_back(self) -> None:
        self._left = min(self._rate.burst, self._left + 1)


K = TypeVar("K")


class Buckets(Generic[K]):
    """One for each key; of more than ``ADDRESSES_MOST`` keys, the one that came longest ago begins anew."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: OrderedDict[K, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: K) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._rate)
            if len(self._buckets) > ADDRESSES_MOST:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket

    def take(self, key: K, now: float) -> float:
        """Take one and return 0 if there is one, else how long until then."""
        bucket = self.of(key)
        wait_s = bucket.wait_s(now)
        if wait_s == 0:
            bucket.take()
        return wait_s


class Admission:
    """``now`` is any clock that goes forward, in seconds."""

    def __init__(self, *, together: Rate = ALL_TOGETHER, each: Rate = EACH_ADDRESS) -> None:
        self._together = _Bucket(together)
        self._addresses: Buckets[str] = Buckets(each)

    def admit(self, address: str | None, *, now: float) -> None:
        """Raises: RateLimitedError: not now."""
        own = self._addresses.of(_network(address))
        wait_s = max(own.wait_s(now), self._together.wait_s(now))
        if wait_s > 0:
            raise RateLimitedError("Too many requests; try again a little later.", retry_after_s=wait_s)
        own.take()
        self._together.take()

    def give_back(self, address: str | None) -> None:
        """Whoever was admitted has turned out to be no stranger."""
        self._addresses.of(_network(address)).give_back()
        self._together.give_back()

    def note(self, address: str | None, *, now: float) -> None:
        """Count one that was not asked for, where there is something left."""
        self._addresses.take(_network(address), now)
        if self._together.wait_s(now) == 0:
            self._together.take()


def _network(address: str | None) -> str:
    """An IPv6 customer has a whole /64."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
