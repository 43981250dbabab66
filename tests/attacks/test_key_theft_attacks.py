"""Thieves of keys, and owners of the server, against the trust root and what it says: who gets how far."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from firmware_store.codec import encode
from firmware_store.documents import Kind, seal
from firmware_store.errors import (
    AudienceError,
    CodecError,
    ExpiredError,
    ReplayError,
    RevokedError,
    RollbackError,
    SignatureError,
    SuccessionError,
    TrustError,
)
from firmware_store.keys import Kid, SigningKey
from firmware_store.root import Role, RoleName, Root, Scope, open_root
from firmware_store.root_walk import replace_key, verify_successor, walk
from firmware_store.status import Status, open_status
from firmware_store.suit import read_manifest, verify_envelope
from tests.releases import APP, CLASS_1, RELEASE, ROOT, ROOTFS, SIGNERS, STRANGER, envelope, manifest, named_key

NOW = ROOT.issued
OLD = SIGNERS[RoleName.ROOT]
NEW = (named_key("new root 1"), named_key("new root 2"))
STATUS = Status(version=5, issued=NOW, expires=NOW + 7 * 86_400, fleet=ROOT.fleet)


def next_root(trusted: Root = ROOT, **changes: Any) -> Root:
    return replace(trusted, version=trusted.version + 1, **changes)


def with_root_keys(trusted: Root, keys: Sequence[SigningKey], **changes: Any) -> Root:
    """Give the root role other keys, and take the old ones' place."""
    kept = {kid: key for kid, key in trusted.keys.items() if kid not in trusted.roles[RoleName.ROOT].kids}
    role = Role(len(keys), tuple(sorted(key.public.kid for key in keys)))
    return next_root(
        trusted,
        keys={**kept, **{key.public.kid: key.public for key in keys}},
        roles={**trusted.roles, RoleName.ROOT: role},
        **changes,
    )


def sealed(root: Root, signers: Sequence[SigningKey]) -> bytes:
    return seal(Kind.ROOT, root.payload(), signers)


# --- the root -----------------------------------------------------------------------------------------------------


def test_root_skip() -> None:
    two = next_root()
    three = next_root(two)

    with pytest.raises(SuccessionError, match="one step"):
        verify_successor(ROOT, sealed(three, OLD))
    assert list(walk(ROOT, [sealed(two, OLD), sealed(three, OLD)])) == [two, three]


def test_root_signed_by_the_old_keys_only() -> None:
    with pytest.raises(SignatureError):
        verify_successor(ROOT, sealed(with_root_keys(ROOT, NEW), OLD))


def test_root_signed_by_the_new_keys_only() -> None:
    with pytest.raises(SignatureError):
        verify_successor(ROOT, sealed(with_root_keys(ROOT, NEW), NEW))


@pytest.mark.parametrize(
    "signers",
    [(*OLD[:1], *NEW), (*OLD, *NEW[:1]), (OLD[0], OLD[0], *NEW), (*OLD, NEW[0], NEW[0]), (OLD[0], NEW[0])],
    ids=["one old", "one new", "one old, twice", "one new, twice", "one of each"],
)
def test_root_signed_by_too_few_of_either_side(signers: Sequence[SigningKey]) -> None:
    with pytest.raises(SignatureError):
        verify_successor(ROOT, sealed(with_root_keys(ROOT, NEW), signers))


def test_root_of_another_fleet() -> None:
    """The same root keys may serve two fleets: their documents must not be exchangeable."""
    with pytest.raises(AudienceError):
        verify_successor(ROOT, sealed(next_root(fleet=b"another fleet 00"), OLD))


def test_an_older_root_played_again_after_a_rotation() -> None:
    two = next_root()

    for old in (ROOT, two):
        with pytest.raises(ReplayError):
            verify_successor(two, sealed(old, OLD))


def test_a_root_with_threshold_0() -> None:
    payload: dict[int, Any] = dict(next_root().payload())
    for threshold in (0, -1, 3, 1000, (1 << 63) - 1):
        roles = {**payload[6], 2: {1: threshold, 2: list(ROOT.roles[RoleName.RELEASE].kids), 3: 1}}

        with pytest.raises((TrustError, CodecError)):
            verify_successor(ROOT, seal(Kind.ROOT, {**payload, 6: roles}, OLD))


def test_two_kids_for_one_key() -> None:
    """An id is computed: a role that counts one key twice, under another id, names a key that does not exist."""
    payload: dict[int, Any] = dict(next_root().payload())
    kids = sorted([RELEASE[0].public.kid, Kid(b"another-id-of-it")])
    roles = {**payload[6], 2: {1: 2, 2: kids, 3: 1}}
    keys = [key for key in payload[5] if key != RELEASE[1].public.to_cose()]

    with pytest.raises(TrustError):
        verify_successor(ROOT, seal(Kind.ROOT, {**payload, 5: keys, 6: roles}, OLD))


def test_the_same_key_twice_in_a_role() -> None:
    payload: dict[int, Any] = dict(next_root().payload())
    roles = {**payload[6], 2: {1: 2, 2: [RELEASE[0].public.kid] * 2, 3: 1}}

    with pytest.raises(TrustError):
        verify_successor(ROOT, seal(Kind.ROOT, {**payload, 6: roles}, OLD))


def test_weak_keys_in_a_root_that_both_sides_signed() -> None:
    payload: dict[int, Any] = dict(next_root().payload())
    order_4 = {1: 1, 3: -19, -1: 6, -2: bytes(32)}

    with pytest.raises(TrustError):
        verify_successor(ROOT, seal(Kind.ROOT, {**payload, 5: [order_4, *payload[5][1:]]}, OLD))


def test_a_bad_root_is_not_kept() -> None:
    kept = [ROOT]
    bad = sealed(with_root_keys(ROOT, NEW), NEW)

    with pytest.raises(SignatureError):
        kept.extend(walk(kept[-1], [bad]))
    with pytest.raises(SignatureError):
        kept.extend(walk(kept[-1], [bad]))

    assert kept == [ROOT]


def test_the_online_keys_together_cannot_name_a_root() -> None:
    online = [key for role in (RoleName.STATUS, RoleName.DIRECTIVE, RoleName.SESSION) for key in SIGNERS[role]]

    for signers in (online, [*online, OLD[0]], [*online, *RELEASE]):
        with pytest.raises(SignatureError):
            verify_successor(ROOT, sealed(next_root(), signers))


def test_one_root_key_stolen_is_not_enough() -> None:
    thief = with_root_keys(ROOT, (OLD[0], STRANGER))

    with pytest.raises(SignatureError):
        verify_successor(ROOT, sealed(thief, (OLD[0], STRANGER)))


def test_after_a_directive_key_theft_two_rotations_later_the_thief_is_out() -> None:
    stolen, spare = SIGNERS[RoleName.DIRECTIVE][0], named_key("directive-2")
    lost, another = OLD[0], named_key("root-3")
    two = replace_key(ROOT, stolen.public.kid, spare.public, stolen=True, issued=NOW, expires=ROOT.expires)
    three = replace_key(two, lost.public.kid, another.public, stolen=True, issued=NOW, expires=ROOT.expires)

    *_, newest = walk(ROOT, [sealed(two, OLD), sealed(three, [*OLD, another])])

    assert newest == three
    assert newest.roles[RoleName.DIRECTIVE].epoch == 2
    with pytest.raises(SignatureError):
        newest.unseal(Kind.DIRECTIVE, seal(Kind.DIRECTIVE, {0: 1}, [stolen]))
    newest.unseal(Kind.DIRECTIVE, seal(Kind.DIRECTIVE, {0: 1}, [spare]))


def test_a_dead_key_cannot_be_brought_back_by_a_later_root() -> None:
    stolen, spare = SIGNERS[RoleName.DIRECTIVE][0], named_key("directive-2")
    two = replace_key(ROOT, stolen.public.kid, spare.public, stolen=True, issued=NOW, expires=ROOT.expires)

    with pytest.raises(SuccessionError):
        verify_successor(two, sealed(replace(ROOT, version=3), OLD))
    directive = replace(two.roles[RoleName.DIRECTIVE], kids=(stolen.public.kid,))
    with pytest.raises(TrustError):
        next_root(
            two,
            keys={kid: key for kid, key in ROOT.keys.items() if kid != spare.public.kid},
            roles={**two.roles, RoleName.DIRECTIVE: directive},
        )


# --- releases -----------------------------------------------------------------------------------------------------


def test_one_release_key_stolen_installs_nothing() -> None:
    for signers in ((RELEASE[0],), (RELEASE[0], RELEASE[0]), (RELEASE[0], STRANGER), (RELEASE[0], *OLD)):
        with pytest.raises(SignatureError):
            verify_envelope(envelope(manifest(), signers), ROOT)


def test_a_revoked_key_is_out_before_the_next_root_is() -> None:
    status = replace(STATUS, revoked_kids=frozenset({RELEASE[0].public.kid}))
    release = replace(ROOT.roles[RoleName.RELEASE], threshold=1)
    lenient = replace(ROOT, roles={**ROOT.roles, RoleName.RELEASE: release})

    with pytest.raises(SignatureError):
        verify_envelope(envelope(manifest(), RELEASE[:1]), lenient, status=status)
    assert verify_envelope(envelope(manifest(), RELEASE[1:]), lenient, status=status)


def test_a_revoked_bundle() -> None:
    status = replace(STATUS, revoked_digests=frozenset({read_manifest(manifest()).digest}))

    with pytest.raises(RevokedError):
        verify_envelope(envelope(manifest()), ROOT, status=status)
    assert verify_envelope(envelope(manifest(sequence_number=8)), ROOT, status=status)


def test_a_revoked_bundle_signed_again() -> None:
    """Signatures are no identity: the digest is of the manifest, whoever signs it and however often."""
    status = replace(STATUS, revoked_digests=frozenset({read_manifest(manifest()).digest}))
    signed_again = envelope(manifest(), RELEASE[::-1])

    assert signed_again != envelope(manifest(), RELEASE)
    with pytest.raises(RevokedError):
        verify_envelope(signed_again, ROOT, status=status)


def test_a_bundle_below_the_floor() -> None:
    status = replace(STATUS, floors={CLASS_1: 8})
    verified = verify_envelope(envelope(manifest(sequence_number=7)), ROOT, status=status)

    with pytest.raises(RollbackError):
        status.check(verified.manifest, verified.kids, threshold=2, class_id=CLASS_1)
    status.check(read_manifest(manifest(sequence_number=8)), verified.kids, threshold=2, class_id=CLASS_1)


def test_an_out_of_scope_component() -> None:
    release = replace(ROOT.roles[RoleName.RELEASE], scopes=(Scope(("app",), ()),))
    scoped = replace(ROOT, roles={**ROOT.roles, RoleName.RELEASE: release})

    assert verify_envelope(envelope(manifest((APP,))), scoped)
    with pytest.raises(SignatureError, match="may not sign component rootfs"):
        verify_envelope(envelope(manifest((APP, ROOTFS))), scoped)


# --- the status ---------------------------------------------------------------------------------------------------


def seal_status(status: Status, signers: Sequence[SigningKey] = SIGNERS[RoleName.STATUS]) -> bytes:
    return seal(Kind.STATUS, status.payload(), signers)


def test_an_old_status_that_knows_of_no_revocation() -> None:
    newest = replace(STATUS, version=6, revoked_digests=frozenset({bytes(32)}))

    with pytest.raises(ReplayError):
        open_status(ROOT, seal_status(STATUS), newest=newest)


def test_another_status_under_the_same_version() -> None:
    newest = replace(STATUS, revoked_digests=frozenset({bytes(32)}))

    with pytest.raises(ReplayError):
        open_status(ROOT, seal_status(STATUS), newest=newest)


def test_a_status_frozen_beyond_its_week() -> None:
    with pytest.raises(ExpiredError):
        open_status(ROOT, seal_status(STATUS), now=STATUS.expires)


def test_a_clock_set_back_before_the_status() -> None:
    with pytest.raises(ExpiredError):
        open_status(ROOT, seal_status(STATUS), now=0)


def test_a_version_burnt_by_the_thief_of_the_status_key() -> None:
    stolen, spare = SIGNERS[RoleName.STATUS][0], named_key("status-2")
    burnt = open_status(ROOT, seal_status(replace(STATUS, version=(1 << 63) - 1, floors={CLASS_1: (1 << 63) - 1})))
    two = replace_key(ROOT, stolen.public.kid, spare.public, stolen=True, issued=NOW, expires=ROOT.expires)
    fresh = replace(STATUS, version=1, epoch=2)

    trusted = verify_successor(ROOT, sealed(two, OLD))

    assert open_status(trusted, seal_status(fresh, [spare]), newest=burnt) == fresh
    with pytest.raises(SignatureError):
        open_status(trusted, seal_status(replace(fresh, version=2), [stolen]), newest=burnt)


def test_the_thief_of_the_status_key_cannot_keep_the_root_that_replaces_it_from_being_read() -> None:
    """Everybody's key revoked: releases stop, and rotations go on."""
    status = replace(STATUS, revoked_kids=frozenset(ROOT.keys))
    stolen, spare = SIGNERS[RoleName.STATUS][0], named_key("status-2")
    two = replace_key(ROOT, stolen.public.kid, spare.public, stolen=True, issued=NOW, expires=ROOT.expires)

    known = open_status(ROOT, seal_status(status))

    with pytest.raises(SignatureError):
        verify_envelope(envelope(manifest()), ROOT, status=known)
    assert verify_successor(ROOT, sealed(two, OLD)) == two


def test_a_status_cannot_allow_what_a_signature_must() -> None:
    """Whatever the status says, a release needs its keys."""
    for status in (STATUS, replace(STATUS, floors={CLASS_1: 0})):
        with pytest.raises(SignatureError):
            verify_envelope(envelope(manifest(), ()), ROOT, status=status)


def test_a_status_of_another_fleet() -> None:
    with pytest.raises(AudienceError):
        open_status(ROOT, seal_status(replace(STATUS, fleet=b"another fleet 00")))


def test_a_root_is_no_status_and_a_status_no_root() -> None:
    """Both are maps that begin alike; the signatures say which is which."""
    signed_as_status = seal(Kind.STATUS, ROOT.payload(), OLD)
    signed_as_root = seal(Kind.ROOT, STATUS.payload(), SIGNERS[RoleName.STATUS])

    with pytest.raises(SignatureError):
        open_root(signed_as_status, now=None)
    with pytest.raises(SignatureError):
        open_status(ROOT, signed_as_root)
    with pytest.raises(CodecError):
        open_status(ROOT, encode([encode(ROOT.payload()), []]))
