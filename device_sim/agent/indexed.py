"""What an index lists, chunk by chunk: an image in the slot, or a delta in the staged file.

Pages are worked through one at a time, so that memory does not grow with the image. Before a page's chunks are fetched
they are looked for on the device itself: where they belong (an interrupted download goes on there) and in the running
slot (what has not changed does not travel). Until this way is chosen, what is missing is only counted: as long as
another way may be the cheaper one, no more is remembered than that one costs.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from device_sim.agent.blobs import Blobs
from device_sim.agent.costs import index_bytes_least
from device_sim.agent.events import Reuse, Write
from device_sim.agent.journal import Journal
from device_sim.agent.slots import Piece
from firmware_store.chunks import Chunk, Page, decode_index, decode_page, unpack_verified
from firmware_store.errors import ManifestError
from firmware_store.suit_values import ChunkProfile, Fetch

REUSE_BATCH: Final = 64
"""Chunks looked for at once: a megabyte to read and to hash (four at most), so that nothing else waits for long."""


class Indexed:
    """``size_bytes``: None for a delta, whose size only its index knows."""

    def __init__(self, journal: Journal, blobs: Blobs, *, image: int, fetch: Fetch, size_bytes: int | None) -> None:
        self._journal = journal
        self._blobs = blobs
        self._image = image
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._next: Callable[[bytes, bytes], None] = self._index_came
        self._pages: deque[Page] = deque()
        self._page: Page | None = None
        self._offset = 0
        self._to_reuse: deque[tuple[Piece, Chunk]] = deque()
        self._asked_reuse: list[tuple[Piece, Chunk]] = []
        self._places: dict[bytes, list[tuple[int, Chunk]]] = {}  # wire digest -> offsets of what is missing
        self._is_chosen = False
        self.index_bytes = index_bytes_least(fetch)
        """Of the index that has not been read yet."""
        self.missing_bytes = 0
        """On the wire, of the chunks that are known to be missing, until this way is chosen."""
        self.is_begun = False
        self.is_searched = False
        """The whole index has been read, and every chunk been looked for."""
        self.is_deciding = False
        """Waits for ``choose``, or for ``look_on``."""
        self.is_done = False

    def begin(self, *, chosen: bool) -> None:
        """Fetch the index, and with ``chosen`` all that is missing."""
        self.is_begun = True
        self._is_chosen = chosen
        self._blobs.want(self._fetch.index_digest, self._fetch.index_size)

    def look_on(self) -> None:
        """Read the next page, to know more."""
        self.is_deciding = False
        self._next_page()

    def choose(self) -> None:
        """Fetch what is missing, from now on page by page."""
        self.is_deciding = False
        self._is_chosen = True
        self._next = self._chunk_came
        for digest, places in self._places.items():
            self._blobs.want(digest, places[0][1].wire_size)
        self._end_page_if_complete()

    def came(self, digest: bytes, payload: bytes) -> None:
        """Take a verified blob.

        Raises:
            ManifestError, DigestError: authentic, and yet not what an image or a delta of ours is made of.
        """
        self._next(digest, payload)

    def reused(self, found: tuple[bool, ...]) -> None:
        """Which of the pieces asked for are in place already; the others have to be fetched."""
        asked, self._asked_reuse = self._asked_reuse, []
        for (piece, chunk), is_here in zip(asked, found, strict=True):
            if not is_here:
                self._miss(piece.offset, chunk)
        self._look_on_the_device()

    def _index_came(self, _digest: bytes, payload: bytes) -> None:
        self._pages.extend(decode_index(payload, self._fetch))
        self.index_bytes = sum(page.size for page in self._pages)
        self._go_on()

    def _go_on(self) -> None:
        if self._is_chosen:
            self._next_page()
        else:
            self.is_deciding = True

    def _next_page(self) -> None:
        if self._pages:
            self._page = self._pages.popleft()
            self._next = self._page_came
            self._blobs.want(self._page.digest, self._page.size)
            return
        if self._size_bytes is not None and self._offset != self._size_bytes:
            raise ManifestError("an index whose chunks do not add up to the image")
        self.is_searched = True
        self.is_done = self._is_chosen
        self.is_deciding = not self._is_chosen

    def _page_came(self, _digest: bytes, payload: bytes) -> None:
        assert self._page is not None
        self.index_bytes -= self._page.size
        for chunk in decode_page(payload, self._page):
            self._to_reuse.append((Piece(self._offset, chunk.raw_size, chunk.raw_digest), chunk))
            self._offset += chunk.raw_size
        if self._size_bytes is not None and self._offset > self._size_bytes:
            raise ManifestError("an index whose chunks reach past the end of the image")
        self._next = self._chunk_came
        self._look_on_the_device()

    def _look_on_the_device(self) -> None:
        if self._to_reuse:
            self._asked_reuse = [self._to_reuse.popleft() for _ in range(min(REUSE_BATCH, len(self._to_reuse)))]
            pieces = tuple(piece for piece, _ in self._asked_reuse)
            self._journal.emit(Reuse(self._image, pieces, moved=self._fetch.profile is ChunkProfile.CDC))
        else:
            self._end_page_if_complete()

    def _miss(self, offset: int, chunk: Chunk) -> None:
        places = self._places.setdefault(chunk.wire_digest, [])
        if not places:
            self.missing_bytes += chunk.wire_size
            if self._is_chosen:
                self._blobs.want(chunk.wire_digest, chunk.wire_size)
        places.append((offset, chunk))

    def _chunk_came(self, digest: bytes, payload: bytes) -> None:
        for offset, chunk in self._places.pop(digest):
            self._journal.emit(Write(self._image, ((offset, unpack_verified(chunk, payload)),)))
        self._end_page_if_complete()

    def _end_page_if_complete(self) -> None:
        if not self._asked_reuse and not self._to_reuse and not (self._is_chosen and self._places):
            self._go_on()
