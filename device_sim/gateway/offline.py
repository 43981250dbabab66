"""A release from a file, for a device that no server reaches: the same checks, the same slots, a trial by itself.

The campaign of such an update is ``OFFLINE``. Nobody is told of it; the next hello shows what runs. Only the checks of
its health and its time on trial decide whether it stays.
"""

import asyncio
import hashlib
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from device_sim.agent.boot_environment import Image, other
from device_sim.agent.core import with_highest
from device_sim.agent.events import Persist
from device_sim.agent.journal import Journal
from device_sim.agent.slots import Installation, Release, SlotBackend
from device_sim.agent.state import ACTIVE, OFFLINE, PAST_MOST, AgentState, Phase, Update
from device_sim.agent.storage import Storage
from device_sim.agent.trust import Identity, Trust, open_release
from device_sim.agent.trust_store import TrustStore
from firmware_store.bundle import BlobSink, bundle_pieces, read_envelope, receive_bundle
from firmware_store.chunks import Chunk, decode_index, decode_page, unpack_chunk
from firmware_store.errors import ConfigurationError, ConflictError
from firmware_store.root import Root
from firmware_store.suit import Manifest, format_version, verify_envelope
from server.protocol.orders import Deadlines, Envelope

_Places = Mapping[bytes, list[tuple[int, int, Chunk]]]


async def install_file(
    bundle: Path,
    *,
    storage: Storage,
    slots: SlotBackend,
    factory: AgentState,
    identity: Identity,
    pinned: Root,
    deadlines: Deadlines,
) -> Update:
    """Write a bundle's release into the other slot and activate it; what is left is to reboot.

    Nothing is written before every byte of the file has been verified. The agent must not run meanwhile.

    Raises:
        ConfigurationError, CodecError, TrustError: the file cannot be read, or the release is not one for this device.
        ConflictError: an update is under way, or this release runs already.
        StorageError, IllegalTransitionError, DigestError: the slot cannot be written; the running one is as before.
    """
    state = with_highest(storage.load(factory), tuple(slots.slots()))
    if state.update is not None and state.update.phase in ACTIVE:
        raise ConflictError("an update is under way: let the agent bring it to its end first")
    journal = Journal(state)
    store = TrustStore(journal, pinned)
    trust = store.trust
    if store.is_status_missing:
        raise ConfigurationError(
            "the status that was held is no longer good: let the agent fetch the present one first"
        )
    now = int(time.time())
    trust.root.check_time(now)
    if trust.status is not None:
        trust.status.check_time(now)
    envelope = read_envelope(bundle)
    opened = verify_envelope(envelope, trust.root, status=trust.status)
    if any(slot.name == slots.booted() and slot.manifest_digest == opened.digest for slot in slots.slots()):
        raise ConflictError("this release runs already")
    update = Update(
        campaign=OFFLINE,
        manifest_digest=opened.digest,
        sequence_number=opened.manifest.sequence_number,
        envelope=Envelope(hashlib.sha256(envelope).digest(), len(envelope)),
        deadlines=deadlines,
        started_at=now,
    )
    target = other(slots.booted())
    verified = open_release(envelope, update, trust=trust, identity=identity, state=state, slot=target)
    manifest = verified.manifest
    pages = _Pages(manifest)
    await _read(bundle, trust, pages)
    images = tuple(Image(one.name, one.image_digest, one.image_size) for one in manifest.components)
    version = format_version(manifest.version)
    release = Release(manifest.sequence_number, version, manifest.digest, images)
    installation = await asyncio.to_thread(slots.install, release)
    writer = _Writer(installation, pages.places())
    await _read(bundle, trust, writer)
    await asyncio.to_thread(installation.seal)
    update = replace(
        update,
        phase=Phase.TRIAL,
        slot=installation.slot,
        version=version,
        total_bytes=sum(image.size_bytes for image in images),
        signers=verified.kids,
    )
    # Saved first: whatever the next boot finds, it knows that a switch was under way.
    past = (*state.past, *([] if state.update is None else [state.update]))
    storage.perform(Persist(replace(journal.state, update=update, past=past[-PAST_MOST:])))
    await asyncio.to_thread(slots.activate, installation.slot)
    return update


class _Pages:
    """Keeps the indexes of a release's images, of all that comes by."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._wanted = {one.fetch.index_digest: one.fetch for one in manifest.components}
        self._pages: set[bytes] = set()
        self._kept: dict[bytes, bytes] = {}

    async def put(self, digest: bytes, data: bytes) -> bool:
        if digest in self._wanted:
            self._pages |= {page.digest for page in decode_index(data, self._wanted[digest])}
        elif digest not in self._pages:
            return False
        self._kept[digest] = data
        return True

    def places(self) -> _Places:
        """For each chunk, by its digest, where it belongs: the image's number and the offset in it."""
        places: defaultdict[bytes, list[tuple[int, int, Chunk]]] = defaultdict(list)
        for number, component in enumerate(self._manifest.components):
            offset = 0
            for page in decode_index(self._kept[component.fetch.index_digest], component.fetch):
                for chunk in decode_page(self._kept[page.digest], page):
                    places[chunk.wire_digest].append((number, offset, chunk))
                    offset += chunk.raw_size
        return places


class _Writer:
    """Puts chunks in their places."""

    def __init__(self, installation: Installation, places: _Places) -> None:
        self._installation = installation
        self._places = places

    async def put(self, digest: bytes, data: bytes) -> bool:
        places = self._places.get(digest, [])
        if places:
            raw = unpack_chunk(places[0][2], data)
            for number, offset, _ in places:
                await asyncio.to_thread(self._installation.write, number, [(offset, raw)])
        return bool(places)


async def _read(bundle: Path, trust: Trust, sink: BlobSink) -> None:
    """Verify a bundle from its first byte to its last, and hand over each blob."""
    pieces = bundle_pieces(bundle)
    await receive_bundle(pieces, root=trust.root, status=trust.status, store=sink, max_bytes=sys.maxsize)
