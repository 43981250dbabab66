"""Documents whose commands are run as they stand, in a folder of their own, against a server that all of them share."""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_store.root import ROOT_FILE
from tests.ports import free_port
from tests.servers import ServerProcess, make_bundle, shared_server, unique
from tests.terminal import ROOT, Terminal, read_blocks

DOCS = ROOT / "docs"
FIRST_TOKEN = re.compile(r"first admin token \(shown once\): (\S+)")


@pytest.fixture(scope="module")
def server() -> ServerProcess:
    return shared_server()


def nothing(_folder: Path, _server: ServerProcess) -> dict[str, str]:
    return {}


def campaign_file(folder: Path, server: ServerProcess) -> dict[str, str]:
    """The how-to's own example, for a bundle that is there."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "howto/campaigns-as-files.md").read_text(), re.DOTALL)
    given = release(folder, server)
    text = (
        text.replace("bun_...", given["BUNDLE"]).replace("spring-2026", unique("spring")).replace("main", unique("c"))
    )
    (folder / "campaign.yaml").write_text(text)
    return given


def is_long(block: str) -> bool:
    """Starts a server of its own: that how-to is for one that is not there yet."""
    return "tidegate serve" in block


def release(folder: Path, server: ServerProcess) -> dict[str, str]:
    """A bundle that is there."""
    bundle = make_bundle(folder, server.keys)
    with Terminal(folder, environment(folder, server)) as terminal:
        return {"BUNDLE": terminal.run(f"tidegate bundle push {bundle}").split()[-1]}


def halted(folder: Path, server: ServerProcess) -> dict[str, str]:
    """A campaign that a person has halted."""
    given = release(folder, server)
    with Terminal(folder, environment(folder, server) | given) as terminal:
        name = unique("c")
        campaign = terminal.run(
            f'tidegate campaign create halted --bundle "$BUNDLE" --cohort {name} --region eu --reason x'
        )
        terminal.run(
            f"tidegate campaign start {campaign.strip()}\ntidegate campaign halt {campaign.strip()} --reason smoke"
        )
    return {"CAMPAIGN": campaign.strip()}


def devices(folder: Path, server: ServerProcess) -> dict[str, str]:
    """What the how-tos about devices name."""
    with Terminal(folder, environment(folder, server)) as terminal:
        terminal.run("tidegate device show gw-17 || tidegate device add gw-17 --region eu --cohort main")
    (folder / "new.csv").write_text(f"id,region,cohort\n{unique('gw')},eu,main\n")
    return {}


def root(folder: Path, server: ServerProcess) -> dict[str, str]:
    """The trust root as devices have it."""
    shutil.copy(server.keys / ROOT_FILE, folder)
    return {}


def webhook(folder: Path, server: ServerProcess) -> dict[str, str]:
    """A webhook, and a try of it."""
    with Terminal(folder, environment(folder, server)) as terminal:
        terminal.run(f"tidegate webhook add {unique('hook')} https://hooks.example.com/")
        added = json.loads(terminal.run("tidegate webhook ls -o json"))[0]
    halted(folder, server)
    with Terminal(folder, environment(folder, server)) as terminal:
        deliveries = f"tidegate webhook deliveries {added['id']} -o json"
        terminal.run(f"until {deliveries} | grep -q sequence; do sleep 0.2; done")
        (tried, *_) = json.loads(terminal.run(deliveries))
    return {"WEBHOOK": added["id"], "DELIVERY": str(tried["id"]), "KEY": "R" * 32}


PREPARED: dict[str, Callable[[Path, ServerProcess], dict[str, str]]] = {
    "howto/campaigns-as-files.md": campaign_file,
    "howto/key-ceremony.md": nothing,
    "howto/approve-and-freeze.md": release,
    "howto/emergency-patch.md": release,
    "howto/read-a-halt.md": halted,
    "howto/explain-a-campaign.md": halted,
    "howto/doctor.md": nothing,
    "howto/blobs-on-s3.md": nothing,
    "howto/inventory.md": devices,
    "howto/why-does-it-not-update.md": devices,
    "howto/webhooks.md": webhook,
    "reference/events.md": nothing,
    "explanation/audit.md": root,
    "enrolment.md": nothing,
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
    given = environment(tmp_path, server) | PREPARED[document](tmp_path, server)

    with Terminal(tmp_path, given, [("http://127.0.0.1:8080", server.url)]) as terminal:
        said = [terminal.run(block) for block in read_blocks(DOCS / document) if not is_long(block)]

    assert said


@pytest.mark.slow
def test_the_tutorial_ends_with_a_bad_release_that_stops_and_says_why() -> None:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tidegate-tutorial-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, PostgreSQL runs as a user of its own
        (folder / ".venv").symlink_to(sys.prefix)
        shutil.copy(ROOT / "LICENSE", folder)
        given = {"TIDEGATE_PORT": str(port), "TIDEGATE_URL": f"http://127.0.0.1:{port}"}
        said = ""
        with Terminal(folder, given, [("8080", str(port))]) as terminal:
            for block in read_blocks(DOCS / "tutorial.md"):
                said += terminal.run(block)
                terminal.replace += [("tg_...", token) for token in FIRST_TOKEN.findall(said)]

    assert re.search(r"^Finished: .* eligible devices confirmed the release", said, re.MULTILINE), said
    assert re.search(r"^(Halted after|Paused by the gate)", said, re.MULTILINE), said


def test_no_command_of_a_document_is_left_out() -> None:
    """Each document with shell blocks is followed by a test, here or beside what it is about."""
    elsewhere = {
        "tutorial.md",
        "howto/real-postgresql-and-mosquitto.md",  # test_howto.py
        "howto/tls.md",  # test_tls.py
        "howto/backup-and-restore.md",  # test_backup_howto.py
        "howto/two-servers.md",  # test_two_nodes.py
        "howto/access.md",  # test_access.py
        "howto/rehearse-a-campaign.md",  # test_campaign_orders.py
        "howto/test-a-release-in-the-lab.md",  # test_lab.py
        "howto/implement-a-device.md",  # test_implement_a_device.py
    }
    with_commands = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if read_blocks(path)}

    assert with_commands == elsewhere | set(PREPARED)
