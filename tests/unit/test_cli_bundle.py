"""The commands of whoever builds and signs releases, run as the command line runs them."""

import io
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_store.bundle import read_envelope
from firmware_store.errors import ConfigurationError, ConflictError, InvalidInputError, SignatureError
from firmware_store.keys import Algorithm, SigningKey, save_key
from firmware_store.suit import open_envelope
from server.cli.bundle import app as bundle_app
from server.cli.keys import app as keys_app

Run = Callable[..., str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; returns what it printed on standard output."""

    def command(*tokens: object) -> str:
        app = {"keys": keys_app, "bundle": bundle_app}[str(tokens[0])]
        app([str(token) for token in tokens[1:]], result_action="return_value")
        return capsys.readouterr().out

    return command


@pytest.fixture
def keys(tmp_path: Path, run: Run) -> Path:
    run("keys", "init", "--dev", tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def bundle(tmp_path: Path, run: Run) -> Path:
    (tmp_path / "app.bin").write_bytes(b"app" * 9000)
    (tmp_path / "rootfs.bin").write_bytes(b"rootfs" * 9000)
    run(
        *("bundle", "build", "--component", f"app={tmp_path / 'app.bin'}"),
        *("--component", f"rootfs={tmp_path / 'rootfs.bin'}", "--vendor", "example.com"),
        *("--class", "gauge|r1", "gauge|r2", "--version", "1.1.0", "--sequence", 4),
        *("--description", "quieter", "-o", tmp_path / "r.tgb"),
    )
    return tmp_path / "r.tgb"


def test_development_keys_are_made_only_when_that_is_said(tmp_path: Path, run: Run) -> None:
    with pytest.raises(ConfigurationError, match="--dev"):
        run("keys", "init", tmp_path / "keys")
    assert not (tmp_path / "keys").exists()

    assert run("keys", "init", tmp_path / "keys", "--dev") == f"{tmp_path / 'keys' / 'root.cbor'}\n"
    assert stat.S_IMODE((tmp_path / "keys" / "root-1.pem").stat().st_mode) == 0o600


def test_a_release_is_built_signed_and_verified(run: Run, bundle: Path, keys: Path) -> None:
    kids = run(
        *("bundle", "sign", bundle, "--key", keys / "release-1.pem", "--key", keys / "release-2.pem", "--yes")
    ).split()

    verdict = run("bundle", "verify", bundle, "--root", keys / "root.cbor")

    assert len(set(kids)) == 2
    assert "version 1.1.0, sequence number 4, signed by 2 release keys (needed: 2)" in verdict


def test_show_prints_what_the_release_says(run: Run, bundle: Path) -> None:
    digest = open_envelope(read_envelope(bundle)).digest.hex()

    shown = run("bundle", "show", bundle)

    for words in ("1.1.0", "quieter", "app: 27,000 bytes in 2 chunks", "rootfs: 54,000 bytes in 4 chunks", digest):
        assert words in shown


def test_an_unsigned_bundle_does_not_verify(run: Run, bundle: Path, keys: Path) -> None:
    with pytest.raises(SignatureError):
        run("bundle", "verify", bundle, "--root", keys / "root.cbor")


def test_a_root_that_is_not_there_is_said_so(run: Run, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        run("bundle", "verify", bundle, "--root", tmp_path / "absent")


def test_without_a_person_nothing_is_signed_unless_that_was_said(
    run: Run, bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bundle.read_bytes()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    with pytest.raises(ConfigurationError, match="--yes"):
        run("bundle", "sign", bundle, "--key", keys / "release-1.pem")
    assert before == bundle.read_bytes()


@pytest.mark.parametrize("answer", ["\n", "n\n", "", "yess\n"])
def test_only_a_yes_is_a_yes(run: Run, bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    before = bundle.read_bytes()
    monkeypatch.setattr("sys.stdin", Terminal(answer))

    with pytest.raises(ConfigurationError, match="nothing was signed"):
        run("bundle", "sign", bundle, "--key", keys / "release-1.pem")
    assert before == bundle.read_bytes()


def test_a_person_who_says_yes_signs(run: Run, bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))

    run("bundle", "sign", bundle, "--key", keys / "release-1.pem")

    assert len(open_envelope(read_envelope(bundle)).blocks) == 1


def test_a_second_signature_by_one_key_changes_nothing(run: Run, bundle: Path, keys: Path) -> None:
    run("bundle", "sign", bundle, "--key", keys / "release-1.pem", "--yes")
    before = bundle.read_bytes()

    with pytest.raises(ConflictError, match="already"):
        run("bundle", "sign", bundle, "--key", keys / "release-2.pem", keys / "release-1.pem", "--yes")
    assert before == bundle.read_bytes()


def test_an_encrypted_key_needs_its_passphrase(
    run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_key(tmp_path / "release.pem", SigningKey.generate(Algorithm.ED25519), b"ebb and flow")
    (tmp_path / "passphrase").write_text("ebb and flow\n")
    (tmp_path / "wrong").write_text("flood\n")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    sign = ("bundle", "sign", bundle, "--key", tmp_path / "release.pem", "--yes")

    with pytest.raises(ConfigurationError, match="--passphrase-file"):
        run(*sign)
    with pytest.raises(ConfigurationError, match="passphrase is wrong"):
        run(*sign, "--passphrase-file", tmp_path / "wrong")
    run(*sign, "--passphrase-file", tmp_path / "passphrase")

    assert len(open_envelope(read_envelope(bundle)).blocks) == 1


def test_a_person_is_asked_for_the_passphrase(
    run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_key(tmp_path / "release.pem", SigningKey.generate(Algorithm.ESP256), b"ebb and flow")
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("server.cli.ask.getpass", lambda prompt: "ebb and flow")

    run("bundle", "sign", bundle, "--key", tmp_path / "release.pem", "--yes")

    assert len(open_envelope(read_envelope(bundle)).blocks) == 1


@pytest.mark.parametrize("component", ["app", "app=", "=app.bin"])
def test_a_component_is_a_name_and_a_path(run: Run, tmp_path: Path, component: str) -> None:
    with pytest.raises((InvalidInputError, ConfigurationError)):
        run(
            *("bundle", "build", "--component", component, "--vendor", "example.com", "--class", "m"),
            *("--version", "1", "--sequence", 1, "-o", tmp_path / "r.tgb"),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_description_cannot_draw_on_the_signers_screen(run: Run, tmp_path: Path) -> None:
    (tmp_path / "app.bin").write_bytes(b"app")
    run(
        *("bundle", "build", "--component", f"app={tmp_path / 'app.bin'}", "--vendor", "example.com", "--class", "m"),
        *("--version", "1", "--sequence", 1, "--description", "fine\nsequence number  1\x1b[2J"),
        *("-o", tmp_path / "r.tgb"),
    )

    shown = run("bundle", "show", tmp_path / "r.tgb")

    assert "description      fine\ufffdsequence number  1\ufffd[2J\n" in shown


def build_cut(run: Run, tmp_path: Path, *choices: str) -> list[int]:
    for name in ("app", "rootfs"):
        (tmp_path / name).write_bytes(name.encode() * 9000)
    run(
        *("bundle", "build", "--component", f"app={tmp_path / 'app'}", f"rootfs={tmp_path / 'rootfs'}"),
        *("--vendor", "example.com", "--class", "gauge|r1", "--version", "1.1.0", "--sequence", 4),
        *("-o", tmp_path / "r.tgb", *(("--chunks", *choices) if choices else ())),
    )
    components = open_envelope(read_envelope(tmp_path / "r.tgb")).read()[0].components
    return [component.fetch.profile for component in components]


@pytest.mark.parametrize(
    ("choices", "profiles"),
    [
        ((), [1, 1]),
        (("cdc",), [2, 2]),
        (("rootfs=cdc",), [1, 2]),
        (("app=fixed", "cdc"), [1, 2]),
        (("app=fixed-4k", "rootfs=cdc"), [3, 2]),
    ],
)
def test_each_component_is_cut_as_one_says(run: Run, tmp_path: Path, choices: tuple[str], profiles: list[int]) -> None:
    assert build_cut(run, tmp_path, *choices) == profiles


@pytest.mark.parametrize("choice", ["", "rabin", "app=", "app=rabin", "kernel=cdc", "=cdc"])
def test_chunks_are_of_a_kind_and_for_a_component_that_is_there(run: Run, tmp_path: Path, choice: str) -> None:
    with pytest.raises(InvalidInputError, match="fixed, cdc, fixed-4k"):
        build_cut(run, tmp_path, choice)


def test_show_says_how_images_are_cut_where_that_is_not_as_ever(run: Run, tmp_path: Path) -> None:
    build_cut(run, tmp_path, "rootfs=cdc")

    shown = run("bundle", "show", tmp_path / "r.tgb")

    assert "27,000 bytes in 2 chunks, SHA-256" in shown
    assert "(cdc), SHA-256" in shown
