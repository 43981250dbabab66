"""Servers by name: which URL and token a command gets, and that no token reaches a server it is not for."""

import io
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from firmware_store.errors import ConfigurationError, InvalidInputError, NotFoundError
from server.cli import context
from server.cli.contexts import Contexts, Named, enter, load, save

LAB = Named("http://lab:8080", "tg_lab_secret")
LIVE = Named("https://live", "tg_live_secret")


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "of" / "contexts.json"
    monkeypatch.setenv("TIDEGATE_CONTEXTS", str(path))
    save(path, Contexts({"lab": LAB, "live": LIVE}, "lab"))
    return path


def test_the_current_context_says_where_to_go_and_as_whom() -> None:
    environment: dict[str, str] = {}

    assert enter(["campaign", "ls"], environment) == ["campaign", "ls"]
    assert environment == {"TIDEGATE_URL": LAB.url, "TIDEGATE_TOKEN": LAB.token}


@pytest.mark.parametrize("arguments", [["--context", "live", "me"], ["--context=live", "me"]])
def test_a_context_that_is_named_goes_before_the_environment(arguments: list[str]) -> None:
    environment = {"TIDEGATE_URL": "http://elsewhere", "TIDEGATE_TOKEN": "tg_x_y"}

    assert enter(arguments, environment) == ["me"]
    assert environment == {"TIDEGATE_URL": LIVE.url, "TIDEGATE_TOKEN": LIVE.token}


def test_the_environment_names_one_too() -> None:
    environment = {"TIDEGATE_CONTEXT": "live"}

    enter(["me"], environment)
    assert environment["TIDEGATE_TOKEN"] == LIVE.token


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["me", "--server", "http://elsewhere"], {}),
        (["me", "--server=http://elsewhere"], {}),
        (["me"], {"TIDEGATE_URL": "http://elsewhere"}),
        (["me"], {"TIDEGATE_TOKEN": "tg_own_token"}),
    ],
)
def test_no_token_reaches_a_server_that_it_is_not_for(arguments: list[str], environment: dict[str, str]) -> None:
    before = dict(environment)

    assert enter(arguments, environment) == arguments
    assert environment == before


def test_one_that_is_not_kept_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(NotFoundError, match="known: lab, live"):
        enter(["--context", "other", "me"], {})


def test_without_a_file_nothing_happens(file: Path) -> None:
    file.unlink()
    environment: dict[str, str] = {}

    enter(["me"], environment)
    assert environment == {}


def test_a_file_that_others_may_read_is_refused(file: Path) -> None:
    file.chmod(0o644)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        enter(["me"], {})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"contexts": {"a": {}}, "current": null}'])
def test_a_file_that_is_none_of_ours_is_refused(file: Path, text: str) -> None:
    file.write_text(text)

    with pytest.raises(ConfigurationError, match="mend it"):
        load(file)


def test_contexts_are_added_used_listed_and_forgotten(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"tg_new_secret\n")))
    context.add("new", url="http://new:8080/")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load(file) == Contexts({"lab": LAB, "live": LIVE, "new": Named("http://new:8080", "tg_new_secret")}, "new")

    (tmp_path / "token").write_text("tg_other_secret\n")
    context.add("new", url="https://new", token_file=tmp_path / "token", use=False)
    context.use_one("live")
    context.ls(output="jsonl")
    printed = capsys.readouterr().out
    assert '"name": "live", "url": "https://live", "current": "*"' in printed
    assert "secret" not in printed

    context.rm("live")
    assert load(file).current is None
    with pytest.raises(NotFoundError):
        context.rm("live")


@pytest.mark.parametrize(
    ("name", "url", "token"),
    [("", "http://x", "t"), ("a/b", "http://x", "t"), ("a", "ftp://x", "t"), ("a", "http://x", "")],
)
def test_what_cannot_be_used_is_not_kept(
    file: Path, name: str, url: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(token.encode())))

    with pytest.raises(InvalidInputError):
        context.add(name, url=url)
    assert file.read_bytes() == before


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_learns_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    from server.cli.completion import completion

    completion(shell)
    script = capsys.readouterr().out
    assert all(word in script for word in ("campaign", "rollback", "apply", "--bundle"))
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)
