"""What may happen to a device whose power is cut: its releases, its slots under watch, and the stories told of it."""

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_sim.agent.boot_environment import SlotInfo, SlotState
from device_sim.agent.slots import SlotBackend
from device_sim.agent.trust import Identity
from device_sim.disk.simulated import SimulatedDisk
from device_sim.gateway.offline import install_file
from firmware_store.chunks import decode_index, decode_page
from firmware_store.errors import TidegateError
from firmware_store.suit import open_envelope
from server.domain.execution import State
from server.protocol.orders import Action
from tests.agent_world import (
    HARDWARE,
    HTTP,
    LIMITS,
    VENDOR,
    FilePlatform,
    Platform,
    UBootPlatform,
    World,
    delta,
    make_bundle,
)

DEVICE: Final = Path("/device")
FACTORY_VERSION: Final = "1.0.0"


def _edited(image: bytes) -> bytes:
    """One byte of each thousand is another one."""
    return b"".join(bytes([image[at] ^ 1]) + image[at + 1 : at + 1000] for at in range(0, len(image), 1000))


FACTORY: Final = make_bundle(1, FACTORY_VERSION, sizes=(("app", 40_000), ("rootfs", 60_000), ("radio", 8_000)))
RELEASE: Final = make_bundle(
    2,
    "1.1.0",
    sizes=(("rootfs", 60_000),),
    contents=(("app", _edited(FACTORY.images["app"])), ("radio", FACTORY.images["radio"])),
)
"""An application of which a delta can be made, another root file system, and the radio's firmware of before."""


class BrickError(Exception):
    """Nothing boots any more."""


class UnverifiedBootError(Exception):
    """What boots is not what was signed."""


class Watched:
    """A platform of which each boot is looked at, byte by byte, whatever the device itself believes."""

    def __init__(self, platform: Platform) -> None:
        self.files, self.durable = platform.files, platform.durable
        self._platform = platform

    def provision(self, directory: Path) -> None:
        self._platform.provision(directory)

    def boot(self, directory: Path, boots: Callable[[SlotInfo], bool]) -> str | None:
        try:
            slot = self._platform.boot(directory, boots)
            if slot is None:
                raise BrickError("not even the confirmed slot boots")
            slots = {info.name: info for info in self.slots(directory).slots()}
        except TidegateError as exc:
            raise BrickError(str(exc)) from exc
        self._check(directory, slots[slot])
        return slot

    def slots(self, directory: Path) -> SlotBackend:
        return self._platform.slots(directory)

    def image(self, directory: Path, slot: str, name: str) -> bytes:
        return self._platform.image(directory, slot, name)

    def _check(self, directory: Path, slot: SlotInfo) -> None:
        if slot.state not in {SlotState.TRIAL, SlotState.CONFIRMED}:
            raise UnverifiedBootError(f"slot {slot.name} boots, which is {slot.state}")
        wanted = FACTORY if slot.version == FACTORY_VERSION else RELEASE
        for name, content in wanted.images.items():
            try:
                found = self.image(directory, slot.name, name)
            except OSError as exc:
                raise UnverifiedBootError(f"slot {slot.name} has no {name}: {exc.strerror}") from exc
            if found[: len(content)] != content:
                raise UnverifiedBootError(f"slot {slot.name} does not hold the {name} of {slot.version}")


def _on_files(disk: SimulatedDisk, seeds: Mapping[str, Path]) -> Platform:
    return FilePlatform(disk, durable=True, factory=seeds)


def _on_partitions(disk: SimulatedDisk, _seeds: Mapping[str, Path]) -> Platform:
    return UBootPlatform(disk, FACTORY.images)


PLATFORMS: Final[Mapping[str, Callable[[SimulatedDisk, Mapping[str, Path]], Platform]]] = {
    "files": _on_files,
    "u-boot": _on_partitions,
}


@dataclass(frozen=True)
class Story:
    """``tell`` is what happens to a device from its factory state on; ``retell`` the same to one that comes back."""

    tell: Callable[[World], None]
    retell: Callable[[World], None]
    end: State
    slot: str


def _update(world: World) -> None:
    world.offer(RELEASE)
    world.connect()
    world.pass_time(61)


def _update_again(world: World) -> None:
    _update(world)
    world.pass_time(200)


def _by_delta(world: World) -> None:
    _put_delta(world)
    world.pass_time(61)


def _by_delta_again(world: World) -> None:
    _by_delta(world)
    world.pass_time(200)


def _put_delta(world: World) -> None:
    offered, blobs = delta(FACTORY, RELEASE)
    for digest, blob in blobs.items():
        world.retained[world.topics.blob(digest)] = blob
    image = RELEASE.images["rootfs"]
    world.served = {f"/v1/images/{hashlib.sha256(image).hexdigest()}": image}
    world.offer(RELEASE, deltas=(offered,), http=HTTP)
    world.connect()


def _halted(world: World) -> None:
    world.offer(RELEASE)
    world.connect()
    world.pass_time(10)
    world.direct(Action.HALT, RELEASE)
    world.pass_time(10)


def _rolled_back(world: World) -> None:
    _update(world)
    world.direct(Action.ROLLBACK, RELEASE)
    world.pass_time(10)


def _rolled_back_again(world: World) -> None:
    _update_again(world)
    world.direct(Action.ROLLBACK, RELEASE)
    world.pass_time(200)


def _halted_again(world: World) -> None:
    _halted(world)
    world.pass_time(200)


def _discarded(world: World) -> None:
    """The halt comes while the device waits to be heard before it reboots."""
    world.answers_reports = False
    world.offer(RELEASE)
    world.connect()
    world.pass_time(5)
    world.direct(Action.HALT, RELEASE)
    world.answers_reports = True
    world.pass_time(10)


def _discarded_again(world: World) -> None:
    _discarded(world)
    world.pass_time(200)


def _from_a_file(world: World) -> None:
    _install_file(world)
    world.power_cycle()  # what the technician does
    world.pass_time(61)


def _from_a_file_again(world: World) -> None:
    """Whoever finds that it has not been installed does it once more."""
    world.pass_time(61)
    if world.booted == "a":
        _from_a_file(world)


def _install_file(world: World) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "release.tgb"
        _write_bundle(bundle)
        asyncio.run(
            install_file(
                bundle,
                storage=world.storage,
                slots=world.slots,
                factory=world.agent.state,
                identity=Identity(world.device_id, VENDOR, HARDWARE, "bench"),
                pinned=world.keys.root,
                deadlines=LIMITS,
            )
        )


def _write_bundle(path: Path) -> None:
    """The release as a file: its envelope, and its blobs in the order of the manifest."""
    path.write_bytes(b"TGB1" + len(RELEASE.envelope).to_bytes(4, "big") + RELEASE.envelope + b"".join(_blobs()))


def _blobs() -> Iterator[bytes]:
    for component in open_envelope(RELEASE.envelope).read()[0].components:
        index = RELEASE.blobs[component.fetch.index_digest]
        pages = decode_index(index, component.fetch)
        yield from (index, *(RELEASE.blobs[page.digest] for page in pages))
        for page in pages:
            for chunk in decode_page(RELEASE.blobs[page.digest], page):
                yield RELEASE.blobs[chunk.wire_digest]


STORIES: Final[Mapping[str, Story]] = {
    "update": Story(_update, _update_again, State.CONFIRMED, "b"),
    "update by delta": Story(_by_delta, _by_delta_again, State.CONFIRMED, "b"),
    "from a file": Story(_from_a_file, _from_a_file_again, State.CONFIRMED, "b"),
    "halted trial": Story(_halted, _halted_again, State.ROLLED_BACK, "a"),
    "discarded": Story(_discarded, _discarded_again, State.CANCELLED, "a"),
    "rollback": Story(_rolled_back, _rolled_back_again, State.ROLLED_BACK, "a"),
}
