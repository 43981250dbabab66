"""One image on its way into the slot: by a delta, by its missing chunks or as a whole, whichever costs the least.

A way that fails is left, and the cheapest of the others is taken: what it has brought into the slot is not lost.
"""

from collections.abc import Callable, Iterable
from typing import Final

from device_sim.agent.blobs import Blobs, Loss
from device_sim.agent.costs import Option, Way, cheapest
from device_sim.agent.events import Adopt, Make, Stage, Write
from device_sim.agent.http_fetcher import Want
from device_sim.agent.indexed import Indexed
from device_sim.agent.situation import Situation
from device_sim.agent.slots import STAGED
from firmware_store.errors import TidegateError
from firmware_store.suit import Component
from firmware_store.suit_values import Fetch
from server.protocol.reasons import Reason
from server.protocol.sources import DeltaOffer

PART_BYTES: Final = 1 << 17
"""Of a whole image, in one request: what a lost line takes back at the most, and no more than comes in well below the
five minutes in which a line's pace is judged."""


class ImageFetch:
    """``number`` is the component's in the manifest; ``is_done`` or ``failure`` end it."""

    def __init__(
        self,
        situation: Situation,
        blobs: Blobs,
        number: int,
        component: Component,
        deltas: Iterable[DeltaOffer],
    ) -> None:
        self._situation = situation
        self._blobs = blobs
        self._number = number
        self._component = component
        self._deltas = [delta for delta in deltas if self._applies(delta)]
        self._chunks = self._by_index(number, component.fetch, component.image_size)
        self._chunks_fail = self._whole_fails = False
        self._way: Option | None = None
        self._delta: Indexed | None = None
        self._loss: Loss | None = None
        self.is_done = False
        self.failure: Loss | None = None

    def begin(self) -> None:
        """See first whether the image is on the device already."""
        self._situation.journal.emit(Adopt(self._number))

    def image_done(self, whole: bool, detail: str) -> None:
        """An image was adopted or made, or could not be."""
        if whole:
            self.is_done = True
        elif self._way is None:
            self._choose()
        else:
            self._leave_way(detail)

    def staged(self, size_bytes: int) -> None:
        """The staged file is open."""
        assert self._way is not None
        delta = self._way.delta
        if delta is None:
            self._want_part(size_bytes if size_bytes <= self._component.image_size else 0)
            return
        fetch = Fetch(delta.index_digest, delta.index_size, delta.chunk_count)
        self._delta = self._by_index(STAGED, fetch, None)
        self._delta.begin(chosen=True)

    def reused(self, found: tuple[bool, ...]) -> None:
        """See ``Indexed.reused``."""
        self._look_at(lambda indexed: indexed.reused(found))

    def came(self, want: Want, payload: bytes) -> None:
        """Take a verified blob, or a part of the image that nobody has verified.

        Raises:
            ManifestError, DigestError: authentic, and yet not what a release of ours is made of.
        """
        if want.first is not None:
            self._situation.journal.emit(Write(STAGED, ((want.first, payload),)))
            self._want_part(want.first + want.size_bytes)
            return
        self._look_at(lambda indexed: indexed.came(want.digest, payload))

    def lost(self, loss: Loss) -> None:
        """What this way needs is not to be had; another one may work."""
        if self._loss is None or (self._way is not None and self._way.way is Way.CHUNKS):
            self._loss = loss
        self._leave_way(loss.detail)

    def staging_failed(self, detail: str) -> None:
        """There is no room beside the slot, or the medium failed."""
        if self._way is not None and self._way.way is not Way.CHUNKS:
            self._leave_way(detail)

    def _applies(self, delta: DeltaOffer) -> bool:
        """Tell whether a delta makes this image from what runs here, and can be read."""
        here = self._situation
        running = next((image for image in here.running.images if image.name == self._component.name), None)
        return (
            delta.component == self._number
            and delta.target_digest == self._component.image_digest
            and delta.codec in here.codecs
            and running is not None
            and running.digest == delta.source_digest
        )

    def _by_index(self, image: int, fetch: Fetch, size_bytes: int | None) -> Indexed:
        return Indexed(self._situation.journal, self._blobs, image=image, fetch=fetch, size_bytes=size_bytes)

    def _look_at(self, take: Callable[[Indexed], None]) -> None:
        if self._delta is None:
            take(self._chunks)
            self._see_chunks()
            return
        try:
            take(self._delta)
        except TidegateError as exc:
            self._leave_way(str(exc))
            return
        if self._delta.is_done:
            assert self._way is not None
            assert self._way.delta is not None
            self._situation.journal.emit(Make(self._number, self._way.delta.codec))

    def _see_chunks(self) -> None:
        if self._chunks.is_done:
            self.is_done = True
        elif self._chunks.is_deciding:
            self._choose()

    def _choose(self) -> None:
        """Go the way that is the cheapest by what is known; ask again when more of the index is."""
        chunks = self._chunks
        whole = self._blobs.has_http and not self._whole_fails
        option = cheapest(
            missing_bytes=None if self._chunks_fail else chunks.missing_bytes,
            index_bytes=chunks.index_bytes,
            deltas=self._deltas,
            whole_bytes=self._component.image_size if whole else None,
            is_begun=chunks.is_begun,
        )
        if option is None:
            self.failure = self._loss or Loss(Reason.CHUNK_MISMATCH, f"no way to {self._component.name} has worked")
            return
        self._way = option
        if option.way is not Way.CHUNKS:
            self._say(option)
            self._situation.journal.emit(Stage(self._staged_name(option)))
            return
        is_alone = not self._deltas and not whole
        if not chunks.is_begun:
            if is_alone:
                self._say(option)
            chunks.begin(chosen=is_alone)
            return
        if is_alone or chunks.is_searched:
            self._say(option)
            chunks.choose()
        else:
            chunks.look_on()
        self._see_chunks()

    def _staged_name(self, option: Option) -> bytes:
        return self._component.image_digest if option.delta is None else option.delta.index_digest

    def _want_part(self, first: int) -> None:
        left = self._component.image_size - first
        if left:
            self._blobs.want_part(self._component.image_digest, min(left, PART_BYTES), first)
        else:
            self._situation.journal.emit(Make(self._number, None))

    def _leave_way(self, detail: str) -> None:
        self._blobs.clear()
        way, self._way, self._delta = self._way, None, None
        if way is None or way.way is Way.CHUNKS:
            self._chunks_fail = True
        elif way.delta is None:
            self._whole_fails = True
        else:
            self._deltas.remove(way.delta)
        name = Way.CHUNKS.name if way is None else way.way.name
        self._situation.note("way_failed", detail=f"{self._component.name}, {name.lower()}: {detail}")
        self._choose()

    def _say(self, option: Option) -> None:
        codec = "" if option.delta is None else f" ({option.delta.codec})"
        name = f"{self._component.name}, {option.way.name.lower()}{codec}"
        self._situation.note("fetching", detail=f"{name}: {option.wire_bytes} bytes")
