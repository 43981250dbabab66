"""The trust root: rules that cannot be enforced, or that would enforce nothing, make no root."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_store.codec import Encodable, encode
from firmware_store.documents import Kind, seal, seal_payload
from firmware_store.errors import (
    CodecError,
    ConfigurationError,
    ConflictError,
    ExpiredError,
    SignatureError,
    TrustError,
    WeakKeyError,
)
from firmware_store.keys import Algorithm, Kid, SigningKey, load_key
from firmware_store.root import ROOT_FILE, Role, RoleName, Root, Scope, init_dev_keys, key_file, open_root

NOW = 1_800_000_000
DAY = 86400
FLEET = b"fleet of test 01"
CLASS_A, CLASS_B = b"A" * 16, b"B" * 16

SIGNING = {
    role: [SigningKey.generate(Algorithm.ED25519) for _ in range(2 if role in (RoleName.ROOT, RoleName.RELEASE) else 1)]
    for role in RoleName
}
ROOT_SIGNERS = SIGNING[RoleName.ROOT]


def kids(role: RoleName) -> tuple[Kid, ...]:
    return tuple(key.public.kid for key in SIGNING[role])


GOOD = Root(
    version=1,
    issued=NOW,
    expires=NOW + 365 * DAY,
    fleet=FLEET,
    keys={key.public.kid: key.public for group in SIGNING.values() for key in group},
    roles={role: Role(len(group), kids(role)) for role, group in SIGNING.items()},
)
SCOPED = replace(
    GOOD,
    roles={
        **GOOD.roles,
        RoleName.RELEASE: Role(
            2, kids(RoleName.RELEASE), scopes=(Scope(("app", "radio"), ()), Scope(("rootfs",), (CLASS_A,)))
        ),
    },
    floors={CLASS_A: 7, CLASS_B: 0},
    dead_kids=frozenset({Kid(b"d" * 16)}),
    dev=True,
)


def sealed(root: Root) -> bytes:
    return seal(Kind.ROOT, root.payload(), ROOT_SIGNERS)


@pytest.mark.parametrize("root", [GOOD, SCOPED], ids=["plain", "with everything"])
def test_a_root_survives_its_document(root: Root) -> None:
    assert root == open_root(sealed(root), now=NOW)


def test_a_root_must_be_signed_by_its_own_root_role() -> None:
    one_of_two = seal(Kind.ROOT, GOOD.payload(), ROOT_SIGNERS[:1])
    same_twice = seal(Kind.ROOT, GOOD.payload(), ROOT_SIGNERS[:1] * 2)
    other_role = seal(Kind.ROOT, GOOD.payload(), SIGNING[RoleName.RELEASE])
    other_kind = seal(Kind.STATUS, GOOD.payload(), ROOT_SIGNERS)

    for document in (one_of_two, same_twice, other_role, other_kind):
        with pytest.raises(SignatureError):
            open_root(document, now=NOW)


def test_a_root_is_refused_once_it_has_expired_and_before_its_time() -> None:
    document = sealed(GOOD)

    assert open_root(document, now=NOW - DAY) == GOOD
    assert open_root(document, now=GOOD.expires - 1) == GOOD
    with pytest.raises(ExpiredError, match="expired"):
        open_root(document, now=GOOD.expires)
    with pytest.raises(ExpiredError, match="future"):
        open_root(document, now=NOW - DAY - 1)


def test_without_a_clock_expiry_is_not_looked_at() -> None:
    assert open_root(sealed(GOOD), now=None) == GOOD


def changed_role(name: RoleName, **changes: Any) -> dict[RoleName, Role]:
    return {**GOOD.roles, name: replace(GOOD.roles[name], **changes)}


STATUS_KID = kids(RoleName.STATUS)[0]
RELEASE_KIDS = kids(RoleName.RELEASE)
INVALID: dict[str, dict[str, Any]] = {
    "version 0": {"version": 0},
    "issued before 1970": {"issued": -1},
    "expired when it was issued": {"expires": NOW},
    "a short fleet id": {"fleet": FLEET[:15]},
    "a key under another id": {"keys": {**GOOD.keys, STATUS_KID: GOOD.keys[RELEASE_KIDS[0]]}},
    "one key under two ids": {"keys": {**GOOD.keys, Kid(b"k" * 16): GOOD.keys[STATUS_KID]}},
    "a floor for no class": {"floors": {b"short": 1}},
    "a floor below 0": {"floors": {CLASS_A: -1}},
    "a role missing": {"roles": {name: role for name, role in GOOD.roles.items() if name != "session"}},
    "threshold 0": {"roles": changed_role(RoleName.STATUS, threshold=0)},
    "threshold -1": {"roles": changed_role(RoleName.RELEASE, threshold=-1)},
    "threshold 1000": {"roles": changed_role(RoleName.RELEASE, threshold=1000)},
    "threshold above what the dead keys leave": {"dead_kids": frozenset(RELEASE_KIDS[:1])},
    "the same key twice in a role": {"roles": changed_role(RoleName.RELEASE, kids=RELEASE_KIDS[:1] * 2)},
    "one key in two roles": {"roles": changed_role(RoleName.SESSION, kids=(STATUS_KID,))},
    "a kid that no key has": {"roles": changed_role(RoleName.STATUS, kids=(Kid(b"k" * 16),))},
    "a key that no role has": {
        "roles": changed_role(RoleName.RELEASE, kids=RELEASE_KIDS[:1], threshold=1),
        "dev": True,
    },
    "epoch 0": {"roles": changed_role(RoleName.DIRECTIVE, epoch=0)},
    "scopes for directives": {"roles": changed_role(RoleName.DIRECTIVE, scopes=(Scope(),))},
    "one release key outside of development": {"roles": changed_role(RoleName.RELEASE, threshold=1)},
    "one root key outside of development": {"roles": changed_role(RoleName.ROOT, threshold=1)},
}


@pytest.mark.parametrize("changes", INVALID.values(), ids=INVALID.keys())
def test_rules_that_would_enforce_nothing_make_no_root(changes: dict[str, Any]) -> None:
    with pytest.raises(TrustError):
        replace(GOOD, **changes)


def test_one_key_is_enough_for_release_in_development() -> None:
    assert replace(GOOD, roles=changed_role(RoleName.RELEASE, threshold=1), dev=True).dev


KEYS, ROLES = 5, 6
GOOD_PAYLOAD: dict[int, Any] = dict(GOOD.payload())
RELEASE = 2
MALFORMED: dict[str, dict[int, Encodable]] = {
    "another format": {**GOOD_PAYLOAD, 0: 2},
    "version true": {**GOOD_PAYLOAD, 1: True},
    "an unknown member": {**GOOD_PAYLOAD, 10: 0},
    "no dev flag": {label: member for label, member in GOOD_PAYLOAD.items() if label != 9},
    "a dev flag of 0": {**GOOD_PAYLOAD, 9: 0},
    "a fleet as text": {**GOOD_PAYLOAD, 4: "fleet of test 01"},
    "keys that are no list": {**GOOD_PAYLOAD, KEYS: {}},
    "keys out of order": {**GOOD_PAYLOAD, KEYS: GOOD_PAYLOAD[KEYS][::-1]},
    "a key listed twice": {**GOOD_PAYLOAD, KEYS: [GOOD_PAYLOAD[KEYS][0], *GOOD_PAYLOAD[KEYS]]},
    "roles that are no map": {**GOOD_PAYLOAD, ROLES: []},
    "a sixth role": {**GOOD_PAYLOAD, ROLES: {**GOOD_PAYLOAD[ROLES], 6: GOOD_PAYLOAD[ROLES][1]}},
    "a role without a threshold": {**GOOD_PAYLOAD, ROLES: {**GOOD_PAYLOAD[ROLES], 2: {2: RELEASE_KIDS, 3: 1}}},
    "a role with no scope in its list": {
        **GOOD_PAYLOAD,
        ROLES: {**GOOD_PAYLOAD[ROLES], RELEASE: {**GOOD_PAYLOAD[ROLES][RELEASE], 4: []}},
    },
    "a scope without classes": {
        **GOOD_PAYLOAD,
        ROLES: {**GOOD_PAYLOAD[ROLES], RELEASE: {**GOOD_PAYLOAD[ROLES][RELEASE], 4: [{1: []}]}},
    },
    "a scope prefix as bytes": {
        **GOOD_PAYLOAD,
        ROLES: {**GOOD_PAYLOAD[ROLES], RELEASE: {**GOOD_PAYLOAD[ROLES][RELEASE], 4: [{1: [b"app"], 2: []}]}},
    },
    "a short kid": {**GOOD_PAYLOAD, 8: [b"short"]},
    "dead kids out of order": {**GOOD_PAYLOAD, 8: [b"b" * 16, b"a" * 16]},
    "a floor as text": {**GOOD_PAYLOAD, 7: {CLASS_A: "7"}},
    "a floor for a class as text": {**GOOD_PAYLOAD, 7: {"A" * 16: 7}},
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_root_with_good_signatures_and_another_shape_is_refused(payload: dict[int, Encodable]) -> None:
    with pytest.raises(CodecError):
        open_root(seal(Kind.ROOT, payload, ROOT_SIGNERS), now=NOW)


def test_a_weak_key_in_a_well_signed_root_is_refused() -> None:
    weak = {1: 1, 3: -19, -1: 6, -2: bytes(32)}

    with pytest.raises(WeakKeyError):
        open_root(seal(Kind.ROOT, {**GOOD_PAYLOAD, KEYS: [*GOOD_PAYLOAD[KEYS][1:], weak]}, ROOT_SIGNERS), now=NOW)


def test_rules_are_checked_in_documents_too() -> None:
    roles = {**GOOD_PAYLOAD[ROLES], RELEASE: {1: 0, 2: RELEASE_KIDS, 3: 1}}

    with pytest.raises(TrustError, match="release role needs 0"):
        open_root(seal(Kind.ROOT, {**GOOD_PAYLOAD, ROLES: roles}, ROOT_SIGNERS), now=NOW)


def test_a_root_of_any_other_bytes_is_refused() -> None:
    for document in (b"", b"\x00", encode([b"", []]), seal_payload(Kind.ROOT, b"", ROOT_SIGNERS)):
        with pytest.raises(CodecError):
            open_root(document, now=NOW)


def test_dead_keys_do_not_count() -> None:
    directive, spare = SIGNING[RoleName.DIRECTIVE][0], SigningKey.generate(Algorithm.ESP256)
    root = replace(
        GOOD,
        keys={**GOOD.keys, spare.public.kid: spare.public},
        roles=changed_role(RoleName.DIRECTIVE, kids=(directive.public.kid, spare.public.kid)),
        dead_kids=frozenset({directive.public.kid}),
    )

    assert {spare.public.kid} == set(root.keys_for(RoleName.DIRECTIVE))
    assert root.unseal(Kind.DIRECTIVE, seal(Kind.DIRECTIVE, {0: 1}, [spare])).value == {0: 1}
    with pytest.raises(SignatureError):
        root.unseal(Kind.DIRECTIVE, seal(Kind.DIRECTIVE, {0: 1}, [directive]))


@pytest.mark.parametrize(
    ("kind", "role"),
    [(Kind.DIRECTIVE, RoleName.DIRECTIVE), (Kind.WELCOME, RoleName.SESSION), (Kind.STATUS, RoleName.STATUS)],
)
def test_each_kind_of_document_is_opened_by_its_own_role_only(kind: Kind, role: RoleName) -> None:
    assert GOOD.unseal(kind, seal(kind, {0: 1}, SIGNING[role])).kids == set(kids(role))
    for other in set(RoleName) - {role}:
        with pytest.raises(SignatureError):
            GOOD.unseal(kind, seal(kind, {0: 1}, SIGNING[other]))


def test_a_document_above_its_limit_is_not_opened() -> None:
    with pytest.raises(CodecError):
        GOOD.unseal(Kind.DIRECTIVE, seal(Kind.DIRECTIVE, {0: bytes(600)}, SIGNING[RoleName.DIRECTIVE]), max_bytes=512)


def test_a_scope_covers_prefixes_and_classes_together() -> None:
    release = SCOPED.roles[RoleName.RELEASE]

    assert release.covers("app", CLASS_B)
    assert release.covers("radio-lte", CLASS_B)
    assert release.covers("rootfs", CLASS_A)
    assert not release.covers("rootfs", CLASS_B)
    assert not release.covers("boot", CLASS_A)
    assert GOOD.roles[RoleName.RELEASE].covers("anything", CLASS_B)


def test_development_keys_are_complete_and_marked(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "keys"

    root = init_dev_keys(directory, fleet=None, now=NOW)

    assert root == open_root((directory / ROOT_FILE).read_bytes(), now=NOW)
    assert root.dev
    names = "directive-1.pem release-1.pem release-2.pem root-1.pem root-2.pem root.cbor session-1.pem status-1.pem"
    assert names.split() == sorted(path.name for path in directory.iterdir())
    for role in RoleName:
        keys = [load_key(key_file(directory, role, n + 1), None).public for n in range(root.roles[role].threshold)]
        assert {key.kid: key for key in keys} == root.keys_for(role)
    assert load_key(key_file(directory, RoleName.RELEASE, 2), None).public.algorithm is Algorithm.ESP256
    assert oct(directory.stat().st_mode & 0o777) == "0o700"


def test_the_fleet_of_development_keys_can_be_chosen(tmp_path: Path) -> None:
    assert init_dev_keys(tmp_path, fleet=FLEET, now=NOW).fleet == FLEET


def test_development_keys_in_use_are_not_overwritten(tmp_path: Path) -> None:
    root = init_dev_keys(tmp_path, fleet=None, now=NOW)

    with pytest.raises(ConflictError, match="not overwritten"):
        init_dev_keys(tmp_path, fleet=None, now=NOW)
    assert root == open_root((tmp_path / ROOT_FILE).read_bytes(), now=NOW)


def test_development_keys_need_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ConfigurationError, match="cannot create"):
        init_dev_keys(tmp_path / "file", fleet=None, now=NOW)
