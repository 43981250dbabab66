"""What the server believes, as a value: documents in, a new belief out, and nothing else changed."""

import hashlib
from dataclasses import replace

import pytest

from firmware_store.documents import Kind, seal
from firmware_store.errors import (
    ExpiredError,
    ReplayError,
    RevokedError,
    RollbackError,
    SignatureError,
    SuccessionError,
    TrustError,
)
from firmware_store.root import RoleName, Root
from firmware_store.root_walk import replace_key
from firmware_store.status import Status
from server.domain.trust import Trust, begin, recall_status
from tests.releases import CLASS_1, RELEASE, ROOT, SIGNERS, envelope, manifest, named_key

NOW = ROOT.issued
DAY_S = 86_400
ENVELOPE = envelope(manifest())
NEW_STATUS_KEY = named_key("new status")


def sealed_root(root: Root) -> bytes:
    return seal(Kind.ROOT, root.payload(), SIGNERS[RoleName.ROOT])


def sealed_status(version: int = 1, *, key: object = None, **members: object) -> bytes:
    given = {"version": version, "issued": NOW, "expires": NOW + 7 * DAY_S, "fleet": ROOT.fleet} | members
    signers = SIGNERS[RoleName.STATUS] if key is None else (key,)
    return seal(Kind.STATUS, Status(**given).payload(), signers)  # type: ignore[arg-type]


BODY = sealed_root(ROOT)
BEGUN = begin(BODY)
FORBIDDING = BEGUN.next_status(sealed_status(3, revoked_digests=frozenset({b"r" * 32})), now=NOW)
FOLLOWED = replace(ROOT, version=2)
WITHOUT_STATUS_KEY = replace_key(
    ROOT, SIGNERS[RoleName.STATUS][0].public.kid, NEW_STATUS_KEY.public, stolen=True, issued=NOW, expires=ROOT.expires
)


def test_it_begins_with_a_root_and_forbids_nothing() -> None:
    assert (BEGUN.root, BEGUN.status, BEGUN.current) == (ROOT, None, None)
    assert BEGUN.check_release(ENVELOPE).kids == {key.public.kid for key in RELEASE}


def test_a_pinned_root_that_has_expired_is_a_root_all_the_same() -> None:
    with pytest.raises(ExpiredError):
        BEGUN.check_time(ROOT.expires)


def test_a_next_root_takes_the_place_of_the_last_one_and_no_other_step_is_taken() -> None:
    following = BEGUN.next_root(sealed_root(FOLLOWED))

    assert following.root == FOLLOWED
    with pytest.raises(SuccessionError):
        BEGUN.next_root(sealed_root(replace(ROOT, version=3)))
    with pytest.raises(ReplayError):
        following.next_root(sealed_root(FOLLOWED))


def test_a_root_that_has_expired_on_the_way_is_walked_through() -> None:
    expired = replace(FOLLOWED, issued=1, expires=2)

    trust = BEGUN.next_root(sealed_root(expired)).next_root(sealed_root(replace(FOLLOWED, version=3)))

    trust.check_time(NOW)


def test_a_status_that_a_new_root_still_opens_stays_in_force() -> None:
    following = FORBIDDING.next_root(sealed_root(FOLLOWED))

    assert following.current == FORBIDDING.document
    following.check_time(NOW)


def test_a_status_that_a_new_root_no_longer_opens_forbids_on_and_is_named_no_more() -> None:
    following = FORBIDDING.next_root(sealed_root(WITHOUT_STATUS_KEY))

    assert following.current is None
    assert following.status == FORBIDDING.status
    with pytest.raises(ExpiredError, match="earlier root"):
        following.check_time(NOW)


def test_the_first_status_of_a_new_epoch_takes_its_place() -> None:
    following = FORBIDDING.next_root(sealed_root(WITHOUT_STATUS_KEY))

    renewed = following.next_status(sealed_status(1, key=NEW_STATUS_KEY, epoch=2), now=NOW)

    assert renewed.current is not None
    assert renewed.current.status.version == 1
    renewed.check_time(NOW)


def test_a_status_is_newer_or_the_same_or_refused() -> None:
    body = sealed_status(3, revoked_digests=frozenset({b"r" * 32}))

    assert FORBIDDING.next_status(body, now=NOW) is FORBIDDING
    assert FORBIDDING.next_status(sealed_status(4), now=NOW).status != FORBIDDING.status
    with pytest.raises(ReplayError):
        FORBIDDING.next_status(sealed_status(2), now=NOW)
    with pytest.raises(ReplayError):
        FORBIDDING.next_status(sealed_status(3), now=NOW)
    with pytest.raises(ExpiredError):
        FORBIDDING.next_status(sealed_status(4), now=NOW + 8 * DAY_S)


def test_a_status_is_named_by_the_digest_of_its_bytes() -> None:
    assert FORBIDDING.current is not None
    assert FORBIDDING.current.digest == hashlib.sha256(FORBIDDING.bodies[1]).digest()
    assert (BEGUN.bodies, FORBIDDING.bodies[0]) == ((BODY, b""), BODY)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"revoked_digests": "own"}, RevokedError),
        ({"revoked_kids": frozenset({RELEASE[0].public.kid})}, SignatureError),
        ({"floors": {CLASS_1: 8}}, RollbackError),
    ],
    ids=["revoked", "a key revoked", "below a floor"],
)
def test_a_release_that_a_status_forbids_is_refused(members: dict[str, object], error: type[TrustError]) -> None:
    if members.get("revoked_digests") == "own":
        members = {"revoked_digests": frozenset({BEGUN.check_release(ENVELOPE).digest})}
    trust = BEGUN.next_status(sealed_status(**members), now=NOW)

    with pytest.raises(error):
        trust.check_release(ENVELOPE)


def test_a_release_at_the_floor_may_be_offered_and_one_below_the_roots_may_not() -> None:
    BEGUN.next_status(sealed_status(floors={CLASS_1: 7}), now=NOW).check_release(ENVELOPE)

    trust = BEGUN.next_root(sealed_root(replace(FOLLOWED, floors={CLASS_1: 8})))
    with pytest.raises(RollbackError, match="root's floor"):
        trust.check_release(ENVELOPE)


def test_a_release_for_a_class_without_a_floor_is_not_below_it() -> None:
    trust = BEGUN.next_root(sealed_root(replace(FOLLOWED, floors={b"c" * 16: 99})))

    trust.check_release(ENVELOPE)


def test_a_status_is_recalled_under_the_root_of_today_or_one_before() -> None:
    today = FORBIDDING.next_root(sealed_root(WITHOUT_STATUS_KEY))
    body = FORBIDDING.bodies[1]

    assert recall_status(BEGUN, (), body) == FORBIDDING
    assert recall_status(Trust(today.root, today.root_body), (ROOT,), body) == today
    with pytest.raises(TrustError, match="no root of this fleet"):
        recall_status(Trust(today.root, today.root_body), (), body)
