"""What an error in the log may show."""

import subprocess
import sys

import pytest

CRASH = """
import structlog
from server import logs

logs.configure(level="info", as_json={as_json})

def authenticate(token):
    raise RuntimeError("it broke")

try:
    authenticate("tg_" + "hush" * 3)
except RuntimeError:
    structlog.get_logger("test").exception("request_crashed")
"""


@pytest.mark.parametrize("as_json", [False, True])
def test_a_traceback_shows_no_value_of_any_variable(as_json: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH.format(as_json=as_json)], capture_output=True, text=True, check=True
    )

    assert "it broke" in done.stderr
    assert "hushhush" not in done.stderr
