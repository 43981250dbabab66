"""The releases that deltas lead from and to: what devices run, and the images of bundles that are here."""

from collections import Counter

import structlog

from firmware_store.blobs import BlobStore
from firmware_store.errors import CodecError, NotFoundError, TrustError
from firmware_store.suit import Component, Manifest, open_envelope
from server.db.bundles import BundleRecord, BundleRepository
from server.db.campaign_records import CampaignRecord
from server.domain.eligibility import Target, fits
from server.domain.identity import BundleId
from server.services.delta_choice import Running, image_of
from server.services.fleet import Fleet

log = structlog.get_logger(__name__)


class Releases:
    """Nothing is trusted here: an envelope was verified when it came, and a device verifies what a delta gives."""

    def __init__(self, *, bundles: BundleRepository, store: BlobStore, fleet: Fleet) -> None:
        self._bundles = bundles
        self._store = store
        self._fleet = fleet

    async def running(self, campaign: CampaignRecord, bundle: BundleRecord, *, most: int) -> list[Running]:
        """Return the releases that the campaign's devices run now, as far as they are here, with how many do."""
        target = Target(bundle.vendor_id, frozenset(bundle.class_ids), bundle.manifest_digest)
        digests = Counter(
            device.running_digest
            for region in campaign.regions
            for device in self._fleet.members(campaign.cohort, region.region)
            if device.running_digest not in {b"", target.manifest_digest}
            and fits(target, vendor_id=device.vendor_id, class_id=device.class_id)
            and not device.revoked
        )
        found = []
        for digest, devices in digests.most_common(most):
            before = await self._bundles.by_digest(digest)
            manifest = None if before is None else await self.manifest(before)
            if before is not None and manifest is not None:
                found.append(Running(before.id, manifest, devices))
        return found

    async def manifest(self, bundle: BundleRecord) -> Manifest | None:
        """Return what a release says; None where its envelope is not in the store any more.

        Raises:
            StoreUnavailableError: no answer.
        """
        try:
            return open_envelope(await self._store.get(bundle.envelope_digest)).read()[0]
        except (NotFoundError, TrustError, CodecError) as exc:
            log.warning("bundle_without_envelope", bundle=bundle.id.hex, reason=str(exc))
            return None

    async def image(self, bundle: BundleId, digest: bytes) -> Component:
        """Return an image of a release by the digest of its bytes. Raises: NotFoundError, StoreUnavailableError."""
        manifest = await self.manifest(await self._bundles.get(bundle))
        found = None if manifest is None else image_of(manifest, digest)
        if found is None:
            raise NotFoundError("the release has no such image")
        return found
