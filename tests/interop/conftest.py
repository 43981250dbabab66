"""The marker of these tests, and environments for peers whose requirements contradict our own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PEERS_REQUIRED = os.environ.get("TIDEGATE_REQUIRE_PEERS") == "1"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "interop: against another implementation, in an environment of its own")


@pytest.fixture(scope="session")
def cwt_python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with cwt, which wants an older cbor2 than we do; made once and kept."""
    cache = request.config.cache
    assert cache is not None
    environment = cache.mkdir("peers") / "cwt-3.3.0"
    python = environment / "bin" / "python"
    if not python.exists():
        failure = _make_environment(environment, ["cwt==3.3.0"])
        if failure and PEERS_REQUIRED:
            pytest.fail(f"no environment with cwt, and TIDEGATE_REQUIRE_PEERS=1 wants it: {failure}")
        if failure:
            pytest.skip(f"no environment with cwt: {failure}")
    return python


def _make_environment(path: Path, requirements: list[str]) -> str:
    """Make it beside its place and move it there complete; returns what went wrong, or nothing."""
    making = path.with_name(f"{path.name}.{os.getpid()}")
    patience_s = 300 if PEERS_REQUIRED else 60
    pips = [[sys.executable, "-m", "pip"], ["python3", "-m", "pip"]]  # ours may have been made without pip
    try:
        _run([sys.executable, "-m", "venv", "--without-pip", str(making)], patience_s)
        pip = next((pip for pip in pips if not _fails([*pip, "--version"], patience_s)), None)
        if pip is None:
            return "there is no pip to install it with"
        options = ["--python", str(making / "bin" / "python"), "install", "--quiet", "--retries", "1"]
        _run([*pip, *options, *requirements], patience_s)
        if not path.exists():
            making.rename(path)
    except (OSError, subprocess.SubprocessError) as exc:
        return f"{exc}: {getattr(exc, 'stderr', '')}"
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return ""


def _run(command: list[str], patience_s: float) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=patience_s)


def _fails(command: list[str], patience_s: float) -> bool:
    try:
        _run(command, patience_s)
    except (OSError, subprocess.SubprocessError):
        return True
    return False
