"""Many digests in little room: sorted, 32 bytes each, where a set of Python takes four times that."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Self

from firmware_store.errors import CodecError
from firmware_store.suit_values import DIGEST_BYTES


class DigestSet:
    """Ask whether a digest is ``in`` it. ``data``: all of them, in order, as one string of bytes."""

    def __init__(self, data: bytes) -> None:
        """Raises: CodecError: not sorted, one of them twice, or bytes that are no whole digest."""
        self._count, rest = divmod(len(data), DIGEST_BYTES)
        self.data = data
        if rest or any(self._at(n) >= self._at(n + 1) for n in range(self._count - 1)):
            raise CodecError("digests must be sorted, each listed once")

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> Self:
        return cls(b"".join(sorted(set(digests))))

    def __len__(self) -> int:
        return self._count

    def __contains__(self, digest: bytes) -> bool:
        return self._at(bisect_left(range(self._count), digest, key=self._at)) == digest

    def _at(self, number: int) -> bytes:
        return self.data[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
