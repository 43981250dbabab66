"""From root to root: one step at a time, signed by both sides, and nothing that protects ever shrinks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from firmware_store.documents import Kind, seal
from firmware_store.errors import (
    AudienceError,
    CodecError,
    ConflictError,
    ExpiredError,
    NotFoundError,
    ReplayError,
    SignatureError,
    SuccessionError,
    TrustError,
)
from firmware_store.keys import Kid, SigningKey
from firmware_store.root import Role, RoleName, Root
from firmware_store.root_walk import check_succession, replace_key, verify_successor, walk
from tests.releases import CLASS_1, CLASS_2, ROOT, SIGNERS, named_key

NOW = ROOT.issued
YEAR = 365 * 86400
OLD = SIGNERS[RoleName.ROOT]
ROOT_3 = named_key("root-3")
DEAD = Kid(b"d" * 16)
TRUSTED = replace(
    ROOT,
    version=4,
    floors={CLASS_1: 7},
    dead_kids=frozenset({DEAD}),
    roles={name: replace(role, epoch=3) for name, role in ROOT.roles.items()},
)
NEXT = replace(TRUSTED, version=5, issued=NOW + 1, expires=NOW + YEAR)


def rotated(trusted: Root, old: SigningKey, new: SigningKey, *, stolen: bool = False) -> Root:
    return replace_key(
        trusted, old.public.kid, new.public, stolen=stolen, issued=trusted.issued + 1, expires=trusted.expires + 1
    )


def sealed(root: Root, signers: Sequence[SigningKey] = OLD) -> bytes:
    return seal(Kind.ROOT, root.payload(), signers)


def with_role(root: Root, name: RoleName, **changes: Any) -> dict[RoleName, Role]:
    return {**root.roles, name: replace(root.roles[name], **changes)}


def test_the_same_keys_may_sign_the_next_root() -> None:
    assert verify_successor(TRUSTED, sealed(NEXT), now=NOW + 1) == NEXT


def test_a_key_is_replaced_by_the_thresholds_of_both_roots() -> None:
    successor = rotated(TRUSTED, OLD[0], ROOT_3)

    assert successor == verify_successor(TRUSTED, sealed(successor, [*OLD, ROOT_3]))
    assert set(successor.keys_for(RoleName.ROOT)) == {OLD[1].public.kid, ROOT_3.public.kid}
    assert (successor.version, successor.dead_kids) == (5, TRUSTED.dead_kids)


def test_a_stolen_key_is_dead_and_its_role_starts_a_new_epoch() -> None:
    thief, honest = SIGNERS[RoleName.DIRECTIVE][0], named_key("directive-2")

    successor = rotated(TRUSTED, thief, honest, stolen=True)

    assert successor == verify_successor(TRUSTED, sealed(successor))
    assert successor.dead_kids == {DEAD, thief.public.kid}
    assert {name: role.epoch for name, role in successor.roles.items()} == {
        **dict.fromkeys(RoleName, 3),
        "directive": 4,
    }
    successor.unseal(Kind.DIRECTIVE, seal(Kind.DIRECTIVE, {0: 1}, [honest]))
    with pytest.raises(SignatureError):
        successor.unseal(Kind.DIRECTIVE, seal(Kind.DIRECTIVE, {0: 1}, [thief]))


def test_a_stolen_root_key_can_still_be_one_of_the_two_that_replace_it() -> None:
    successor = rotated(TRUSTED, OLD[0], ROOT_3, stolen=True)

    assert successor == verify_successor(TRUSTED, sealed(successor, [*OLD, ROOT_3]))


def test_a_key_that_is_replaced_must_be_there_and_its_successor_be_new() -> None:
    dead = replace(TRUSTED, dead_kids=frozenset({ROOT_3.public.kid}))

    with pytest.raises(NotFoundError):
        rotated(TRUSTED, ROOT_3, named_key("root-4"))
    with pytest.raises(ConflictError):
        rotated(TRUSTED, OLD[0], OLD[1])
    with pytest.raises(ConflictError):
        rotated(dead, OLD[0], ROOT_3)


def test_protection_may_grow() -> None:
    grown = replace(
        NEXT,
        floors={CLASS_1: 8, CLASS_2: 1},
        dead_kids=NEXT.dead_kids | {Kid(b"e" * 16)},
        roles=with_role(NEXT, RoleName.STATUS, epoch=9),
    )

    assert grown == verify_successor(TRUSTED, sealed(grown))


def test_a_floor_of_nothing_need_not_be_repeated() -> None:
    check_succession(replace(TRUSTED, floors={CLASS_1: 7, CLASS_2: 0}), NEXT)


REFUSED: dict[str, tuple[dict[str, Any], type[TrustError]]] = {
    "the same version": ({"version": 4}, ReplayError),
    "a lower version": ({"version": 3}, ReplayError),
    "a version that skips one": ({"version": 6}, SuccessionError),
    "the highest version of all": ({"version": (1 << 63) - 1}, SuccessionError),
    "another fleet": ({"fleet": b"another fleet 00"}, AudienceError),
    "an epoch that falls": ({"roles": with_role(NEXT, RoleName.SESSION, epoch=2)}, SuccessionError),
    "a floor that falls": ({"floors": {CLASS_1: 6}}, SuccessionError),
    "a floor that is gone": ({"floors": {CLASS_2: 7}}, SuccessionError),
    "a dead key that lives again": ({"dead_kids": frozenset()}, SuccessionError),
    "another dead key in its place": ({"dead_kids": frozenset({Kid(b"e" * 16)})}, SuccessionError),
    "development keys that turn into others": ({"dev": False}, SuccessionError),
}


@pytest.mark.parametrize(("changes", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_a_step_that_both_sides_signed_is_refused_where_it_breaks_a_rule(
    changes: dict[str, Any], error: type[TrustError]
) -> None:
    with pytest.raises(error) as caught:
        verify_successor(TRUSTED, sealed(replace(NEXT, **changes)))
    assert type(caught.value) is error


def test_others_do_not_become_development_keys() -> None:
    with pytest.raises(SuccessionError):
        check_succession(replace(TRUSTED, dev=False), NEXT)


def test_only_the_end_of_a_walk_must_not_have_expired() -> None:
    assert verify_successor(TRUSTED, sealed(NEXT)) == NEXT
    with pytest.raises(ExpiredError):
        verify_successor(TRUSTED, sealed(NEXT), now=NEXT.expires)


def steps(count: int) -> tuple[list[Root], list[bytes]]:
    """Rotate a root key at each step, as a fleet does over the years."""
    roots, documents, keys = [ROOT], [], list(OLD)
    for number in range(count):
        keys.append(named_key(f"root-{number + 3}"))
        roots.append(rotated(roots[-1], keys[-3], keys[-1]))
        documents.append(sealed(roots[-1], keys[-3:]))
    return roots[1:], documents


def test_a_device_that_was_away_walks_through_every_root() -> None:
    roots, documents = steps(4)

    assert roots == list(walk(ROOT, documents))
    assert OLD[0].public.kid not in roots[-1].keys


@pytest.mark.parametrize("bad", [b"", b"\x00", sealed(NEXT)], ids=["nothing", "a byte", "a root out of turn"])
def test_a_bad_root_on_the_way_takes_none_of_the_good_ones_back(bad: bytes) -> None:
    roots, documents = steps(3)
    kept = [ROOT]

    with pytest.raises((TrustError, CodecError)):
        kept.extend(walk(ROOT, [*documents[:2], bad, documents[2]]))

    assert kept == [ROOT, *roots[:2]]
    assert verify_successor(kept[-1], documents[2]) == roots[2]


def test_a_walk_of_no_steps_goes_nowhere() -> None:
    assert list(walk(ROOT, [])) == []
