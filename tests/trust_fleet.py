"""A fleet whose keys are all in one folder: roots that follow each other, statuses and releases, really signed."""

import atexit
import hashlib
import shutil
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from firmware_store.chunks import chunk_image
from firmware_store.documents import Kind, seal
from firmware_store.keys import Algorithm, Kid, SigningKey, load_key, save_key
from firmware_store.root import Role, RoleName, Root, init_dev_keys, key_file, open_root
from firmware_store.root_walk import replace_key
from firmware_store.status import Status
from firmware_store.suit import (
    Component,
    build_envelope,
    build_manifest,
    class_id,
    open_envelope,
    parse_version,
    sign_envelope,
    vendor_id,
)

VENDOR, HARDWARE = "acme.example", "gw100-rev-b"
DAY_S = 86_400


@dataclass(frozen=True)
class SignedRelease:
    """An envelope and the blobs that it leads to, itself among them."""

    envelope: bytes
    manifest_digest: bytes
    sequence_number: int
    blobs: Mapping[bytes, bytes]

    @property
    def envelope_digest(self) -> bytes:
        return hashlib.sha256(self.envelope).digest()


@dataclass
class TrustFleet:
    """``root`` is the newest one; every key that ever was is in ``keys`` by its id."""

    folder: Path
    root: Root
    keys: dict[Kid, SigningKey] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, *, now: int | None = None) -> "TrustFleet":
        init_dev_keys(folder, fleet=None, now=int(time.time()) - 1000 if now is None else now)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "TrustFleet":
        root = open_root((folder / "root.cbor").read_bytes(), now=None)
        keys = [
            load_key(key_file(folder, role, n + 1), None)
            for role in RoleName
            for n in range(len(root.roles[role].kids))
        ]
        return cls(folder, root, {key.public.kid: key for key in keys})

    @property
    def pinned(self) -> bytes:
        return (self.folder / "root.cbor").read_bytes()

    def of(self, role: RoleName, root: Root | None = None) -> list[SigningKey]:
        """The keys of a role, as many as it has."""
        return [self.keys[kid] for kid in (root or self.root).roles[role].kids]

    def kid(self, role: RoleName, number: int = 0) -> Kid:
        return self.root.roles[role].kids[number]

    def new_key(self, role: RoleName, *, into: Path | None = None, number: int = 2) -> SigningKey:
        """Make a key, and put it where the server finds it."""
        key = SigningKey.generate(Algorithm.ED25519)
        self.keys[key.public.kid] = key
        if into is not None:
            save_key(key_file(into, role, number), key, None, dev=True)
        return key

    # --- roots ---

    def following(self, **changes: Any) -> Root:
        """The root after the newest one; nobody knows of it yet."""
        return replace(self.root, version=self.root.version + 1, **changes)

    def rotated(self, kid: Kid, new: SigningKey, *, stolen: bool = False) -> Root:
        issued = int(time.time())
        return replace_key(self.root, kid, new.public, stolen=stolen, issued=issued, expires=issued + 365 * DAY_S)

    def without_release_key(self) -> Root:
        """The root after the newest one, in which a release key is dead, and a new one has its place."""
        return self.rotated(self.kid(RoleName.RELEASE), self.new_key(RoleName.RELEASE), stolen=True)

    def with_new_root_keys(self) -> Root:
        new = [self.new_key(RoleName.ROOT) for _ in range(2)]
        kept = {kid: key for kid, key in self.root.keys.items() if kid not in self.root.roles[RoleName.ROOT].kids}
        return self.following(
            keys=kept | {key.public.kid: key.public for key in new},
            roles={**self.root.roles, RoleName.ROOT: Role(2, tuple(sorted(key.public.kid for key in new)))},
        )

    def seal_root(self, root: Root, signers: Collection[SigningKey] | None = None) -> bytes:
        """Sign with the old root keys and the new ones, unless a test has other ideas."""
        both = {kid: self.keys[kid] for one in (self.root, root) for kid in one.roles[RoleName.ROOT].kids}
        return seal(Kind.ROOT, root.payload(), list(both.values() if signers is None else signers))

    def publish(self, root: Root) -> bytes:
        """Sign a root, and go on from it."""
        sealed = self.seal_root(root)
        self.root = root
        return sealed

    # --- statuses ---

    def status(
        self,
        version: int = 1,
        *,
        digests: Collection[bytes] = (),
        signers: Sequence[SigningKey] | None = None,
        **members: Any,
    ) -> bytes:
        issued = int(time.time()) - 60
        given = {
            "version": version,
            "issued": issued,
            "expires": issued + 7 * DAY_S,
            "fleet": self.root.fleet,
            "epoch": self.root.roles[RoleName.STATUS].epoch,
            "revoked_digests": frozenset(digests),
        }
        status = Status(**(given | members))
        return seal(Kind.STATUS, status.payload(), self.of(RoleName.STATUS) if signers is None else signers)

    # --- releases ---

    def release(self, number: int = 1, *, version: str = "1.1.0", image: bytes | None = None) -> SignedRelease:
        chunked = chunk_image([image or b"release %d of a small program. " % number * 40])
        blobs = {chunk.wire_digest: wire for chunk, wire in chunked}
        index = chunked.index()
        blobs |= {hashlib.sha256(blob).digest(): blob for blob in (index.root, *index.pages)}
        vendor = vendor_id(VENDOR)
        manifest = build_manifest(
            sequence_number=number,
            version=parse_version(version),
            vendor_id=vendor,
            class_ids=[class_id(vendor, HARDWARE)],
            components=[Component("app", index.image_digest, index.image_size, index.fetch)],
        )
        envelope = build_envelope(manifest)
        for key in self.of(RoleName.RELEASE):
            envelope = sign_envelope(envelope, key)
        blobs[hashlib.sha256(envelope).digest()] = envelope
        return SignedRelease(envelope, open_envelope(envelope).digest, number, blobs)


@cache
def shared_folder() -> Path:
    """Development keys that all tests of a run share which change nothing about them."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-keys-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    init_dev_keys(folder, fleet=None, now=int(time.time()) - 1000)
    return folder


def own_fleet(folder: Path) -> TrustFleet:
    """A copy of the shared keys, for a test that goes on from there."""
    shutil.copytree(shared_folder(), folder, dirs_exist_ok=True)
    return TrustFleet.open(folder)
