"""Which deltas a campaign would like: from the images that most of its devices run, to those of its bundle."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from firmware_store.suit import Component, Manifest
from server.db.deltas import Wish
from server.domain.identity import BundleId


class Running(NamedTuple):
    """So many devices run this release."""

    bundle: BundleId
    manifest: Manifest
    devices: int


def choose(target: Manifest, running: Sequence[Running], *, sources_most: int, most: int) -> list[Wish]:
    """Return at most ``most`` wishes, those of most devices first.

    A component has ``sources_most`` sources at most. Images that stay as they are need no delta.
    """
    wishes: list[Wish] = []
    for number, component in enumerate(target.components):
        found = sorted(_of_component(number, component, running), key=_rank)
        sources = list(dict.fromkeys(wish.source_digest for wish in found))[:sources_most]
        wishes += [wish for wish in found if wish.source_digest in sources]
    return sorted(wishes, key=_rank)[:most]


def _of_component(number: int, component: Component, running: Iterable[Running]) -> Iterable[Wish]:
    """Return the wishes for one component; releases that share an image add up."""
    found: dict[tuple[bytes, bytes], Wish] = {}
    for one in running:
        for before in one.manifest.components:
            if before.name != component.name:
                continue
            for source, target in _pairs(before, component):
                wish = Wish(number, component.name, one.bundle, source.image_digest, target.image_digest, one.devices)
                known = found.get((wish.source_digest, wish.target_digest))
                if known is not None:
                    wish = known._replace(devices=known.devices + wish.devices)
                found[wish.source_digest, wish.target_digest] = wish
    return found.values()


def _pairs(before: Component, after: Component) -> Iterator[tuple[Component, Component]]:
    """Yield what a device may have in the slot that runs, with what goes into another one."""
    for running, source in before.images().items():
        for written, target in after.images().items():
            is_same_slot = running is not None and running == written
            if not is_same_slot and source.image_digest != target.image_digest:
                yield source, target


def image_of(manifest: Manifest, digest: bytes) -> Component | None:
    """Return the image with this digest, as a component without slots; None where the release has none such."""
    images = (image for component in manifest.components for image in component.images().values())
    return next((replace(image, slots=()) for image in images if image.image_digest == digest), None)


def _rank(wish: Wish) -> tuple[int, int, bytes, bytes]:
    return -wish.devices, wish.component, wish.source_digest, wish.target_digest
