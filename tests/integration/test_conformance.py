"""The exam of a device: one that believes everything fails where it should (tests/e2e has one that passes)."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from device_sim.conformance.exam import NO_RELEASE, examine
from device_sim.conformance.keys import LabKeys
from device_sim.conformance.release import Release
from device_sim.conformance.rules import RULES, Finding, Outcome
from firmware_store.codec import decode
from firmware_store.documents import split
from firmware_store.root import init_dev_keys
from server.domain.execution import State
from server.domain.identity import CampaignId, Cohort, DeviceId, HardwareClass, Region
from server.embedded import EmbeddedBroker
from server.mqtt.link import Incoming, MqttLink
from server.protocol.messages import Beat, Counter, Hello, Report, encode_beat, encode_hello, encode_report
from server.protocol.topics import CohortAudience, Topics, Up
from tests.agent_world import HARDWARE, VENDOR, dev_keys
from tests.servers import ROOT

MAIN = Cohort("main")
NewId = Callable[[], DeviceId]


@asynccontextmanager
async def examined(
    broker: EmbeddedBroker, device: DeviceId, release: Release | None = None, patience_s: float = 20
) -> AsyncIterator[asyncio.Task[list[Finding]]]:
    """An exam that waits for its device, with the keys of the test fleet."""
    own, keys, is_ready = broker.server_credential, dev_keys(), asyncio.Event()
    link = partial(
        MqttLink,
        host=broker.mqtt_host,
        port=broker.mqtt_port,
        client_id=f"{own.client_id}-{device}",
        username=own.username,
        password=own.password,
    )
    exam = examine(
        link,
        LabKeys(keys.root, keys.directive, keys.session),
        device,
        cohort=MAIN,
        topic_root="tg/1",
        release=release,
        patience_s=patience_s,
        on_ready=is_ready.set,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(exam)
        await is_ready.wait()
        yield task


def outcomes(findings: list[Finding]) -> dict[str, Outcome]:
    return {finding.rule.id: finding.outcome for finding in findings}


class Naive:
    """Speaks the protocol, and believes whatever it is shown on its topics."""

    def __init__(self, broker: EmbeddedBroker, region: Region, device: DeviceId, *, beat_s: float = 1.0) -> None:
        self._topics, self._region, self._device, self._beat_s = Topics(), region, device, beat_s
        self._held = Counter()
        self._numbers = int(time.time() * 1000)
        own = broker.issue_device_credential(device)
        self._link = MqttLink(
            host=broker.mqtt_host,
            port=broker.mqtt_port,
            client_id=own.client_id,
            username=own.username,
            password=own.password,
            on_message=self._take,
            on_up=self._came_up,
        )

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._link.run()), asyncio.create_task(self._beat())]
        try:
            yield
        finally:
            tasks[1].cancel()
            await self._link.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _say(self, kind: Up, body: bytes) -> None:
        self._link.publish_nowait(self._topics.up(self._region, self._device, kind), body)

    def _came_up(self, _: bool) -> None:
        self._link.subscribe([(self._topics.directive(CohortAudience(self._region, MAIN)), 0)])
        self._say(Up.HELLO, encode_hello(Hello(bytes(8), VENDOR, HardwareClass(HARDWARE), "0", (), "a", bytes(16))))

    def _take(self, message: Incoming) -> None:
        if not message.payload:
            return
        payload, _ = split(message.payload)
        members: Any = decode(payload)
        self._held = Counter(members[4], members[5])
        if 9 in members:
            self._numbers += 1
            report = Report(self._numbers, CampaignId(UUID(bytes=members[9])), members[10], 1, State.DOWNLOADING)
            self._say(Up.REPORT, encode_report(report))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            if self._link.connected:
                self._say(Up.BEAT, encode_beat(Beat(bytes(8), 1, self._held)))


async def test_a_device_that_believes_everything_fails_where_it_should(
    broker: EmbeddedBroker, region: Region, new_device_id: NewId
) -> None:
    device = new_device_id()

    async with examined(broker, device) as exam, Naive(broker, region, device, beat_s=0.1).living():
        findings = await exam

    found = outcomes(findings)
    failed = {rule for rule, outcome in found.items() if outcome is Outcome.FAIL}
    assert failed == {
        "session.beat",
        "order.counter-lower",
        "order.counter-equal",
        "order.signature",
        "order.role",
        "order.audience",
        "order.fleet",
        "order.unknown-key",
        "offer.expired",
    }
    assert found["order.taken"] is found["order.empty"] is Outcome.PASS
    skipped = [finding for finding in findings if finding.outcome is Outcome.SKIPPED]
    assert {finding.seen for finding in skipped} == {NO_RELEASE}


async def test_a_device_that_beats_too_seldom_is_tried_no_further(
    broker: EmbeddedBroker, region: Region, new_device_id: NewId
) -> None:
    device = new_device_id()

    async with examined(broker, device) as exam, Naive(broker, region, device, beat_s=60).living():
        findings = await exam

    found = outcomes(findings)
    assert (found["session.hello"], found["session.beat"]) == (Outcome.PASS, Outcome.FAIL)
    assert found["order.taken"] is Outcome.SKIPPED


async def test_a_device_that_does_not_come_is_said_so(broker: EmbeddedBroker, new_device_id: NewId) -> None:
    async with examined(broker, new_device_id(), patience_s=0.2) as exam:
        (hello, *others) = await exam

    assert (hello.rule.id, hello.outcome) == ("session.hello", Outcome.FAIL)
    assert {finding.outcome for finding in others} == {Outcome.SKIPPED}


def test_the_command_says_what_became_of_each_rule(
    broker: EmbeddedBroker, new_device_id: NewId, tmp_path: Path
) -> None:
    own, device = broker.server_credential, new_device_id()
    init_dev_keys(tmp_path / "keys", fleet=None, now=int(time.time()) - 60)
    url = f"mqtt://{quote(own.username)}:{quote(own.password)}@{broker.mqtt_host}:{broker.mqtt_port}"
    told = {"MQTT_URL": url, "MQTT_CLIENT_ID": own.client_id, "DATA_DIR": str(tmp_path)}
    environment = os.environ | {f"TIDEGATE_{name}": value for name, value in told.items()}

    def ask(output: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "server", "conformance", "--device", device, "--wait-s", "0.1", "-o", output]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    table, rows = ask("table"), ask("json")

    assert table.returncode == rows.returncode == 1
    assert table.stderr == f"listening: let {device} connect\n"
    assert table.stdout.startswith("FAIL    session.hello\n")
    assert table.stdout.endswith(f"1 fail, {len(RULES) - 1} skipped\n")
    assert [row["rule"] for row in json.loads(rows.stdout)] == [rule.id for rule in RULES]


def test_every_rule_names_a_section_of_the_protocol() -> None:
    sections = set(re.findall(r"^##+ (.+)$", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE))

    assert {rule.source for rule in RULES} <= sections
