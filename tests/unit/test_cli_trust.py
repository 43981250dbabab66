"""The commands of people with air-gapped keys: roots, status documents and detached signatures, from file to file."""

import io
import shlex
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_store.bundle import read_envelope
from firmware_store.documents import Kind, seal
from firmware_store.errors import (
    AudienceError,
    CodecError,
    ConfigurationError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    ReplayError,
    RevokedError,
    RollbackError,
    SignatureError,
    SuccessionError,
    TrustError,
)
from firmware_store.keys import Algorithm, load_key, load_public_key
from firmware_store.root import RoleName, Root, Scope, open_root, read_root
from firmware_store.root_walk import verify_successor
from firmware_store.status import open_status, read_status
from firmware_store.suit import class_id, open_envelope, vendor_id, verify_envelope
from server.cli.bundle import app as bundle_app
from server.cli.keys import app as keys_app
from server.cli.root import app as root_app
from server.cli.status import app as status_app
from tests.releases import read_vector

APPS = {"keys": keys_app, "bundle": bundle_app, "root": root_app, "status": status_app}
ROLES = ("root-1", "root-2", "release-1", "release-2", "status-1", "directive-1", "session-1")
GAUGE = class_id(vendor_id("example.com"), "gauge|r1")
Run = Callable[..., str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in the folder of the test; returns what it printed on standard output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def command(text: str, *, code: int | None = None) -> str:
        name, *tokens = shlex.split(text)
        result: Any = APPS[name](tokens, result_action="return_value")
        assert result == code
        return capsys.readouterr().out

    return command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set of encrypted keys for all tests: making a key costs a tenth of a second."""
    directory = tmp_path_factory.mktemp("keys")
    (directory / "pw").write_text("ebb and flow\n")
    for name in ROLES:
        role, algorithm = name.split("-")[0], "esp256" if name == "release-2" else "ed25519"
        files = ["--passphrase-file", str(directory / "pw"), "--output", str(directory / f"{name}.pem")]
        keys_app(["new", role, "--algorithm", algorithm, *files], result_action="return_value")
    return directory


@pytest.fixture
def folder(made: Path, tmp_path: Path, run: Run) -> Path:
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


PUBLIC = " ".join(f"--key {name.split('-')[0]}={name}.pub.pem" for name in ROLES)
WITH = "--passphrase-file pw --yes"


@pytest.fixture
def root(folder: Path, run: Run) -> Root:
    run(f"root new -o root.cbor {PUBLIC}")
    run(f"root sign root.cbor --key root-1.pem root-2.pem {WITH}")
    return open_root((folder / "root.cbor").read_bytes(), now=None)


@pytest.fixture
def bundle(folder: Path, root: Root, run: Run) -> Path:
    (folder / "a.bin").write_bytes(b"app in a" * 5000)
    (folder / "b.bin").write_bytes(b"app in b" * 6000)
    (folder / "radio.bin").write_bytes(b"radio" * 9000)
    run(
        "bundle build --component app@b=b.bin app@a=a.bin --component radio=radio.bin --vendor example.com "
        "--class 'gauge|r1' --version 1.1.0 --sequence 4 --description quieter -o r.tgb"
    )
    return folder / "r.tgb"


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_new_key_is_encrypted_and_its_public_half_is_not(folder: Path, made: Path, run: Run) -> None:
    assert stat.S_IMODE((made / "root-1.pem").stat().st_mode) == 0o600
    assert load_key(made / "release-2.pem", b"ebb and flow").public == load_public_key(made / "release-2.pub.pem")
    assert load_public_key(made / "release-2.pub.pem").algorithm is Algorithm.ESP256
    with pytest.raises(ConfigurationError, match="needs a passphrase"):
        load_key(made / "root-1.pem", None)


def test_a_new_key_has_a_name_of_its_own_where_none_is_given(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("ebb")

    public = Path(run("keys new status --passphrase-file pw").strip())

    kid = load_public_key(tmp_path / public).kid.hex()
    assert public.name == f"status-{kid[:8]}.pub.pem"
    assert load_key(tmp_path / f"status-{kid[:8]}.pem", b"ebb").public.kid.hex() == kid


def test_no_key_is_overwritten_and_none_is_written_without_a_passphrase(folder: Path, run: Run) -> None:
    (folder / "empty").write_text("\n")
    (folder / "x.pub.pem").write_text("mine")

    with pytest.raises(ConflictError):
        run("keys new root -o root-1.pem --passphrase-file pw")
    with pytest.raises(ConflictError):
        run("keys new root -o x.pem --passphrase-file pw")
    with pytest.raises(ConfigurationError, match="not empty"):
        run("keys new root -o y.pem --passphrase-file empty")
    with pytest.raises(ConfigurationError, match="--passphrase-file"):
        run("keys new root -o y.pem")
    assert not (folder / "x.pem").exists()
    assert not (folder / "y.pem").exists()


def test_a_person_types_a_new_passphrase_twice(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["ebb", "ebb", "ebb", "flow"])
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("server.cli.ask.getpass", lambda prompt: next(typed))

    run("keys new root -o good.pem")
    with pytest.raises(ConfigurationError, match="not the same"):
        run("keys new root -o bad.pem")

    assert load_key(tmp_path / "good.pem", b"ebb")
    assert not (tmp_path / "bad.pem").exists()


def test_show_prints_the_same_of_both_halves_but_which_one_it_is(folder: Path, run: Run) -> None:
    public, private = run("keys show release-2.pub.pem"), run("keys show release-2.pem --passphrase-file pw")

    assert load_public_key(folder / "release-2.pub.pem").kid.hex() in public
    assert "ESP256" in public
    assert public.replace("file             public", "") == private.replace(
        "file             private: keep it secret", ""
    )


# --- root ---------------------------------------------------------------------------------------------------------


def test_a_root_is_made_signed_by_two_people_and_verified(folder: Path, run: Run) -> None:
    run(f"root new -o root.cbor {PUBLIC} --fleet {'ab' * 16} --scope app,radio@ --floor 'example.com:gauge|r1=3'")
    with pytest.raises(CodecError):
        run("root verify root.cbor")

    run(f"root sign root.cbor --key root-1.pem {WITH}")
    with pytest.raises(SignatureError, match="1 of our keys where 2"):
        run("root verify root.cbor")
    assert "1 of 2 signatures by the root role of root 1, 1 missing" in run("root show root.cbor")
    run(f"root sign root.cbor --key root-2.pem {WITH}")

    assert f"root 1 of fleet {'ab' * 16}" in run("root verify root.cbor")
    root = open_root((folder / "root.cbor").read_bytes(), now=None)
    assert root.floors == {GAUGE: 3}
    assert root.roles[RoleName.RELEASE].scopes == (Scope(("app", "radio"), ()),)
    assert {name: root.roles[name].threshold for name in RoleName} == dict(zip(RoleName, (2, 2, 1, 1, 1), strict=True))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--key root=root-1.pub.pem", TrustError),
        (f"{PUBLIC} --threshold release=1", TrustError),
        (f"{PUBLIC} --threshold release=3", TrustError),
        (f"{PUBLIC} --threshold release=two", InvalidInputError),
        (f"{PUBLIC} --threshold captain=1", InvalidInputError),
        (f"{PUBLIC} --key session=status-1.pub.pem", TrustError),
        (f"{PUBLIC} --key session", InvalidInputError),
        (f"{PUBLIC} --key session=root-1.pem", ConfigurationError),
        (f"{PUBLIC} --key session=absent.pem", ConfigurationError),
        (f"{PUBLIC} --fleet abc", InvalidInputError),
        (f"{PUBLIC} --floor gauge=3", InvalidInputError),
        (f"{PUBLIC} --scope app@gauge", InvalidInputError),
        (f"{PUBLIC} --stolen abc", InvalidInputError),
        (f"{PUBLIC} --days 0", TrustError),
    ],
)
def test_a_root_that_could_not_be_used_is_not_written(
    folder: Path, run: Run, arguments: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(f"root new -o root.cbor {arguments}")
    assert not (folder / "root.cbor").exists()


def test_development_roots_need_one_key_of_each(folder: Path, run: Run) -> None:
    run(f"root new -o root.cbor {PUBLIC} --dev")

    root = read_root((folder / "root.cbor").read_bytes())
    assert root.dev
    assert root.roles[RoleName.ROOT].threshold == 1
    assert "DEVELOPMENT KEYS" in run("root show root.cbor")


def test_a_stolen_key_is_rotated_out_and_both_roots_sign(folder: Path, root: Root, run: Run) -> None:
    thief = root.roles[RoleName.DIRECTIVE].kids[0].hex()
    run("keys new directive -o directive-2.pem --passphrase-file pw")

    run(f"keys rotate root.cbor --replace {thief} --by directive-2.pub.pem --stolen -o next.cbor")
    changes = run("root show next.cbor --after root.cbor")
    run(f"root sign next.cbor --after root.cbor --key root-1.pem root-2.pem {WITH}")

    assert "root 2 of fleet" in run("root verify root.cbor next.cbor")
    following = verify_successor(root, (folder / "next.cbor").read_bytes())
    assert following.roles[RoleName.DIRECTIVE].epoch == 2
    assert f"dead key         {thief}  (new)" in changes
    assert f"no longer        key {thief} of the directive role" in changes
    assert "0 of 2 signatures by the root role of root 1, 2 missing" in changes


def test_a_root_key_is_rotated_by_the_old_and_the_new_ones(folder: Path, root: Root, run: Run) -> None:
    old = load_public_key(folder / "root-1.pub.pem").kid.hex()
    run("keys new root -o root-3.pem --passphrase-file pw")
    run(f"keys rotate root.cbor --replace {old} --by root-3.pub.pem -o next.cbor")

    run(f"root sign next.cbor --after root.cbor --key root-2.pem root-3.pem {WITH}")
    with pytest.raises(SignatureError):
        run("root verify root.cbor next.cbor")
    run(f"root sign next.cbor --after root.cbor --key root-1.pem {WITH}")

    assert "root 2 of fleet" in run("root verify root.cbor next.cbor")


def test_the_next_root_keeps_what_is_not_said_and_takes_what_is(folder: Path, root: Root, run: Run) -> None:
    lost = root.roles[RoleName.STATUS].kids[0].hex()
    run("keys new status -o status-2.pem --passphrase-file pw")

    run(
        f"root new --after root.cbor -o next.cbor --key status=status-2.pub.pem --stolen {lost} --floor {GAUGE.hex()}=5"
    )

    following = read_root((folder / "next.cbor").read_bytes())
    assert (following.version, following.fleet, following.floors) == (2, root.fleet, {GAUGE: 5})
    assert following.roles[RoleName.RELEASE] == root.roles[RoleName.RELEASE]
    assert following.roles[RoleName.STATUS].epoch == 2
    assert [kid.hex() for kid in following.dead_kids] == [lost]
    shown = run("root show next.cbor --after root.cbor")
    assert f"floor            5 for class {class_uuid()}  (new)" in shown


def class_uuid() -> str:
    from uuid import UUID

    return str(UUID(bytes=GAUGE))


def test_the_next_root_cannot_take_protection_away(folder: Path, root: Root, run: Run) -> None:
    run(f"root new --after root.cbor -o two.cbor --floor {GAUGE.hex()}=5")
    run(f"root sign two.cbor --after root.cbor --key root-1.pem root-2.pem {WITH}")

    with pytest.raises(SuccessionError):
        run(f"root new --after two.cbor -o three.cbor --floor {GAUGE.hex()}=4")
    with pytest.raises(InvalidInputError):
        run("root new --after two.cbor -o three.cbor --dev")
    with pytest.raises(InvalidInputError):
        run(f"root new --after two.cbor -o three.cbor --fleet {'ab' * 16}")
    with pytest.raises(ConflictError):
        run("root new --after two.cbor -o root.cbor")
    assert not (folder / "three.cbor").exists()


def test_whoever_signs_a_root_sees_what_it_changes_and_does_not_sign_in_vain(
    folder: Path, root: Root, run: Run
) -> None:
    run("root new --after root.cbor -o next.cbor")
    before = (folder / "next.cbor").read_bytes()

    with pytest.raises(InvalidInputError, match="--after"):
        run(f"root sign next.cbor --key root-1.pem {WITH}")
    with pytest.raises(ForbiddenError, match="would not count"):
        run(f"root sign next.cbor --after root.cbor --key release-1.pem {WITH}")
    with pytest.raises(ReplayError):
        run(f"root sign root.cbor --after root.cbor --key root-1.pem {WITH}")
    with pytest.raises(ConflictError):
        run(f"root sign next.cbor --after root.cbor --key root-1.pem root-1.pem {WITH}")
    with pytest.raises(ConfigurationError, match="--yes"):
        run("root sign next.cbor --after root.cbor --key root-1.pem --passphrase-file pw")
    assert (folder / "next.cbor").read_bytes() == before


def test_a_key_that_no_role_has_cannot_be_rotated(folder: Path, root: Root, run: Run) -> None:
    with pytest.raises(NotFoundError):
        run(f"keys rotate root.cbor --replace {'00' * 16} --by status-1.pub.pem -o next.cbor")
    with pytest.raises(InvalidInputError):
        run("keys rotate root.cbor --replace root-1 --by status-1.pub.pem -o next.cbor")


def test_an_expired_root_does_not_verify(folder: Path, root: Root, run: Run) -> None:
    old = replace(root, issued=1_000_000_000, expires=1_000_000_001)
    signers = [load_key(folder / f"root-{number}.pem", b"ebb and flow") for number in (1, 2)]
    (folder / "old.cbor").write_bytes(seal(Kind.ROOT, old.payload(), signers))

    with pytest.raises(ExpiredError):
        run("root verify old.cbor")


def test_a_key_may_be_behind_a_command(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    program = (
        "import sys; from pathlib import Path; from firmware_store.keys import load_key; "
        "key = load_key(Path(sys.argv[1]), b'ebb and flow'); "
        "sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read()))"
    )
    spec = shlex.join(["root-1.pub.pem", sys.executable, "-c", program, "root-1.pem"])
    run(f"root new -o root.cbor {PUBLIC}")

    run(f"root sign root.cbor --key {shlex.quote('command:' + spec)} root-2.pem {WITH}")

    run("root verify root.cbor")


# --- status -------------------------------------------------------------------------------------------------------


def sign_status(run: Run, name: str, further: str = "") -> None:
    run(f"status sign {name} --root root.cbor --key status-1.pem {WITH} {further}")


def test_a_release_is_revoked_from_build_to_refusal(folder: Path, root: Root, bundle: Path, run: Run) -> None:
    thief = load_public_key(folder / "release-1.pub.pem").kid
    digest = open_envelope(read_envelope(bundle)).digest
    run("status new --root root.cbor -o one.cbor")
    sign_status(run, "one.cbor")

    run(f"status revoke one.cbor --bundle r.tgb --digest {'cd' * 32} --kid {thief.hex()} -o two.cbor")
    sign_status(run, "two.cbor", "--after one.cbor")

    first = open_status(root, (folder / "one.cbor").read_bytes())
    second = open_status(root, (folder / "two.cbor").read_bytes(), newest=first)
    assert second.version == 2
    assert second.revoked_digests == {digest, b"\xcd" * 32}
    assert second.revoked_kids == {thief}
    shown = run("status show two.cbor --root root.cbor --after one.cbor", code=0)
    assert f"revoked key      {thief.hex()}  (new)" in shown
    assert "status           ok" in shown


def test_floors_only_rise(folder: Path, root: Root, run: Run) -> None:
    run("status new --root root.cbor -o one.cbor")

    run("status floor one.cbor --at 'example.com:gauge|r1=4' -o two.cbor")
    for number in (4, 3):
        with pytest.raises(InvalidInputError, match="only rises"):
            run(f"status floor two.cbor --at {GAUGE.hex()}={number} -o three.cbor")

    assert read_status((folder / "two.cbor").read_bytes()).floors == {GAUGE: 4}
    assert "floor            4 for class" in run("status show two.cbor", code=0)


def test_a_status_is_renewed_with_what_it_says(folder: Path, root: Root, run: Run) -> None:
    run("status new --root root.cbor -o one.cbor")
    run(f"status revoke one.cbor --digest {'cd' * 32} -o two.cbor")

    run("status new --root root.cbor --after two.cbor --days 3 -o three.cbor")

    renewed = read_status((folder / "three.cbor").read_bytes())
    assert (renewed.version, renewed.revoked_digests) == (3, {b"\xcd" * 32})
    assert renewed.expires - renewed.issued == 3 * 86_400


def test_a_status_goes_on_in_the_epoch_of_a_new_root(folder: Path, root: Root, run: Run) -> None:
    lost = root.roles[RoleName.STATUS].kids[0].hex()
    run("keys new status -o status-2.pem --passphrase-file pw")
    run("status new --root root.cbor -o one.cbor")
    run(f"status revoke one.cbor --digest {'cd' * 32} -o two.cbor")
    run(f"keys rotate root.cbor --replace {lost} --by status-2.pub.pem --stolen -o next.cbor")
    run(f"root sign next.cbor --after root.cbor --key root-1.pem root-2.pem {WITH}")

    run("status new --root next.cbor --after two.cbor -o three.cbor")

    fresh = read_status((folder / "three.cbor").read_bytes())
    assert (fresh.epoch, fresh.version, fresh.revoked_digests) == (2, 1, {b"\xcd" * 32})
    with pytest.raises(ReplayError, match="epoch"):
        run(f"status sign two.cbor --root next.cbor --key status-2.pem {WITH}")


def test_a_status_with_nothing_new_is_not_written(folder: Path, root: Root, run: Run) -> None:
    run("status new --root root.cbor -o one.cbor")

    with pytest.raises(InvalidInputError, match="nothing new"):
        run("status revoke one.cbor -o two.cbor")
    with pytest.raises(InvalidInputError, match="64 hexadecimal digits"):
        run("status revoke one.cbor --digest abc -o two.cbor")
    assert not (folder / "two.cbor").exists()


def test_only_a_status_key_signs_a_status_and_only_of_its_fleet(folder: Path, root: Root, run: Run) -> None:
    run("status new --root root.cbor -o one.cbor")
    status = read_status((folder / "one.cbor").read_bytes())
    other = replace(status, fleet=b"another fleet 00")
    (folder / "other.cbor").write_bytes(seal(Kind.STATUS, other.payload(), []))

    with pytest.raises(ForbiddenError):
        run(f"status sign one.cbor --root root.cbor --key directive-1.pem {WITH}")
    with pytest.raises(AudienceError):
        run(f"status sign other.cbor --root root.cbor --key status-1.pem {WITH}")
    shown = run("status show one.cbor --root root.cbor", code=1)
    assert "status           NO" in shown
    assert "0 of 1 signatures by the status role of root 1, 1 missing" in shown


def test_what_a_status_no_longer_says_stands_out(folder: Path, root: Root, run: Run) -> None:
    run("status new --root root.cbor -o empty.cbor")
    run(f"status revoke empty.cbor --digest {'cd' * 32} --kid {'ef' * 16} -o one.cbor")
    run(f"status floor one.cbor --at {GAUGE.hex()}=4 -o two.cbor")

    shown = run("status show empty.cbor --after two.cbor", code=0)

    assert f"NO LONGER        revoked: release {'cd' * 32}" in shown
    assert f"NO LONGER        revoked: key {'ef' * 16}" in shown
    assert f"LOWER FLOOR      for class {class_uuid()}, which was 4" in shown


# --- detached signatures, and what show says ----------------------------------------------------------------------


def test_keys_that_never_see_the_bundle_sign_it(folder: Path, root: Root, bundle: Path, run: Run) -> None:
    digest = open_envelope(read_envelope(bundle)).digest.hex()
    before = bundle.read_bytes()

    run("bundle envelope r.tgb -o r.suit")
    run(f"bundle sign r.suit --detached one.sig --key release-1.pem {WITH}")
    run(f"bundle sign --digest {digest} --detached two.sig --key release-2.pem {WITH}")
    assert bundle.read_bytes() == before
    kids = run("bundle attach r.tgb --signature one.sig two.sig --root root.cbor").split()

    assert verify_envelope(read_envelope(bundle), root).kids == {bytes.fromhex(kid) for kid in kids}
    assert "2 components in" in run("bundle verify r.tgb --root root.cbor")


def test_without_a_root_a_signature_is_attached_as_it_is(folder: Path, bundle: Path, run: Run) -> None:
    run(f"bundle sign r.tgb --detached x.sig --key directive-1.pem {WITH}")
    with pytest.raises(SignatureError):
        run("bundle attach r.tgb --signature x.sig --root root.cbor")

    run("bundle attach r.tgb --signature x.sig")

    assert "directive key, holds" in run("bundle show r.tgb --root root.cbor", code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "r.tgb --digest " + "ab" * 32,
        "--digest " + "ab" * 32,
        "--digest abc --detached x.sig",
        "r.tgb --detached x.sig --key release-2.pem",
    ],
    ids=["nothing", "both", "nowhere to go", "no digest", "two keys in one file"],
)
def test_a_detached_signature_is_by_one_key_for_one_thing(folder: Path, bundle: Path, run: Run, arguments: str) -> None:
    with pytest.raises(InvalidInputError):
        run(f"bundle sign {arguments} --key release-1.pem {WITH}")
    assert not (folder / "x.sig").exists()


def test_show_draws_the_manifest_and_says_what_each_check_says(
    folder: Path, root: Root, bundle: Path, run: Run
) -> None:
    run(f"bundle sign r.tgb --key release-1.pem release-2.pem {WITH}")
    run("status new --root root.cbor -o status.cbor")
    sign_status(run, "status.cbor")

    shown = run("bundle show r.tgb --root root.cbor --status status.cbor", code=0)

    for words in (
        "component        app in slot a: 40,000 bytes in 3 chunks",
        "component        app in slot b: 48,000 bytes in 3 chunks",
        "├─ 3 manifest, ",
        "│  │  │  ├─ 0 app",
        "5 component-slot: 1 (slot b)",
        "14 image-size: 40000",
        "ESP256, release key, holds",
        "ED25519, release key, holds",
        "profile          ok",
        "root             ok",
        "signatures       ok  2 by release keys of root 1, 2 needed",
        "release          ok",
        "status           ok",
        "in force         ok",
    ):
        assert words in shown


def test_show_says_which_check_fails(folder: Path, root: Root, bundle: Path, run: Run) -> None:
    run(f"bundle sign r.tgb --key release-1.pem {WITH}")
    run("status new --root root.cbor -o one.cbor")
    run("status revoke one.cbor --bundle r.tgb -o two.cbor")
    sign_status(run, "two.cbor")

    unsigned = run("bundle show r.tgb", code=0)
    one_of_two = run("bundle show r.tgb --root root.cbor", code=1)
    run(f"bundle sign r.tgb --key release-2.pem {WITH}")
    revoked = run("bundle show r.tgb --root root.cbor --status two.cbor", code=1)

    assert "signatures       --  1, not verified here" in unsigned
    assert "signatures       NO  1 by release keys of root 1, 2 needed" in one_of_two
    assert "status           --  not looked at" in one_of_two
    assert "release          ok" in revoked
    assert "in force         NO  this release has been revoked" in revoked


def test_show_names_a_signature_that_does_not_hold(folder: Path, root: Root, bundle: Path, run: Run) -> None:
    run(f"bundle sign --digest {'ab' * 32} --detached wrong.sig --key release-1.pem {WITH}")
    run("keys new release -o stranger.pem --passphrase-file pw")
    run(f"bundle sign r.tgb --key stranger.pem {WITH}")
    run("bundle attach r.tgb --signature wrong.sig")

    shown = run("bundle show r.tgb --root root.cbor", code=1)

    assert "is no key of this root" in shown
    assert "ED25519, release key: DOES NOT HOLD" in shown
    assert "signatures       NO" in shown


@pytest.mark.parametrize("number", [0, 3, 5])
def test_show_draws_what_is_not_of_our_profile_too(folder: Path, root: Root, run: Run, number: int) -> None:
    (folder / "draft.suit").write_bytes(read_vector(f"draft_example_{number}"))

    shown = run("bundle show draft.suit --root root.cbor", code=1)

    assert "vendor-id: fa6b4a53-d5ad-5fdf-be9d-e663e4d41ffe" in shown
    assert "signer           unknown" in shown
    assert "profile          NO" in shown


@pytest.mark.parametrize("components", ["app=a.bin app@a=a.bin", "app@a=a.bin app=a.bin", "app@a=a.bin app@a=b.bin"])
def test_a_component_has_one_image_or_one_for_each_slot(folder: Path, run: Run, components: str) -> None:
    with pytest.raises(InvalidInputError, match="each once"):
        run(f"bundle build --component {components} --vendor v.example --class m --version 1 --sequence 1 -o r.tgb")


@pytest.mark.parametrize("component", ["app@=a.bin", "app@i=a.bin", "app@ab=a.bin", "app@0=a.bin", "app@a="])
def test_a_slot_is_a_letter(folder: Path, run: Run, component: str) -> None:
    with pytest.raises(InvalidInputError, match="NAME@SLOT=PATH"):
        run(f"bundle build --component {component} --vendor v.example --class m --version 1 --sequence 1 -o r.tgb")


def test_a_document_that_never_expires_can_be_shown(folder: Path, root: Root, run: Run) -> None:
    run("status new --root root.cbor -o one.cbor")
    status = read_status((folder / "one.cbor").read_bytes())
    eternal = replace(status, expires=(1 << 63) - 1)
    (folder / "eternal.cbor").write_bytes(seal(Kind.STATUS, eternal.payload(), []))

    assert "to 9223372036854775807 s after 1970" in run("status show eternal.cbor", code=0)


def test_show_names_a_status_whose_signature_does_not_hold(folder: Path, root: Root, run: Run) -> None:
    run("status new --root root.cbor -o one.cbor")
    sign_status(run, "one.cbor")
    signed = (folder / "one.cbor").read_bytes()
    (folder / "one.cbor").write_bytes(signed[:-1] + bytes([signed[-1] ^ 1]))

    shown = run("status show one.cbor --root root.cbor", code=1)

    assert "signed           NO  the signature by key" in shown


def test_verify_refuses_what_a_status_has_taken_back(folder: Path, root: Root, bundle: Path, run: Run) -> None:
    run(f"bundle sign r.tgb --key release-1.pem release-2.pem {WITH}")
    run("status new --root root.cbor -o one.cbor")
    run("status revoke one.cbor --bundle r.tgb -o two.cbor")
    run(f"status floor one.cbor --at {GAUGE.hex()}=5 -o other.cbor")
    for name in ("one.cbor", "two.cbor", "other.cbor"):
        sign_status(run, name)

    assert "all intact" in run("bundle verify r.tgb --root root.cbor --status one.cbor")
    with pytest.raises(RevokedError):
        run("bundle verify r.tgb --root root.cbor --status two.cbor")
    with pytest.raises(RollbackError):
        run("bundle verify r.tgb --root root.cbor --status other.cbor")
