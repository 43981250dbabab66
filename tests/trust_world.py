"""Trust documents for devices under test: roots that follow each other, status documents, a world that shows them."""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from firmware_store.documents import Kind, seal
from firmware_store.keys import Algorithm, SigningKey
from firmware_store.roles import Role, RoleName
from firmware_store.root import Root
from firmware_store.root_walk import replace_key
from firmware_store.status import Status
from firmware_store.suit import class_id, vendor_id
from server.domain.identity import DeviceId
from server.protocol.messages import Counter
from server.protocol.orders import Action, Directive, StatusRef, Welcome
from tests.agent_world import DEVICE, EPOCH, HARDWARE, VENDOR, Bundle, Keys, World, make_bundle

DAY = 86_400
OWN_CLASS = class_id(vendor_id(VENDOR), HARDWARE)


@dataclass(frozen=True)
class Authority:
    """A root, its document, and the private keys of its roles."""

    root: Root
    sealed: bytes
    signers: dict[RoleName, tuple[SigningKey, ...]]

    @property
    def keys(self) -> Keys:
        """The same for tests that know nothing of rotation."""
        one = {role: keys[0] for role, keys in self.signers.items()}
        release = self.signers[RoleName.RELEASE]
        return Keys(self.root, self.sealed, one[RoleName.DIRECTIVE], one[RoleName.SESSION], release)

    def follow(self, root: Root, signers: dict[RoleName, tuple[SigningKey, ...]] | None = None) -> "Authority":
        """The next root, signed by the root keys of both."""
        mine = signers or self.signers
        unique = {key.public.kid: key for key in (*self.signers[RoleName.ROOT], *mine[RoleName.ROOT])}
        return Authority(root, seal(Kind.ROOT, root.payload(), list(unique.values())), mine)

    def next(self, **changes: object) -> "Authority":
        """The next root, with other content."""
        return self.follow(replace(self.root, version=self.root.version + 1, **changes))

    def rotate(self, role: RoleName, *, stolen: bool = True, keep: SigningKey | None = None) -> "Authority":
        """The next root, with a new key in the place of the first one of ``role``."""
        old, *others = self.signers[role]
        new = keep or SigningKey.generate(Algorithm.ED25519)
        root = replace_key(
            self.root,
            old.public.kid,
            new.public,
            stolen=stolen,
            issued=self.root.issued,
            expires=self.root.expires,
        )
        return self.follow(root, {**self.signers, role: (new, *others)})

    def status(self, version: int = 1, *, signer: SigningKey | None = None, **changes: object) -> bytes:
        """A status document; valid for ten years of the test's clock, unless ``changes`` say otherwise."""
        status = Status(
            version=version,
            issued=EPOCH,
            expires=EPOCH + 300 * DAY,
            fleet=self.root.fleet,
            epoch=self.root.roles[RoleName.STATUS].epoch,
        )
        payload = replace(status, **changes).payload()
        return seal(Kind.STATUS, payload, [signer or self.signers[RoleName.STATUS][0]])


@cache
def authority(name: str = "fleet") -> Authority:
    """The first root of a fleet; another name is another fleet with other keys."""
    counts = {RoleName.ROOT: 2, RoleName.RELEASE: 2}
    signers = {
        role: tuple(SigningKey.generate(Algorithm.ED25519) for _ in range(counts.get(role, 1))) for role in RoleName
    }
    keys = {key.public.kid: key.public for group in signers.values() for key in group}
    roles = {role: Role(len(group), tuple(sorted(key.public.kid for key in group))) for role, group in signers.items()}
    fleet = hashlib.sha256(name.encode()).digest()[:16]
    root = Root(1, EPOCH, EPOCH + 365 * DAY, fleet, keys, roles, dev=True)
    return Authority(root, seal(Kind.ROOT, root.payload(), signers[RoleName.ROOT]), signers)


class TrustWorld(World):
    """A device whose factory pinned ``first``; ``keys`` are those of whoever speaks as the server at the moment."""

    def __init__(self, directory: Path, first: Authority | None = None, device_id: DeviceId = DEVICE) -> None:
        self.first = self.authority = first or authority()
        self.told_root = self.told_status = 0
        super().__init__(directory, keys=self.first.keys, device_id=device_id)

    def _boot(self) -> None:
        current = self.keys
        self.keys = self.first.keys  # what the factory pinned does not change
        super()._boot()
        self.keys = current

    def make_welcome(self, **changes: object) -> Welcome:
        return super().make_welcome(**{"root_version": self.told_root, "status_version": self.told_status, **changes})

    def make_directive(self, action: Action, bundle: Bundle | None = None, **changes: object) -> Directive:
        epoch = self.authority.root.roles[RoleName.DIRECTIVE].epoch
        return super().make_directive(action, bundle, **{"counter": Counter(epoch, self.counter + 1), **changes})

    def publish_root(self, following: Authority, *, tell: bool = True) -> None:
        """Rotate: the server's keys are the new ones, and the welcome says so."""
        self.authority, self.keys = following, following.keys
        if tell:
            self.told_root = following.root.version
        self.retain(self.topics.trust_root(following.root.version), following.sealed)

    def publish_status(self, version: int = 1, *, tell: bool = True, **changes: object) -> StatusRef:
        """Sign a status by the present authority, retain it, and return what a directive says about it."""
        sealed = self.authority.status(version, **changes)
        if tell:
            self.told_status = version
        self.retain(self.topics.trust_status, sealed)
        return StatusRef(version, hashlib.sha256(sealed).digest())

    @property
    def root_version_told(self) -> int:
        """The highest root version that the device has ever said it holds."""
        return max((hello.root_version for hello in self.hellos), default=1)

    @property
    def status_version_told(self) -> int:
        return max((hello.status_version for hello in self.hellos), default=0)

    @property
    def root_version(self) -> int:
        return self.agent._situation.trust.root.version

    @property
    def status_version(self) -> int:
        status = self.agent._situation.trust.status
        return 0 if status is None else status.version


def bundle_by(signer: Authority, number: int = 1, version: str = "1.1.0", **shape: Any) -> Bundle:
    """A release signed by the release keys of ``signer``."""
    release = signer.signers[RoleName.RELEASE]
    return make_bundle(number, version, **{"sizes": (("app", 40_000),), "release": release, **shape})
