"""Whether to believe a document: every check of signed bytes on the device, without I/O and without a clock of its own.

The order is the one of the design: root and status (``trust_store``); then strict bytes, signature, fleet and audience,
counter; then for a release its digest, its signatures, its manifest, and only then its hardware and its age. Expiry is
asked apart, because it only ever blocks starting and activating: a halt is obeyed whatever has expired.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from device_sim.agent.boot_environment import SLOT_NAMES
from device_sim.agent.state import AgentState, Held, Phase, Update
from firmware_store.documents import Kind, decode_payload, split
from firmware_store.errors import (
    AudienceError,
    CodecError,
    CompatibilityError,
    DigestError,
    ExpiredError,
    ManifestError,
    ReplayError,
    RevokedError,
    RollbackError,
    SignatureError,
    SuccessionError,
    TidegateError,
    TooLargeError,
    TrustError,
    WeakKeyError,
)
from firmware_store.keys import Kid
from firmware_store.roles import RoleName
from firmware_store.root import Root
from firmware_store.status import Status
from firmware_store.suit import Manifest, VerifiedEnvelope, class_id, vendor_id, verify_envelope
from firmware_store.suit_values import is_component_name
from server.domain.identity import DeviceId, HardwareClass
from server.domain.windows import Window
from server.protocol.orders import Directive, Welcome, read_directive, read_welcome
from server.protocol.reasons import Reason
from server.protocol.topics import Audience, CohortAudience

CLOCK_SKEW_S: Final = 300
"""An offer may be signed this much ahead of the welcome's clock: they may come from two machines."""

DEVICE_AUDIENCE: Final = "device"


class WrongVendorError(CompatibilityError):
    """A release of another vendor."""


class UnknownComponentError(CompatibilityError):
    """A release whose components are not this device's."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a device is. ``vendor`` is a DNS name; ``components`` is None where any set of them may be installed.

    ``wake_interval_s``: it sleeps, and wakes again at most so many seconds after it last woke; None: it does not.
    """

    device: DeviceId
    vendor: str
    hardware: HardwareClass
    agent_version: str
    components: frozenset[str] | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    utc_offset_minutes: int | None = None
    windows: tuple[Window, ...] = ()
    """Its own, in its local time, on top of those of an offer."""
    wake_interval_s: int | None = None


@dataclass(frozen=True, slots=True)
class Trust:
    """The root in force, and the status document that holds under it, if there is one."""

    root: Root
    status: Status | None = None

    @property
    def revoked(self) -> frozenset[Kid]:
        """Keys that the status has taken back. They count for no document but roots and statuses themselves."""
        return frozenset() if self.status is None else self.status.revoked_kids

    @property
    def issued(self) -> int:
        """It is no earlier than this (Unix seconds): root or status was signed then."""
        return max(self.root.issued, 0 if self.status is None else self.status.issued)


_REASONS: Final[Mapping[type[TidegateError], Reason]] = MappingProxyType(
    {
        CodecError: Reason.MALFORMED,
        TooLargeError: Reason.MALFORMED,
        SignatureError: Reason.BAD_SIGNATURE,
        WeakKeyError: Reason.BAD_SIGNATURE,
        ExpiredError: Reason.EXPIRED,
        ReplayError: Reason.REPLAYED,
        AudienceError: Reason.WRONG_AUDIENCE,
        ManifestError: Reason.BAD_MANIFEST,
        DigestError: Reason.DIGEST_MISMATCH,
        SuccessionError: Reason.BAD_SUCCESSION,
        RevokedError: Reason.REVOKED,
        RollbackError: Reason.OLDER_SEQUENCE,
        WrongVendorError: Reason.WRONG_VENDOR,
        UnknownComponentError: Reason.UNKNOWN_COMPONENT,
        CompatibilityError: Reason.WRONG_CLASS,
        TrustError: Reason.BAD_SIGNATURE,
    }
)


def reason_of(error: TidegateError) -> Reason:
    """Return what a report says about ``error``."""
    for kind in type(error).__mro__:
        if kind in _REASONS:
            return _REASONS[kind]
    return Reason.MALFORMED


def audience_key(audience: Audience) -> str:
    """Return the key under which an audience's counter is kept. A device has one, wherever it is."""
    if isinstance(audience, CohortAudience):
        return f"cohort/{audience.region}/{audience.cohort}"
    return DEVICE_AUDIENCE


def cohort_key(state: AgentState) -> str:
    """Return the key of the cohort that the last welcome put this device in."""
    return audience_key(CohortAudience(state.region, state.cohort))


def open_directive(sealed: bytes, *, trust: Trust, device: DeviceId, state: AgentState) -> tuple[str, Directive, Held]:
    """Check a directive as far as it can be checked without a clock; return its audience's key and what to keep.

    Raises:
        CodecError: not strict CBOR, or not a directive.
        SignatureError: not signed by the directive role, or by a key of it that has been revoked.
        AudienceError: for another fleet, cohort, region or device.
        ReplayError: a lower counter than the one held for this audience, the same one over other bytes, or an epoch
            that is not the directive role's present one.
    """
    opened = trust.root.unseal(Kind.DIRECTIVE, sealed, revoked=trust.revoked)
    directive = read_directive(opened.value)
    key = _own_audience(directive, root=trust.root, device=device, state=state)
    if directive.counter.epoch != trust.root.roles[RoleName.DIRECTIVE].epoch:
        raise ReplayError("a directive of another epoch of its role")
    fresh = Held(directive.counter, hashlib.sha256(opened.payload).digest(), sealed)
    held = state.held.get(key)
    if held is not None:
        if fresh.counter < held.counter:
            raise ReplayError("a directive older than the one held")
        if fresh.counter == held.counter and fresh.payload_digest != held.payload_digest:
            raise ReplayError("another directive under a counter that has been used")
    return key, directive, fresh


def read_held(held: Held) -> Directive | None:
    """Return what a directive that was accepted once said, whoever may sign today.

    None where it cannot be read: a later agent, which has been given up since, may have understood more.
    """
    if not held.sealed:
        return None
    try:
        payload, _ = split(held.sealed)
        return read_directive(decode_payload(payload))
    except TidegateError:
        return None


def holds(held: Held, *, trust: Trust, device: DeviceId, state: AgentState) -> bool:
    """Tell whether a directive that was accepted once would be accepted again: its key may have died since."""
    try:
        open_directive(held.sealed, trust=trust, device=device, state=state)
    except TidegateError:
        return False
    return True


def open_welcome(sealed: bytes, *, trust: Trust, device: DeviceId, nonce: bytes) -> Welcome:
    """Check the server's word to this session.

    Raises:
        CodecError: not strict CBOR, or not a welcome.
        SignatureError: not signed by the session role, or by a key of it that has been revoked.
        AudienceError: for another fleet or device.
        ReplayError: for another session.
    """
    welcome = read_welcome(trust.root.unseal(Kind.WELCOME, sealed, revoked=trust.revoked).value)
    if welcome.fleet != trust.root.fleet or welcome.device != device:
        raise AudienceError("a welcome for another device")
    if welcome.nonce != nonce:
        raise ReplayError("a welcome for another session")
    return welcome


def check_offer_time(directive: Directive, trust: Trust, server_now: float) -> None:
    """Ask this before starting and before activating, and for nothing else.

    Raises:
        ExpiredError: the offer, the trust root or the status is not valid at ``server_now``.
    """
    if server_now >= directive.expires:
        raise ExpiredError("the offer has expired")
    if server_now < directive.issued - CLOCK_SKEW_S:
        raise ExpiredError("the offer is from the future")
    trust.root.check_time(int(server_now))
    if trust.status is not None:
        trust.status.check_time(int(server_now))


def own_floor(trust: Trust, identity: Identity) -> int:
    """Return the lowest sequence number that root and status allow for this hardware."""
    own_class = class_id(vendor_id(identity.vendor), identity.hardware)
    status_floor = 0 if trust.status is None else trust.status.floors.get(own_class, 0)
    return max(trust.root.floors.get(own_class, 0), status_floor)


def check_sequence(number: int, digest: bytes, *, trust: Trust, identity: Identity, state: AgentState) -> None:
    """A release counts upwards: never below what ran here confirmed, nor below the fleet's floor.

    Raises:
        RollbackError: it is older, or another release under the same number.
    """
    if number < state.highest_sequence:
        raise RollbackError(
            f"release {number} is older than release {state.highest_sequence}, which was confirmed here"
        )
    floor = own_floor(trust, identity)
    if number < floor:
        raise RollbackError(f"release {number} is below the fleet's floor, which is {floor}")
    if number == state.highest_sequence and state.highest_digest not in {b"", digest}:
        raise RollbackError(f"another release under the number {number}, which was confirmed here")


def check_not_revoked(manifest_digest: bytes, trust: Trust) -> None:
    """Check what can be known of a release before anything of it is fetched.

    Raises:
        RevokedError: the status has taken it back.
    """
    if trust.status is not None:
        trust.status.check_digest(manifest_digest)


def open_release(
    envelope: bytes, update: Update, *, trust: Trust, identity: Identity, state: AgentState, slot: str
) -> VerifiedEnvelope:
    """Check an envelope down to the last condition of its manifest; what comes back may be installed in ``slot``.

    Raises:
        DigestError: not the envelope or the manifest that the directive names.
        CodecError, SignatureError, RevokedError, ManifestError: see ``verify_envelope``.
        RollbackError: see ``check_sequence``; or not the number that the directive names.
        CompatibilityError: for another vendor or hardware class, with other components than this device has, or
            without an image that runs from ``slot``.
    """
    if len(envelope) != update.envelope.size_bytes or hashlib.sha256(envelope).digest() != update.envelope.digest:
        raise DigestError("not the envelope that the directive names")
    verified = verify_envelope(envelope, trust.root, status=trust.status)
    manifest = verified.manifest
    if verified.digest != update.manifest_digest:
        raise DigestError("not the manifest that the directive names")
    if manifest.sequence_number != update.sequence_number:
        raise RollbackError("not the sequence number that the directive names")
    check_sequence(manifest.sequence_number, verified.digest, trust=trust, identity=identity, state=state)
    _check_hardware(manifest, identity)
    try:
        return replace(verified, manifest=manifest.in_slot(SLOT_NAMES.index(slot)))
    except CompatibilityError as exc:
        raise UnknownComponentError(str(exc)) from exc


def check_at_work(update: Update, *, trust: Trust, identity: Identity, state: AgentState) -> None:
    """Ask again of a release that passed ``open_release``: trust may have changed since.

    A trial only ends for what was taken back. Keys that retired in good order, and floors, are for what is not booted
    yet: the slot that a trial would fall back to is older still.

    Raises:
        RevokedError: the release, or too many of the keys that signed it.
        SignatureError: too few of the keys that signed it are still release keys.
        RollbackError: see ``check_sequence``.
    """
    check_not_revoked(update.manifest_digest, trust)
    needed = trust.root.roles[RoleName.RELEASE].threshold
    taken_back = trust.root.dead_kids | trust.revoked
    if update.signers and len(update.signers - taken_back) < min(needed, len(update.signers)):
        raise RevokedError("a key that signed this release has been revoked")
    if update.phase is Phase.TRIAL:
        return
    keys = trust.root.keys_for(RoleName.RELEASE, revoked=trust.revoked)
    if update.signers and len(update.signers & keys.keys()) < needed:
        raise SignatureError("too few of the keys that signed this release are still release keys")
    check_sequence(update.sequence_number, update.manifest_digest, trust=trust, identity=identity, state=state)


def _own_audience(directive: Directive, *, root: Root, device: DeviceId, state: AgentState) -> str:
    audience = directive.audience
    key = audience_key(audience)
    mine = key == cohort_key(state) if isinstance(audience, CohortAudience) else audience.device == device
    if directive.fleet != root.fleet or not mine:
        raise AudienceError("a directive for somebody else")
    return key


def _check_hardware(manifest: Manifest, identity: Identity) -> None:
    own_vendor = vendor_id(identity.vendor)
    if manifest.vendor_id != own_vendor:
        raise WrongVendorError("a release of another vendor")
    if class_id(own_vendor, identity.hardware) not in manifest.class_ids:
        raise CompatibilityError("a release for other hardware")
    names = [component.name for component in manifest.components]
    if not all(map(is_component_name, names)) or len(set(names)) != len(names):
        raise UnknownComponentError("a release with components that no slot can hold")
    if identity.components is not None and set(names) != identity.components:
        raise UnknownComponentError("a release with other components than this device has")
