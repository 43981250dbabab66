"""A release on its way into the inactive slot: the envelope, then one image after the other."""

from collections import deque

from device_sim.agent.blobs import Blobs, Loss
from device_sim.agent.events import Fetched, Got, ImageDone, Reused, Seal, Staged
from device_sim.agent.http_fetcher import Want
from device_sim.agent.image_fetch import ImageFetch
from device_sim.agent.situation import Situation
from device_sim.agent.state import Update
from firmware_store.suit import Component, Manifest
from server.protocol.orders import Directive
from server.protocol.sources import HttpSource


class Download:
    """Drives ``Blobs``; what comes goes in by ``message`` and ``take``, effects go out by the journal.

    ``Seal`` is the last effect. ``failure`` ends the attempt, and is to be looked at after every call.
    """

    def __init__(self, situation: Situation, update: Update) -> None:
        self._situation = situation
        self._update = update
        self._blobs = Blobs(situation)
        self._source: HttpSource | None = None
        self._heeded = -1
        self._components: deque[tuple[int, Component]] = deque()
        self._image: ImageFetch | None = None
        self.envelope: bytes | None = None
        """Here once it has come; the owner checks it, opens a slot and calls ``begin``."""
        self.failure: Loss | None = None
        self._heed_offer()
        self._blobs.want(update.envelope.digest, update.envelope.size_bytes)

    @property
    def next_at(self) -> float | None:
        """When to look for what has not come (monotonic seconds)."""
        return self._blobs.next_at

    def begin(self, manifest: Manifest) -> None:
        """The slot is open: fetch what the manifest lists."""
        self._components.extend(enumerate(manifest.components))
        self._next_image()

    def message(self, digest: bytes, payload: bytes) -> None:
        """Take a message on a blob's topic.

        Raises:
            ManifestError, DigestError: authentic, and yet not what a release of ours is made of.
        """
        self._arrived(self._blobs.message(digest, payload), payload)

    def take(self, event: Fetched) -> None:
        """Take the answer to an effect. Raises: see ``message``."""
        image = self._image
        if isinstance(event, Got):
            self._arrived(self._blobs.got(event), event.payload)
            return
        if image is None:
            return  # of a download that is over
        match event:
            case Reused(found):
                image.reused(found)
            case Staged(size_bytes):
                image.staged(size_bytes)
            case ImageDone(_, whole, detail):
                image.image_done(whole, detail)
        self._settle()

    def staging_failed(self, detail: str) -> None:
        """Nothing more can be staged for the image at hand."""
        if self._image is not None:
            self._image.staging_failed(detail)
            self._settle()

    def request(self) -> None:
        """Ask for what is next, and leave what has come."""
        self._heed_offer()
        self._blobs.request()
        if self._blobs.loss is not None:
            self._settle()
            self._blobs.request()

    def link_lost(self) -> None:
        self._blobs.link_lost()

    def stop(self) -> None:
        """Leave every blob topic, and end every request; what is written stays in the slot."""
        self._blobs.stop()

    def _heed_offer(self) -> None:
        """Take the HTTP source as the newest offer names it. While there is none, as on hold, the last one is good."""
        directives = self._situation.directives
        if self._heeded != directives.changes:
            self._heeded = directives.changes
            offer = self._offer
            if offer is not None:
                self._blobs.use(offer.http)

    @property
    def _offer(self) -> Directive | None:
        return self._situation.directives.offer(self._update.campaign, self._update.manifest_digest)

    def _arrived(self, want: Want | None, payload: bytes) -> None:
        if want is not None:
            if self.envelope is None:
                self.envelope = payload
            elif self._image is not None:
                self._image.came(want, payload)
        self._settle()

    def _settle(self) -> None:
        """Find other ways for what was lost, and go on to the next image after the last one."""
        while (loss := self._blobs.loss) is not None and self.failure is None:
            if self._image is None or loss.is_final:
                self.failure = loss
                return
            self._image.lost(loss)
            self.failure = self._image.failure
        if self._image is not None:
            self.failure = self._image.failure
            if self._image.is_done:
                self._next_image()

    def _next_image(self) -> None:
        if not self._components:
            self._image = None
            self._situation.journal.emit(Seal())
            return
        number, component = self._components.popleft()
        offer = self._offer
        deltas = () if offer is None else offer.deltas
        self._image = ImageFetch(self._situation, self._blobs, number, component, deltas)
        self._image.begin()
