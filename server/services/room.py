"""Whether a campaign's blobs fit the broker beside those of the others, and how its devices get them if not."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from firmware_store.errors import OverBudgetError
from server.db.campaign_records import CampaignRecord
from server.db.published import Progress, PublishedRepository
from server.domain.identity import CampaignId
from server.protocol.sources import Transport


class Fit(NamedTuple):
    """What a campaign takes at the broker (``own``), all others (``taken``), and all of them together, in bytes."""

    own: int
    taken: int
    together: int
    budget: int

    @property
    def is_one(self) -> bool:
        return self.together <= self.budget

    def __str__(self) -> str:
        beside = f" beside the {in_words(self.taken)} of other campaigns" if self.taken else ""
        return f"{in_words(self.own)} do not fit the budget of {in_words(self.budget)}{beside}"


@dataclass(frozen=True, slots=True)
class Publication:
    """How a campaign's devices get its blobs first, and how much of what they need is at the broker, in words too."""

    transport: Transport | None
    progress: Progress
    sentence: str


class Room:
    """``budget_bytes``: of blobs that are at the broker at once. ``has_http``: devices can fetch from the server."""

    def __init__(self, repository: PublishedRepository, *, budget_bytes: int, has_http: bool) -> None:
        self._repository = repository
        self.budget_bytes = budget_bytes
        self.has_http = has_http

    async def fit(self, campaign: CampaignRecord, *, instead_of: Collection[CampaignId] = ()) -> Fit:
        """Measure what its blobs would take, once the campaigns in ``instead_of`` are over."""
        beside = {campaign.id, *instead_of}
        own, taken, added = await self._repository.room(campaign.bundle_id, beside=beside)
        return Fit(own, taken, taken + added, self.budget_bytes)

    async def transport(self, campaign: CampaignRecord) -> tuple[Transport | None, Fit]:
        """Return how its devices would get its blobs first; None: in no way, until there is room."""
        fit = await self.fit(campaign)
        if fit.is_one:
            return Transport.MQTT, fit
        return Transport.HTTP if self.has_http else None, fit

    async def publication(self, campaign: CampaignRecord) -> Publication:
        """Return how far it is; of one that has not begun, what would be done today."""
        progress = await self._repository.progress(campaign.bundle_id)
        if campaign.transport is Transport.MQTT:
            needed, published = progress.needed.size_bytes, progress.published.size_bytes
            return Publication(campaign.transport, progress, f"published {in_words(published)} of {in_words(needed)}")
        transport, fit = await self.transport(campaign)
        if campaign.transport is Transport.HTTP:
            sentence = "HTTP only: it did not fit when its run began" if fit.is_one else http_only(fit)
        elif transport is Transport.MQTT:
            sentence = f"{in_words(fit.own)} to be published"
        else:
            sentence = http_only(fit) if self.has_http else f"waits for room: {fit}"
        return Publication(campaign.transport, progress, sentence)

    async def check(self, campaign: CampaignRecord, *, instead_of: Collection[CampaignId] = ()) -> None:
        """Return if its devices have a way to its blobs. Raises: OverBudgetError."""
        if not self.has_http:
            fit = await self.fit(campaign, instead_of=instead_of)
            if not fit.is_one:
                raise _over(fit)

    async def check_alone(self, campaign: CampaignRecord) -> None:
        """Return if they would have a way while no other campaign is active. Raises: OverBudgetError."""
        if not self.has_http:
            fit = await self.fit(campaign)
            if fit.own > fit.budget:
                raise _over(fit._replace(taken=0))


def http_only(fit: Fit) -> str:
    """Say why devices do not get a campaign's blobs from the broker."""
    return f"HTTP only: {fit}"


def in_words(size_bytes: int) -> str:
    """Say a size with three digits or so: ``512 MiB``, ``1.46 GiB``."""
    number, unit = float(size_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if number < 1000:
            break
        number, unit = number / 1024, larger
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"


def _over(fit: Fit) -> OverBudgetError:
    return OverBudgetError(
        f"At the broker, {fit}, and there is no other way for devices: set TIDEGATE_PUBLIC_URL so that they fetch by "
        "HTTP, or a larger TIDEGATE_BLOB_BUDGET_BYTES.",
        needed_bytes=fit.together,
        budget_bytes=fit.budget,
    )
