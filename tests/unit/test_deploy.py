"""The configurations in deploy/ grant the same, whatever the broker."""

import re
from pathlib import Path

import pytest

from server.embedded.broker import ACK_WAIT, MAX_ACK_PENDING, SYNC_INTERVAL
from server.embedded.credentials import device_permissions

DEPLOY = Path(__file__).parents[2] / "deploy"

PUBLISH = {"tg/1/+/device/ID/up/#"}
SUBSCRIBE = {
    "tg/1/+/device/ID/down/#",
    "tg/1/+/cohort/+/directive",
    "tg/1/trust/root/+",
    "tg/1/trust/status",
    "tg/1/blob/+",
}


def from_nats() -> tuple[set[str], set[str]]:
    permissions = device_permissions("tg/1")

    def as_topics(subjects: object) -> set[str]:
        named = {str(subject).replace("{{name()}}", "ID") for subject in list(subjects) if subject != "$MQTT.sub.>"}
        return {subject.replace(".", "/").replace("*", "+").replace(">", "#") for subject in named}

    return as_topics(permissions.publish), as_topics(permissions.subscribe)


def from_mosquitto() -> tuple[set[str], set[str]]:
    text = (DEPLOY / "mosquitto" / "acl").read_text()
    rules = re.findall(r"^pattern (\w+) (\S+)$", text, re.MULTILINE)
    assert {access for access, _ in rules} == {"read", "write"}
    assert re.findall(r"^(?:user|topic) .*$", text, re.MULTILINE) == ["user tidegate.server", "topic readwrite tg/#"]
    return tuple(
        {topic.replace("%u", "ID") for access, topic in rules if access == wanted} for wanted in ("write", "read")
    )


def from_emqx() -> tuple[set[str], set[str]]:
    lines = (DEPLOY / "emqx" / "acl.conf").read_text().splitlines()
    server, *rules, last = [line for line in lines if line.startswith("{")]
    assert server == '{allow, {username, "tidegate.server"}, all, ["tg/#"]}.'
    assert last == "{deny, all}."
    granted: dict[str, set[str]] = {"publish": set(), "subscribe": set()}
    for rule in rules:
        found = re.fullmatch(r"\{allow, all, (publish|subscribe), \[(.*)\]\}\.", rule)
        assert found is not None
        granted[found[1]] |= {topic.replace("${clientid}", "ID") for topic in re.findall(r'"([^"]+)"', found[2])}
    return granted["publish"], granted["subscribe"]


@pytest.mark.parametrize("granted", [from_nats, from_mosquitto, from_emqx])
def test_a_device_may_do_the_same_at_every_broker(granted: object) -> None:
    assert callable(granted)
    assert granted() == (PUBLISH, SUBSCRIBE)


def test_nats_of_ones_own_has_the_limits_of_the_embedded_one() -> None:
    text = (DEPLOY / "nats" / "nats.conf").read_text()

    assert f'ack_wait: "{ACK_WAIT}"' in text
    assert f"max_ack_pending: {MAX_ACK_PENDING}" in text
    assert f'sync_interval: "{SYNC_INTERVAL}"' in text
    assert re.search(r"^\s*(http|monitor_port|https)", text, re.MULTILINE) is None


def test_a_device_at_emqx_is_what_its_certificate_says() -> None:
    text = (DEPLOY / "emqx" / "emqx.conf").read_text()

    for line in (
        "peer_cert_as_username = cn",
        "peer_cert_as_clientid = cn",
        "verify = verify_peer",
        "fail_if_no_peer_cert = true",
        "no_match = deny",
        'bind = "127.0.0.1:1883"',
    ):
        assert re.search(rf"^\s*{re.escape(line)}$", text, re.MULTILINE), line


@pytest.mark.parametrize("readme", sorted(DEPLOY.rglob("README.md")), ids=lambda path: path.parent.name)
def test_what_a_readme_names_exists(readme: Path) -> None:
    text = readme.read_text()
    named = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    missing = [link for link in named if not (readme.parent / link).exists()]
    missing += [file for file in re.findall(r"`(tests/[^`]+)`", text) if not (DEPLOY.parent / file).exists()]
    copied = re.findall(r"^\s*cp (tidegate-\S+) ", text, re.MULTILINE)
    missing += [file for file in copied if not (readme.parent / file).exists()]

    assert missing == []
