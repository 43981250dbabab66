"""A release on its way into the inactive slot: envelope, index, pages, chunks, each verified before the next.

Pages are worked through one at a time, so that memory does not grow with the image. Before a page's chunks are fetched
they are looked for on the device itself: in the slot that is being written (where an interrupted download goes on) and
in the running one (what has not changed does not travel).
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from device_sim.agent.events import Reuse, Seal, Subscribe, Unsubscribe, Write
from device_sim.agent.fetcher import Arrival, Fetcher
from device_sim.agent.situation import Situation
from device_sim.agent.slots import Piece
from firmware_store.chunks import Chunk, Page, decode_index, decode_page, unpack_chunk
from firmware_store.errors import ManifestError
from firmware_store.suit import Component, Manifest
from server.protocol.orders import Envelope

REUSE_BATCH: Final = 64
"""Chunks looked for at once: about a megabyte to read and to hash, so that nothing else waits for long."""


class Download:
    """Drives a ``Fetcher``; blobs come in by ``arrived``, effects go out by the journal, ``Seal`` is the last one."""

    def __init__(self, situation: Situation, envelope: Envelope) -> None:
        self._situation = situation
        self._fetcher = Fetcher()
        self._next: Callable[[bytes, bytes], None] = self._envelope_came
        self._components: deque[tuple[int, Component]] = deque()
        self._pages: deque[Page] = deque()
        self._to_reuse: deque[tuple[Piece, Chunk]] = deque()
        self._asked_reuse: list[tuple[Piece, Chunk]] = []
        self._places: dict[bytes, list[tuple[int, Chunk]]] = {}  # wire digest -> offsets
        self._component: tuple[int, Component] | None = None
        self._page: Page | None = None
        self._offset = 0
        self.envelope: bytes | None = None
        """Here once it has come; the owner checks it, opens a slot and calls ``begin``."""
        self.done_bytes = 0
        self._fetcher.want(envelope.digest, envelope.size_bytes)

    @property
    def next_at(self) -> float | None:
        """When to look for blobs that have not come (monotonic seconds)."""
        return self._fetcher.next_at if self._situation.is_up else None

    def begin(self, manifest: Manifest) -> None:
        """The slot is open: fetch what the manifest lists."""
        self._components.extend(enumerate(manifest.components))
        self._next_component()

    def arrived(self, digest: bytes, payload: bytes) -> Arrival:
        """Take a message on a blob's topic.

        Raises:
            ManifestError, DigestError: authentic, and yet not what a release of ours is made of.
        """
        arrival = self._fetcher.take(digest, payload, self._situation.now)
        if arrival is Arrival.GOOD:
            self._next(digest, payload)
        return arrival

    def reused(self, found: tuple[bool, ...]) -> None:
        """Which of the pieces asked for are in place already; the others have to be fetched."""
        for (piece, chunk), is_here in zip(self._asked_reuse, found, strict=True):
            if is_here:
                self.done_bytes += chunk.raw_size
            else:
                self._places.setdefault(chunk.wire_digest, []).append((piece.offset, chunk))
                self._fetcher.want(chunk.wire_digest, chunk.wire_size)
        self._asked_reuse = []
        self._look_on_the_device()

    def request(self) -> None:
        """Subscribe to what is next, and leave what has come."""
        if not self._situation.is_up:
            return
        leave, subscribe = self._fetcher.requests(self._situation.now)
        topics = self._situation.topics
        if leave:
            self._situation.journal.emit(Unsubscribe(tuple(map(topics.blob, leave))))
        if subscribe:
            self._situation.journal.emit(Subscribe(tuple(map(topics.blob, subscribe))))

    def link_lost(self) -> None:
        self._fetcher.link_lost()

    def stop(self) -> None:
        """Leave every blob topic; what is written stays in the slot."""
        leave = self._fetcher.subscribed()
        if leave and self._situation.is_up:
            self._situation.journal.emit(Unsubscribe(tuple(map(self._situation.topics.blob, leave))))

    def _envelope_came(self, _digest: bytes, payload: bytes) -> None:
        self.envelope = payload

    def _next_component(self) -> None:
        if not self._components:
            self._situation.journal.emit(Seal())
            return
        self._component = self._components.popleft()
        self._offset = 0
        self._next = self._index_came
        fetch = self._component[1].fetch
        self._fetcher.want(fetch.index_digest, fetch.index_size)

    def _index_came(self, _digest: bytes, payload: bytes) -> None:
        assert self._component is not None
        self._pages.extend(decode_index(payload, self._component[1].fetch))
        self._next_page()

    def _next_page(self) -> None:
        assert self._component is not None
        if not self._pages:
            if self._offset != self._component[1].image_size:
                raise ManifestError("an index whose chunks do not add up to the image")
            self._next_component()
            return
        self._page = self._pages.popleft()
        self._next = self._page_came
        self._fetcher.want(self._page.digest, self._page.size)

    def _page_came(self, _digest: bytes, payload: bytes) -> None:
        assert self._page is not None
        assert self._component is not None
        for chunk in decode_page(payload, self._page):
            self._to_reuse.append((Piece(self._offset, chunk.raw_size, chunk.raw_digest), chunk))
            self._offset += chunk.raw_size
        if self._offset > self._component[1].image_size:
            raise ManifestError("an index whose chunks reach past the end of the image")
        self._next = self._chunk_came
        self._look_on_the_device()

    def _look_on_the_device(self) -> None:
        if self._to_reuse:
            assert self._component is not None
            self._asked_reuse = [self._to_reuse.popleft() for _ in range(min(REUSE_BATCH, len(self._to_reuse)))]
            pieces = tuple(piece for piece, _ in self._asked_reuse)
            self._situation.journal.emit(Reuse(self._component[0], pieces))
        else:
            self._end_page_if_complete()

    def _chunk_came(self, digest: bytes, payload: bytes) -> None:
        assert self._component is not None
        for offset, chunk in self._places.pop(digest):
            self._situation.journal.emit(Write(self._component[0], offset, unpack_chunk(chunk, payload)))
            self.done_bytes += chunk.raw_size
        self._end_page_if_complete()

    def _end_page_if_complete(self) -> None:
        if not self._places and not self._asked_reuse and not self._to_reuse:
            self._next_page()
