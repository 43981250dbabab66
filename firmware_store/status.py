"""The status document: what has been taken back since it was signed, and the oldest releases that may still run.

It is short-lived, so that nobody can hide a revocation for longer than it lives. Its key is the least protected one
that counts, and so it can only forbid: nothing that it says makes a device install anything.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from firmware_store.codec import Encodable, Value, encode
from firmware_store.documents import Kind, decode_payload, split
from firmware_store.errors import (
    AudienceError,
    CodecError,
    ExpiredError,
    ReplayError,
    RevokedError,
    RollbackError,
    SignatureError,
    TrustError,
)
from firmware_store.keys import KID_BYTES, Kid
from firmware_store.roles import CLASS_ID_BYTES, RoleName, parse_kids
from firmware_store.root import FLEET_BYTES, MAX_CLOCK_SKEW, Root
from firmware_store.shapes import as_bytes, as_int, as_list, as_map
from firmware_store.suit_values import DIGEST_BYTES, Manifest

FORMAT: Final = 1

# Labels of the payload; the first five are those of a root.
_FORMAT, _VERSION, _ISSUED, _EXPIRES, _FLEET, _EPOCH, _DIGESTS, _KIDS, _FLOORS = range(9)


@dataclass(frozen=True, slots=True)
class Status:
    """``issued`` and ``expires`` are Unix seconds, ``floors`` the lowest sequence number of each class.

    ``version`` counts within ``epoch``, which is that of the status role: a new epoch starts over.

    Raises:
        TrustError: on creation, for values that no status document has.
    """

    version: int
    issued: int
    expires: int
    fleet: bytes
    revoked_digests: frozenset[bytes] = frozenset()
    revoked_kids: frozenset[Kid] = frozenset()
    floors: Mapping[bytes, int] = field(default_factory=dict)
    epoch: int = 1

    def __post_init__(self) -> None:
        if self.version < 1 or self.epoch < 1 or not 0 <= self.issued < self.expires or len(self.fleet) != FLEET_BYTES:
            raise TrustError("a status needs a version and an epoch from 1, an issue before its expiry and a fleet")
        if any(len(digest) != DIGEST_BYTES for digest in self.revoked_digests):
            raise TrustError("a revoked manifest is named by its digest of 32 bytes")
        if any(len(kid) != KID_BYTES for kid in self.revoked_kids):
            raise TrustError("a revoked key is named by its id of 16 bytes")
        if any(len(class_id) != CLASS_ID_BYTES or floor < 0 for class_id, floor in self.floors.items()):
            raise TrustError("a floor needs a class id of 16 bytes and a number from 0")

    def payload(self) -> dict[int, Encodable]:
        """Return the map that the status role signs."""
        return {
            _FORMAT: FORMAT,
            _VERSION: self.version,
            _ISSUED: self.issued,
            _EXPIRES: self.expires,
            _FLEET: self.fleet,
            _EPOCH: self.epoch,
            _DIGESTS: sorted(self.revoked_digests),
            _KIDS: sorted(self.revoked_kids),
            _FLOORS: dict(self.floors),
        }

    def check(
        self, manifest: Manifest, kids: Collection[Kid], *, threshold: int, class_id: bytes | None = None
    ) -> None:
        """Ask this before a release is uploaded, offered, started or activated.

        ``kids`` have signed it, ``threshold`` of them are needed; ``class_id`` is the device's own, and None stands
        for every class that the release is for.

        Raises:
            RevokedError: the release itself was taken back.
            SignatureError: too few of its keys were not.
            RollbackError: it is below a floor.
        """
        self.check_digest(manifest.digest)
        left = len(set(kids) - self.revoked_kids)
        if left < threshold:
            raise SignatureError(
                f"a release with {left} signatures that were not revoked, where {threshold} are needed"
            )
        for target in manifest.class_ids if class_id is None else (class_id,):
            floor = self.floors.get(target, 0)
            if manifest.sequence_number < floor:
                raise RollbackError(f"release {manifest.sequence_number} is below the floor, which is {floor}")

    def check_digest(self, manifest_digest: bytes) -> None:
        """Check what can be known before a manifest is read.

        Raises:
            RevokedError: the release was taken back.
        """
        if manifest_digest in self.revoked_digests:
            raise RevokedError("this release has been revoked")

    def check_time(self, now: int) -> None:
        """Whoever starts or activates something asks this first; halting never does.

        Raises:
            ExpiredError: the status is no longer valid at ``now``, or not yet.
        """
        if now >= self.expires:
            raise ExpiredError("the status document has expired: what has been revoked since is not known")
        if now < self.issued - int(MAX_CLOCK_SKEW.total_seconds()):
            raise ExpiredError("the status document is from the future: check the clock")


def open_status(root: Root, data: bytes, *, now: int | None = None, newest: Status | None = None) -> Status:
    """Return the status in a sealed document, no older than ``newest``.

    ``now`` is None where no clock can be trusted, or where it is not the time to ask; expiry is then not looked at.

    Raises:
        CodecError, SignatureError: not a document of the status role.
        AudienceError: of another fleet.
        ReplayError: older than ``newest``, another text under its version, or of another epoch than the role's.
        ExpiredError: see ``Status.check_time``.
    """
    root.unseal(Kind.STATUS, data)
    status = read_status(data)
    if status.fleet != root.fleet:
        raise AudienceError("the status of another fleet")
    if status.epoch != root.roles[RoleName.STATUS].epoch:
        raise ReplayError("a status of another epoch of its role")
    if newest is not None:
        _check_order(newest, status)
    if now is not None:
        status.check_time(now)
    return status


def read_status(data: bytes) -> Status:
    """Return what a status document says, with nothing verified: for whoever is to sign it.

    Raises:
        CodecError, TrustError: not a status that could ever be used.
    """
    payload, _ = split(data, least=0)
    status = _parse(decode_payload(payload))
    # One content has one form: equal statuses are equal bytes.
    if encode(status.payload()) != payload:
        raise CodecError("the lists of a status document must be sorted, and each entry listed once")
    return status


def _check_order(newest: Status, status: Status) -> None:
    known, found = (newest.epoch, newest.version), (status.epoch, status.version)
    if found < known:
        raise ReplayError(f"status {status.version}, where status {newest.version} is known already")
    if found == known and status != newest:
        raise ReplayError(f"another status under the version {status.version}")


def _parse(payload: dict[int, Value]) -> Status:
    members = as_map(payload, "status", labels=range(_FLOORS + 1))
    as_int(members[_FORMAT], "status format", least=FORMAT, most=FORMAT)
    digests = as_list(members[_DIGESTS], "revoked digests")
    return Status(
        version=as_int(members[_VERSION], "status version"),
        issued=as_int(members[_ISSUED], "status issue time"),
        expires=as_int(members[_EXPIRES], "status expiry"),
        fleet=as_bytes(members[_FLEET], "status fleet"),
        epoch=as_int(members[_EPOCH], "status epoch"),
        revoked_digests=frozenset(as_bytes(digest, "revoked digest") for digest in digests),
        revoked_kids=frozenset(parse_kids(members[_KIDS])),
        floors={
            as_bytes(label, "floor class"): as_int(floor, "floor")
            for label, floor in as_map(members[_FLOORS], "status floors").items()
        },
    )
