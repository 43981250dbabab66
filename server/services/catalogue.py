"""What may be fetched over HTTP, answered from memory: a device asks for thousands of blobs, and none costs a query.

A blob may be fetched while a bundle that it belongs to may: one that was not revoked, and of which no campaign was
halted unless another one offers it. Digests of the bundles that were asked for lately are held sorted, 32 bytes each (a
GiB of image takes 2 MiB), and the least recently used are forgotten. What bundles consist of only grows, by deltas;
whether they may be fetched is asked once after each change of a campaign or of the trust.
"""

import asyncio
from collections import OrderedDict
from typing import Final, NamedTuple

import structlog

from firmware_store.blobs import BlobStore
from firmware_store.digest_set import DigestSet
from firmware_store.errors import CodecError, NotFoundError, TrustError, WithdrawnError
from firmware_store.images import ImageReader
from firmware_store.suit import open_envelope
from firmware_store.suit_values import Component
from server.db.bundles import BundleRecord, BundleRepository
from server.domain.campaign import JUDGED
from server.domain.identity import BundleId
from server.protocol.orders import Envelope
from server.services.authority import Authority

log = structlog.get_logger(__name__)

LISTED_BYTES_MOST: Final = 32 << 20
"""Digests of a million blobs."""

REFUSALS_MOST: Final = 4096
BUNDLES_MOST: Final = 1000
"""Images of so many bundles can be fetched whole, the newest ones; blobs of all of them."""

READERS_MOST: Final = 32
_NONE: Final = DigestSet(b"")


class _Found(NamedTuple):
    image: Component
    bundles: tuple[BundleId, ...]


class Catalogue:
    """Ask ``check_blob`` and ``find_image``; tell ``note_change`` what may have changed their answers."""

    def __init__(self, *, repository: BundleRepository, store: BlobStore, authority: Authority) -> None:
        self._repository = repository
        self._store = store
        self._authority = authority
        self._listings: OrderedDict[BundleId, DigestSet] = OrderedDict()
        self._images: dict[bytes, _Found] = {}
        self._read: set[BundleId] = set()
        self._all_read = False
        self._reading = asyncio.Lock()
        self._readers: OrderedDict[bytes, ImageReader] = OrderedDict()
        self._standing: dict[BundleId, str] = {}
        self._refused: OrderedDict[bytes, type[NotFoundError]] = OrderedDict()
        self._trust = authority.trust

    def note_change(self) -> None:
        """A campaign has changed, or a bundle or a delta has come: what stands is asked anew."""
        # New objects: an answer that is under way is then put where nobody looks.
        self._standing, self._refused = {}, OrderedDict()
        self._all_read = False

    async def check_blob(self, digest: bytes) -> None:
        """Return if devices may have this blob.

        Raises:
            NotFoundError: it belongs to no bundle.
            WithdrawnError: to none that may be fetched.
            StoreUnavailableError, SignerUnavailableError: it cannot be said now.
        """
        self._heed_trust()
        refused = self._refused
        if digest in refused:
            raise refused[digest](_sentence(refused[digest]))
        for bundle in reversed(tuple(self._listings)):
            if digest in self._listings.get(bundle, _NONE) and not await self._why_not(bundle):
                self._listings.move_to_end(bundle)
                return
        holders = await self._repository.holding(digest)
        for bundle in holders:
            if not await self._why_not(bundle):
                self._keep(bundle, await asyncio.to_thread(DigestSet, await self._repository.digests(bundle)))
                return
        family = WithdrawnError if holders else NotFoundError
        refused[digest] = family
        if len(refused) > REFUSALS_MOST:
            refused.popitem(last=False)
        raise family(_sentence(family))

    async def find_image(self, digest: bytes) -> ImageReader:
        """Return an image that devices may have, by the digest of its bytes.

        Raises:
            NotFoundError, WithdrawnError, StoreUnavailableError, SignerUnavailableError: see ``check_blob``.
            DigestError, ManifestError: its index in the store is damaged.
        """
        self._heed_trust()
        found = self._images.get(digest)
        if found is None:
            await self._read_bundles()
            found = self._images.get(digest)
        if found is None:
            raise NotFoundError("No bundle has such an image.")
        for bundle in found.bundles:
            if not await self._why_not(bundle):
                return await self._reader(found.image)
        raise WithdrawnError(_sentence(WithdrawnError))

    def _heed_trust(self) -> None:
        if self._trust is not self._authority.trust:
            self._trust = self._authority.trust
            self.note_change()

    async def _why_not(self, bundle: BundleId) -> str:
        """Say why a bundle may not be fetched; empty: it may."""
        standing = self._standing
        if bundle not in standing:
            standing[bundle] = await self._judge(await self._repository.get(bundle))
        return standing[bundle]

    async def _judge(self, bundle: BundleRecord) -> str:
        try:
            envelope = Envelope(bundle.envelope_digest, bundle.envelope_bytes)
            await self._authority.check_release(envelope, bundle.manifest_digest, bundle.sequence_number)
        except (TrustError, CodecError) as exc:
            return str(exc)
        return "halted" if await self._repository.is_halted(bundle.id, unless=JUDGED) else ""

    def _keep(self, bundle: BundleId, listing: DigestSet) -> None:
        self._listings[bundle] = listing
        self._listings.move_to_end(bundle)
        size = sum(len(listed.data) for listed in self._listings.values())
        while len(self._listings) > 1 and size > LISTED_BYTES_MOST:
            _, forgotten = self._listings.popitem(last=False)
            size -= len(forgotten.data)

    async def _read_bundles(self) -> None:
        """Learn the images of bundles that have come since this was last asked."""
        async with self._reading:
            if self._all_read:
                return
            self._all_read = True
            try:
                for bundle in await self._repository.newest(BUNDLES_MOST):
                    if bundle.id not in self._read:
                        await self._read_images(bundle)
            except BaseException:
                self._all_read = False
                raise

    async def _read_images(self, bundle: BundleRecord) -> None:
        try:
            manifest, _ = open_envelope(await self._store.get(bundle.envelope_digest)).read()
        except (NotFoundError, TrustError, CodecError) as exc:
            log.warning("bundle_without_envelope", bundle=bundle.id.hex, reason=str(exc))
            return
        self._read.add(bundle.id)
        for component in manifest.components:
            for image in component.images().values():
                known = self._images.get(image.image_digest, _Found(image, ()))
                self._images[image.image_digest] = known._replace(bundles=(*known.bundles, bundle.id))

    async def _reader(self, image: Component) -> ImageReader:
        reader = self._readers.get(image.image_digest)
        if reader is None:
            reader = await ImageReader.open(self._store, image)
            self._readers[image.image_digest] = reader
            if len(self._readers) > READERS_MOST:
                self._readers.popitem(last=False)
        self._readers.move_to_end(image.image_digest)
        return reader


def _sentence(family: type[NotFoundError]) -> str:
    return "This was withdrawn." if family is WithdrawnError else "There is no such blob."
