"""Documents whose commands are run as they stand, in a folder of their own, against a server that all of them share."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import ServerProcess, make_bundle, shared_server, stop_shared_server, unique
from tests.terminal import ROOT, Terminal, read_blocks

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def server() -> ServerProcess:
    return shared_server()


def pytest_sessionfinish() -> None:
    stop_shared_server()


def campaign_file(folder: Path, server: ServerProcess) -> None:
    """The how-to's own example, for a bundle that is there."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "howto/campaigns-as-files.md").read_text(), re.DOTALL)
    bundle = make_bundle(folder, server.keys)
    with Terminal(folder, environment(folder, server)) as terminal:
        pushed = terminal.run(f"tidegate bundle push {bundle}").split()[-1]
    text = text.replace("bun_...", pushed).replace("spring-2026", unique("spring")).replace("main", unique("c"))
    (folder / "campaign.yaml").write_text(text)


PREPARED: dict[str, Callable[[Path, ServerProcess], None]] = {
    "howto/campaigns-as-files.md": campaign_file,
}


def environment(folder: Path, server: ServerProcess) -> dict[str, str]:
    return {
        "TIDEGATE_URL": server.url,
        "TIDEGATE_TOKEN": server.token,
        "TIDEGATE_CONTEXTS": str(folder / "contexts.json"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


@pytest.mark.parametrize("document", PREPARED)
def test_every_command_of_a_document_works(document: str, server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    PREPARED[document](tmp_path, server)

    with Terminal(tmp_path, environment(tmp_path, server), [("http://127.0.0.1:8080", server.url)]) as terminal:
        said = [terminal.run(block) for block in read_blocks(DOCS / document)]

    assert said
