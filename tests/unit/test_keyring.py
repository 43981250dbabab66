"""Where the online keys come from, and what is signed with them."""

import sys
from pathlib import Path

import pytest

from firmware_store.documents import Kind
from firmware_store.errors import ConfigurationError, SignerUnavailableError
from firmware_store.keys import Algorithm, SigningKey, save_key
from firmware_store.root import RoleName, key_file
from server.services.keyring import Keyring, Pen
from tests.trust_fleet import TrustFleet, own_fleet


@pytest.fixture
def fleet(tmp_path: Path) -> TrustFleet:
    return own_fleet(tmp_path / "keys")


def kids(keyring: Keyring, fleet: TrustFleet) -> frozenset[bytes]:
    return keyring.pen(Kind.DIRECTIVE, RoleName.DIRECTIVE, fleet.root).kids


def test_the_keys_are_those_named_after_their_role(fleet: TrustFleet) -> None:
    fleet.new_key(RoleName.DIRECTIVE, into=fleet.folder)
    (fleet.folder / "directive-3.pub.pem").write_bytes(SigningKey.generate(Algorithm.ED25519).public.to_pem())
    (fleet.folder / "directives.pem").write_text("something else")

    keyring = Keyring.open(fleet.folder)

    assert kids(keyring, fleet) == {fleet.kid(RoleName.DIRECTIVE)}


@pytest.mark.parametrize("role", ["directive", "session"])
def test_a_folder_without_a_key_says_where_to_put_one(fleet: TrustFleet, role: str) -> None:
    (fleet.folder / f"{role}-1.pem").unlink()

    with pytest.raises(ConfigurationError, match=f"no {role} key: put its file, {role}-2.pem"):
        Keyring.open(fleet.folder)


def test_a_key_file_that_others_can_read_is_refused(fleet: TrustFleet) -> None:
    key_file(fleet.folder, RoleName.DIRECTIVE).chmod(0o644)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        Keyring.open(fleet.folder)


def test_a_setting_names_a_file_elsewhere_and_several_one_a_line(fleet: TrustFleet, tmp_path: Path) -> None:
    elsewhere = tmp_path / "a key with spaces.pem"
    key_file(fleet.folder, RoleName.DIRECTIVE).rename(elsewhere)
    waiting = tmp_path / "waiting.pem"
    save_key(waiting, SigningKey.generate(Algorithm.ESP256), None, dev=True)

    keyring = Keyring.open(fleet.folder, directive=f"{elsewhere}\n\n  file:{waiting}\n")

    assert kids(keyring, fleet) == {fleet.kid(RoleName.DIRECTIVE)}
    assert "add it to TIDEGATE_DIRECTIVE_SIGNER" in keyring.where(RoleName.DIRECTIVE)


def test_a_setting_names_a_command(fleet: TrustFleet, tmp_path: Path) -> None:
    public = tmp_path / "directive.pub.pem"
    public.write_bytes(fleet.of(RoleName.DIRECTIVE)[0].public.to_pem())
    key_file(fleet.folder, RoleName.DIRECTIVE).unlink()

    keyring = Keyring.open(fleet.folder, directive=f"command:{public} {sys.executable} -c pass")

    pen = keyring.pen(Kind.DIRECTIVE, RoleName.DIRECTIVE, fleet.root)
    assert pen.blocks
    with pytest.raises(SignerUnavailableError):
        pen.seal({0: 1})


def test_encrypted_keys_open_with_the_passphrase(fleet: TrustFleet, tmp_path: Path) -> None:
    for role in (RoleName.DIRECTIVE, RoleName.SESSION):
        path = key_file(fleet.folder, role)
        path.unlink()
        save_key(path, fleet.of(role)[0], b"correct horse")

    keyring = Keyring.open(fleet.folder, passphrase=b"correct horse")

    assert kids(keyring, fleet) == {fleet.kid(RoleName.DIRECTIVE)}
    with pytest.raises(ConfigurationError):
        Keyring.open(fleet.folder, passphrase=b"wrong horse")


def test_a_threshold_takes_as_many_keys_and_with_fewer_nothing_is_signed(fleet: TrustFleet) -> None:
    from dataclasses import replace

    second = fleet.new_key(RoleName.DIRECTIVE, into=fleet.folder)
    role = fleet.root.roles[RoleName.DIRECTIVE]
    fleet.root = fleet.following(
        keys={**fleet.root.keys, second.public.kid: second.public},
        roles={
            **fleet.root.roles,
            RoleName.DIRECTIVE: replace(role, threshold=2, kids=tuple(sorted([*role.kids, second.public.kid]))),
        },
    )

    assert len(kids(Keyring.open(fleet.folder), fleet)) == 2
    key_file(fleet.folder, RoleName.DIRECTIVE, 2).unlink()
    pen = Keyring.open(fleet.folder).pen(Kind.DIRECTIVE, RoleName.DIRECTIVE, fleet.root)
    assert not pen
    with pytest.raises(SignerUnavailableError):
        pen.seal({0: 1})


def test_a_key_that_was_revoked_or_is_dead_does_not_sign(fleet: TrustFleet) -> None:
    keyring = Keyring.open(fleet.folder)
    kid = fleet.kid(RoleName.DIRECTIVE)

    assert not keyring.pen(Kind.DIRECTIVE, RoleName.DIRECTIVE, fleet.root, revoked=frozenset({kid}))
    successor = fleet.rotated(kid, fleet.new_key(RoleName.DIRECTIVE), stolen=True)
    assert not keyring.pen(Kind.DIRECTIVE, RoleName.DIRECTIVE, successor)


def test_a_key_that_comes_later_is_found_by_looking_again(fleet: TrustFleet) -> None:
    keyring = Keyring.open(fleet.folder)
    new = fleet.new_key(RoleName.DIRECTIVE, into=fleet.folder)
    fleet.root = fleet.rotated(fleet.kid(RoleName.DIRECTIVE), new)
    assert kids(keyring, fleet) == frozenset()

    keyring.load()

    assert kids(keyring, fleet) == {new.public.kid}


def test_an_empty_pen_says_what_to_do() -> None:
    with pytest.raises(SignerUnavailableError, match="Publish a root that names a key of this server"):
        Pen(Kind.WELCOME).seal({0: 1})
