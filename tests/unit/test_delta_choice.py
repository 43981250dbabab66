"""Which deltas a campaign would like: from what most of its devices run."""

from hashlib import sha256
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from firmware_store.suit import Component, Fetch, Manifest, SlotImage
from server.domain.identity import BundleId
from server.services.delta_choice import Running, choose, image_of

FETCH = Fetch(b"i" * 32, 100, 1)


def digest(name: str) -> bytes:
    return sha256(name.encode()).digest()


def image(component: str, name: str) -> Component:
    return Component(component, digest(name), 1000, FETCH)


def of_slots(component: str, *names: str) -> Component:
    slots = [SlotImage(slot, digest(name), 1000, FETCH) for slot, name in enumerate(names)]
    return Component.of_slots(component, slots)


def release(*components: Component) -> Manifest:
    return Manifest(1, (1, 0), b"v" * 16, (b"c" * 16,), components, b"m" * 32)


def running(number: int, devices: int, *components: Component) -> Running:
    return Running(BundleId(UUID(int=number)), release(*components), devices)


NEW = release(image("app", "app-9"), image("rootfs", "rootfs-1"))


def chosen(target: Manifest, *fleet: Running, sources_most: int = 4, most: int = 8) -> list[tuple[int, bytes, int]]:
    wishes = choose(target, fleet, sources_most=sources_most, most=most)
    return [(wish.component, wish.source_digest, wish.devices) for wish in wishes]


def test_releases_that_share_an_image_add_up_and_what_stays_needs_no_delta() -> None:
    fleet = (
        running(1, 5, image("app", "app-1"), image("rootfs", "rootfs-1")),
        running(2, 6, image("app", "app-2"), image("rootfs", "rootfs-1")),
        running(3, 2, image("app", "app-1"), image("rootfs", "rootfs-0")),
        running(4, 9, image("radio", "radio-1")),
    )

    assert chosen(NEW, *fleet) == [(0, digest("app-1"), 7), (0, digest("app-2"), 6), (1, digest("rootfs-0"), 2)]
    assert chosen(NEW, *fleet, sources_most=1) == [(0, digest("app-1"), 7), (1, digest("rootfs-0"), 2)]
    assert chosen(NEW, *fleet, most=1) == [(0, digest("app-1"), 7)]


def test_a_delta_goes_from_the_slot_that_runs_to_the_other_one() -> None:
    before, after = of_slots("app", "app-1a", "app-1b"), of_slots("app", "app-2a", "app-2b")

    wishes = choose(release(after), [running(1, 3, before)], sources_most=4, most=8)

    assert {(wish.source_digest, wish.target_digest) for wish in wishes} == {
        (digest("app-1a"), digest("app-2b")),
        (digest("app-1b"), digest("app-2a")),
    }
    assert image_of(release(after), digest("app-2b")) == Component("app", digest("app-2b"), 1000, FETCH)
    assert image_of(release(after), digest("app-1b")) is None


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 100)), max_size=12),
    st.integers(0, 5),
    st.integers(1, 8),
)
def test_no_more_than_may_be_and_those_of_most_devices(
    fleet: list[tuple[int, int, int]], sources_most: int, most: int
) -> None:
    devices = [
        running(number, count, image("app", f"app-{app}"), image("rootfs", f"rootfs-{rootfs}"))
        for number, (app, rootfs, count) in enumerate(fleet)
    ]

    everything = choose(NEW, devices, sources_most=99, most=99)
    some = choose(NEW, devices, sources_most=sources_most, most=most)

    assert len(some) <= most
    assert all(len([wish for wish in some if wish.component == number]) <= sources_most for number in (0, 1))
    assert all(wish.source_digest != wish.target_digest for wish in some)
    for number in (0, 1):
        counts = [wish.devices for wish in everything if wish.component == number]
        assert [wish.devices for wish in some if wish.component == number] == counts[
            : sum(w.component == number for w in some)
        ]
