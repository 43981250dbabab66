"""The status document: it can only forbid, never goes back, and lives for a week."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from firmware_store.codec import Encodable
from firmware_store.documents import Kind, seal
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
from firmware_store.keys import Kid
from firmware_store.root import RoleName
from firmware_store.status import Status, open_status, read_status
from firmware_store.suit import read_manifest, verify_envelope
from tests import signed_documents
from tests.releases import APP, CLASS_1, CLASS_2, RELEASE, ROOT, SIGNERS, envelope, manifest, read_vector

NOW = ROOT.issued
DAY = 86400
SIGNER = SIGNERS[RoleName.STATUS]
KIDS = frozenset(key.public.kid for key in RELEASE)
PLAIN = Status(version=3, issued=NOW, expires=NOW + 7 * DAY, fleet=ROOT.fleet)
FULL = replace(
    PLAIN,
    revoked_digests=frozenset({sha256(b"one").digest(), sha256(b"two").digest()}),
    revoked_kids=frozenset({Kid(b"r" * 16), RELEASE[1].public.kid}),
    floors={CLASS_2: 9, CLASS_1: 0},
)
CONTENT = manifest((APP,), (CLASS_1, CLASS_2), sequence_number=7)
RELEASED = read_manifest(CONTENT)


def sealed(status: Status) -> bytes:
    return seal(Kind.STATUS, status.payload(), SIGNER)


@pytest.mark.parametrize("status", [PLAIN, FULL], ids=["plain", "with everything"])
def test_a_status_survives_its_document(status: Status) -> None:
    assert status == open_status(ROOT, sealed(status), now=NOW)
    assert status == read_status(seal(Kind.STATUS, status.payload(), []))


def test_the_golden_status_opens_and_is_sealed_again() -> None:
    vector = read_vector("status")

    assert open_status(ROOT, vector) == signed_documents.STATUS
    assert vector == sealed(signed_documents.STATUS)


@pytest.mark.parametrize("role", [role for role in RoleName if role is not RoleName.STATUS])
def test_only_the_status_role_signs_it(role: RoleName) -> None:
    with pytest.raises(SignatureError):
        open_status(ROOT, seal(Kind.STATUS, PLAIN.payload(), SIGNERS[role]))


def test_another_fleets_status_is_not_ours() -> None:
    with pytest.raises(AudienceError):
        open_status(ROOT, sealed(replace(PLAIN, fleet=b"another fleet 00")))


def test_expiry_is_looked_at_only_when_it_matters() -> None:
    assert open_status(ROOT, sealed(PLAIN)) == PLAIN
    assert open_status(ROOT, sealed(PLAIN), now=PLAIN.expires - 1) == PLAIN
    with pytest.raises(ExpiredError, match="expired"):
        open_status(ROOT, sealed(PLAIN), now=PLAIN.expires)
    with pytest.raises(ExpiredError, match="future"):
        open_status(ROOT, sealed(PLAIN), now=NOW - DAY - 1)


def test_an_older_status_is_a_replay() -> None:
    newest = replace(PLAIN, version=4)

    assert newest == open_status(ROOT, sealed(newest), newest=PLAIN)
    with pytest.raises(ReplayError, match="known already"):
        open_status(ROOT, sealed(PLAIN), newest=newest)


def test_the_same_status_again_changes_nothing_and_another_under_its_version_is_refused() -> None:
    assert open_status(ROOT, sealed(PLAIN), newest=PLAIN) == PLAIN
    with pytest.raises(ReplayError, match="another status"):
        open_status(ROOT, sealed(replace(PLAIN, expires=PLAIN.expires + 1)), newest=PLAIN)


def test_a_new_epoch_starts_over_below_a_version_that_a_thief_has_burnt() -> None:
    burnt = replace(PLAIN, version=(1 << 63) - 1)
    fresh = replace(PLAIN, version=1, epoch=2)
    root = replace(ROOT, roles={**ROOT.roles, RoleName.STATUS: replace(ROOT.roles[RoleName.STATUS], epoch=2)})

    assert fresh == open_status(root, sealed(fresh), newest=burnt)
    with pytest.raises(ReplayError, match="epoch"):
        open_status(root, sealed(burnt), newest=fresh)
    with pytest.raises(ReplayError, match="epoch"):
        open_status(ROOT, sealed(fresh))
    with pytest.raises(ReplayError, match="known already"):
        open_status(ROOT, sealed(PLAIN), newest=fresh)


INVALID: dict[str, dict[str, Any]] = {
    "version 0": {"version": 0},
    "epoch 0": {"epoch": 0},
    "issued before 1970": {"issued": -1},
    "expired when it was issued": {"expires": NOW},
    "a short fleet id": {"fleet": b"short"},
    "a digest of 31 bytes": {"revoked_digests": frozenset({bytes(31)})},
    "a kid of 15 bytes": {"revoked_kids": frozenset({Kid(bytes(15))})},
    "a floor for no class": {"floors": {b"short": 1}},
    "a floor below 0": {"floors": {CLASS_1: -1}},
}


@pytest.mark.parametrize("changes", INVALID.values(), ids=INVALID.keys())
def test_a_status_that_cannot_be_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(TrustError):
        replace(PLAIN, **changes)


GOOD: dict[int, Any] = dict(FULL.payload())
MALFORMED: dict[str, dict[int, Encodable]] = {
    "another format": {**GOOD, 0: 2},
    "version true": {**GOOD, 1: True},
    "an unknown member": {**GOOD, 9: 0},
    "no floors": {label: member for label, member in GOOD.items() if label != 8},
    "a fleet as text": {**GOOD, 4: "fleet of vectors"},
    "digests out of order": {**GOOD, 6: GOOD[6][::-1]},
    "a digest listed twice": {**GOOD, 6: [GOOD[6][0], *GOOD[6]]},
    "digests that are no list": {**GOOD, 6: {}},
    "a digest as text": {**GOOD, 6: ["x" * 32]},
    "kids out of order": {**GOOD, 7: GOOD[7][::-1]},
    "a short kid": {**GOOD, 7: [b"short"]},
    "floors that are no map": {**GOOD, 8: []},
    "a floor as text": {**GOOD, 8: {CLASS_1: "7"}},
    "a floor for a class as text": {**GOOD, 8: {"x" * 16: 7}},
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_status_of_another_shape_is_refused_whoever_signed_it(payload: dict[int, Encodable]) -> None:
    with pytest.raises(CodecError):
        open_status(ROOT, seal(Kind.STATUS, payload, SIGNER))


# --- what it forbids ----------------------------------------------------------------------------------------------


def test_what_it_does_not_name_it_allows() -> None:
    FULL.check(RELEASED, KIDS, threshold=1, class_id=CLASS_1)
    PLAIN.check(RELEASED, KIDS, threshold=2)

    assert verify_envelope(envelope(CONTENT), ROOT, status=PLAIN) == verify_envelope(envelope(CONTENT), ROOT)


def test_a_revoked_release_is_refused() -> None:
    status = replace(PLAIN, revoked_digests=frozenset({RELEASED.digest}))

    with pytest.raises(RevokedError):
        status.check(RELEASED, KIDS, threshold=1)
    with pytest.raises(RevokedError):
        verify_envelope(envelope(CONTENT), ROOT, status=status)


def test_a_revoked_key_does_not_count() -> None:
    status = replace(PLAIN, revoked_kids=frozenset({RELEASE[1].public.kid}))

    status.check(RELEASED, KIDS, threshold=1)
    with pytest.raises(SignatureError, match="1 signatures that were not revoked, where 2"):
        status.check(RELEASED, KIDS, threshold=2)
    with pytest.raises(SignatureError, match="1 of our keys where 2"):
        verify_envelope(envelope(CONTENT), ROOT, status=status)


def test_only_the_keys_that_are_left_are_named_as_signers() -> None:
    release = replace(ROOT.roles[RoleName.RELEASE], threshold=1)
    root = replace(ROOT, roles={**ROOT.roles, RoleName.RELEASE: release})
    status = replace(PLAIN, revoked_kids=frozenset({RELEASE[1].public.kid}))

    assert verify_envelope(envelope(CONTENT), root, status=status).kids == {RELEASE[0].public.kid}


def test_a_release_below_the_floor_of_a_class_is_refused_there() -> None:
    status = replace(PLAIN, floors={CLASS_1: 7, CLASS_2: 8})

    status.check(RELEASED, KIDS, threshold=2, class_id=CLASS_1)
    with pytest.raises(RollbackError, match="release 7 is below the floor, which is 8"):
        status.check(RELEASED, KIDS, threshold=2, class_id=CLASS_2)
    with pytest.raises(RollbackError):
        status.check(RELEASED, KIDS, threshold=2)


def test_a_revoked_directive_key_does_not_count_either() -> None:
    signers = SIGNERS[RoleName.DIRECTIVE]
    document = seal(Kind.DIRECTIVE, {0: 1}, signers)

    assert ROOT.unseal(Kind.DIRECTIVE, document, revoked=FULL.revoked_kids).value == {0: 1}
    with pytest.raises(SignatureError):
        ROOT.unseal(Kind.DIRECTIVE, document, revoked=frozenset({signers[0].public.kid}))
