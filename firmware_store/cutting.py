"""Where an image is cut into chunks. Only whoever builds a release asks; whoever reads one needs the sizes alone.

``FIXED`` and ``FIXED_4K`` cut at multiples of their size, so an insertion makes every chunk after it another one.
``CDC`` cuts where the content says so: FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data
Deduplication Based Storage Systems", IEEE TPDS 2020), as ``fastcdc-rs`` has it in its version 2020, with chunks of
4 KiB at least and 64 KiB at most, normalisation 1 and 16 KiB as the average to aim at, to which the 4 KiB come on top.
Since a cut depends on a few bytes before it, images that share a stretch share its chunks, wherever it lies.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from pyfastcdc import FastCDC

from firmware_store.suit_values import CHUNK_SIZES, ChunkProfile

_CDC_AVERAGE_BYTES: Final = 16384
_CDC_NORMALISATION: Final = 1


def cut(stream: Iterable[bytes], profile: ChunkProfile) -> Iterator[bytes]:
    """Yield the chunks of what comes in pieces of any size. Holds a few chunks at a time."""
    sizes = CHUNK_SIZES[profile]
    if profile is not ChunkProfile.CDC:
        yield from _cut_evenly(stream, sizes.most_bytes)
        return
    cutter = FastCDC(
        _CDC_AVERAGE_BYTES,
        min_size=sizes.least_bytes,
        max_size=sizes.most_bytes,
        normalized_chunking=_CDC_NORMALISATION,
    )
    for chunk in cutter.cut_stream(_Reader(stream)):
        yield bytes(chunk.data)


def _cut_evenly(stream: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield pieces of exactly ``size`` bytes, and what is left at the end."""
    buffer = bytearray()
    for data in stream:
        buffer += data
        whole = len(buffer) - len(buffer) % size
        for at in range(0, whole, size):
            yield bytes(buffer[at : at + size])
        del buffer[:whole]
    if buffer:
        yield bytes(buffer)


class _Reader:
    """A stream of pieces as what the cutter reads from."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._pieces = iter(stream)
        self._piece = memoryview(b"")

    def readinto(self, target: memoryview) -> int:
        """Fill a part of ``target``, and return how much; 0 at the end."""
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        size = min(len(target), len(self._piece))
        target[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size
