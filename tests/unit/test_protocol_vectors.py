"""The wire's bytes are pinned, and the documents that a firmware engineer reads say what the code does."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import cbor2
import pytest
from cddl_verifier import Validator

from firmware_store.chunks import chunk_image
from firmware_store.codec import decode, encode
from firmware_store.documents import split
from firmware_store.suit_values import ChunkProfile
from server.domain.execution import REPORTED, State
from server.domain.gate import Ramp
from server.domain.identity import CampaignId, Cohort, DeviceId, HardwareClass, Region
from server.domain.windows import Window
from server.protocol.messages import (
    STATE_NUMBERS,
    Beat,
    Counter,
    Gone,
    Hello,
    Report,
    Slot,
    decode_ack,
    decode_beat,
    decode_gone,
    decode_hello,
    decode_report,
    encode_ack,
    encode_beat,
    encode_gone,
    encode_hello,
    encode_report,
)
from server.protocol.orders import (
    Action,
    Admit,
    Deadlines,
    Directive,
    Envelope,
    StatusRef,
    Welcome,
    directive_map,
    read_directive,
    read_welcome,
    welcome_map,
)
from server.protocol.reasons import EXPLICIT_FAILURES, Reason
from server.protocol.sources import DeltaOffer, HttpSource, Transport
from server.protocol.topics import CohortAudience, DeviceAudience

ROOT = Path(__file__).parents[2]
HEX = ROOT / "tests" / "vectors"
DOCS = ROOT / "docs"

CAMPAIGN = CampaignId(UUID("00112233-4455-6677-8899-aabbccddeeff"))
MANIFEST = bytes(range(32))
REPORT = Report(
    sequence=1_795_000_000_123,
    campaign=CAMPAIGN,
    manifest_digest=MANIFEST,
    attempt=2,
    state=State.ROLLED_BACK,
    reason=Reason.HEALTH_CHECK_FAILED,
    detail="self test 3 failed",
    done_bytes=1_300_000,
    total_bytes=1_300_000,
    slot="b",
)
OFFER = Directive(
    fleet=bytes(16),
    audience=CohortAudience(Region("eu"), Cohort("main")),
    counter=Counter(1, 1_795_000_000_000),
    issued=1_795_000_000,
    expires=1_795_086_400,
    action=Action.OFFER,
    campaign=CAMPAIGN,
    manifest_digest=MANIFEST,
    sequence_number=7,
    envelope=Envelope(bytes(range(32, 64)), 512),
    ramp=Ramp(1_795_000_000, 0, 1_795_000_120, 429_496_729),
    deadlines=Deadlines(86_400, 300, 7_200),
    halted=(bytes(32),),
    status=StatusRef(3, bytes(range(64, 96))),
)
WELCOME = Welcome(
    fleet=bytes(16),
    device=DeviceId("gw-0001"),
    nonce=bytes(range(16)),
    server_time=1_795_000_001,
    cohort_counter=Counter(1, 1_795_000_000_000),
    device_counter=Counter(),
    region=Region("eu"),
    cohort=Cohort("main"),
    member_since=1_790_000_000,
    held=False,
    heartbeat_s=60,
    status_version=3,
)

VECTORS: dict[str, tuple[str, Any]] = {
    "hello": (
        "hello",
        Hello(
            boot_id=bytes(range(8)),
            vendor="acme.example",
            hardware=HardwareClass("gw100-rev-b"),
            agent_version="0.1.0",
            slots=(Slot("a", 6, "1.1.0", MANIFEST, "confirmed"), Slot("b", 0, "", b"", "empty")),
            booted="a",
            nonce=bytes(range(16)),
            root_version=1,
            status_version=3,
            cohort_counter=Counter(1, 1_795_000_000_000),
            execution=REPORT,
            labels={"site": "north"},
            utc_offset_minutes=60,
        ),
    ),
    "beat": (
        "beat",
        Beat(bytes(range(8)), 3600, Counter(1, 1_795_000_000_000), REPORT, {"errors": 1, "restarts": 0}),
    ),
    "report": ("report", REPORT),
    "gone": ("gone", Gone(bytes(range(8)), bytes(range(16)))),
    "ack": ("ack", REPORT.sequence),
    "directive_offer": ("directive", OFFER),
    "directive_none": (
        "directive",
        Directive(
            fleet=bytes(16),
            audience=DeviceAudience(Region("eu"), DeviceId("gw-0001")),
            counter=Counter(1, 2),
            issued=1_795_000_000,
            expires=1_795_086_400,
            action=Action.NONE,
        ),
    ),
    "directive_windows": (
        "directive",
        replace(
            OFFER, members_before=1_794_000_000, windows=(Window("0 2 * * 1-5", 14_400), Window("0 0 * * 6", 3600))
        ),
    ),
    "directive_reboots": ("directive", replace(OFFER, reboots_admitted=True)),
    "directive_sources": (
        "directive",
        replace(
            OFFER,
            deltas=(
                DeltaOffer(
                    0, "zstd", bytes(range(96, 128)), bytes(range(128, 160)), 9000, bytes(range(160, 192)), 39, 1
                ),
            ),
            http=HttpSource(Transport.HTTP, "https://updates.example.com", "tk_1795086400_00ff"),
        ),
    ),
    "welcome": ("welcome", WELCOME),
    "welcome_reboot": ("welcome", replace(WELCOME, reboot=Admit(CAMPAIGN, 1_795_000_121))),
    "welcome_admit": ("welcome", replace(WELCOME, admit=Admit(CAMPAIGN, 1_795_000_301), utc_offset_minutes=-210)),
}
ENCODERS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "hello": (encode_hello, decode_hello),
    "beat": (encode_beat, decode_beat),
    "report": (encode_report, decode_report),
    "gone": (encode_gone, decode_gone),
    "ack": (encode_ack, decode_ack),
    "directive": (lambda value: encode(directive_map(value)), lambda data: read_directive(_map(data))),
    "welcome": (lambda value: encode(welcome_map(value)), lambda data: read_welcome(_map(data))),
}


def _map(data: bytes) -> dict[int, Any]:
    value = decode(data)
    assert isinstance(value, dict)
    return value  # type: ignore[return-value]


def pinned(name: str) -> bytes:
    lines = (HEX / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


@pytest.mark.parametrize("name", VECTORS)
def test_the_bytes_of_a_message_never_change(name: str) -> None:
    kind, value = VECTORS[name]
    write, read = ENCODERS[kind]

    assert write(value).hex() == pinned(name).hex()
    assert read(pinned(name)) == value


@pytest.mark.parametrize("name", [name for name, (kind, _) in VECTORS.items() if kind in {"directive", "welcome"}])
def test_another_cbor_library_reads_signed_payloads_the_same(name: str) -> None:
    assert cbor2.loads(pinned(name)) == decode(pinned(name))
    assert cbor2.dumps(cbor2.loads(pinned(name)), canonical=True) == pinned(name)


# --- docs/protocol.cddl ---


CDDL = (DOCS / "protocol.cddl").read_text()
SCHEMA = Validator(CDDL)


def is_a(rule: str, data: bytes) -> bool:
    return bool(SCHEMA.validate(data, root_type=rule).valid)


def optional_keys(rule: str) -> set[int]:
    """The integer keys that a map of the CDDL may do without."""
    text = re.sub(r";.*", "", CDDL)
    (body,) = re.findall(rf"^{rule} = \{{(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    return {int(key) for key in re.findall(r"\?\s*(\d+):", body)}


@pytest.mark.parametrize("name", VECTORS)
def test_the_cddl_takes_the_bytes_and_no_others(name: str) -> None:
    rule, data = VECTORS[name][0], pinned(name)
    members = cbor2.loads(data)

    assert is_a(rule, data)
    for key in members.keys() - optional_keys(rule):
        assert not is_a(rule, cbor2.dumps({one: value for one, value in members.items() if one != key})), key
    for key in members:
        assert not is_a(rule, cbor2.dumps(members | {key: "no such thing" * 30})), key
    assert not is_a(rule, cbor2.dumps(members | {99: 1}))


@pytest.mark.parametrize("name", ["root", "status"])
def test_the_cddl_takes_the_trust_documents(name: str) -> None:
    payload, _ = split(pinned(name))

    assert is_a("document", pinned(name))
    assert is_a(name, payload)
    assert not is_a({"root": "status", "status": "root"}[name], payload)


@pytest.mark.parametrize("profile", list(ChunkProfile))
def test_the_cddl_takes_the_index_and_the_pages_of_an_image(profile: ChunkProfile) -> None:
    image = chunk_image([b"an image of some length. " * 20_000], profile)
    assert list(image)
    index = image.index()

    assert is_a("index", index.root)
    assert [is_a("page", page) for page in index.pages] == [True]
    assert not is_a("index", index.pages[0])


def test_the_cddl_numbers_every_state_action_and_reason() -> None:
    text = CDDL

    for state in REPORTED:
        assert re.search(rf"\b{state.value.replace('_', '-')}: {STATE_NUMBERS[state]}\b", text), state
    for action in Action:
        assert re.search(rf"\b{action.name.lower()}: {action.value}\b", text), action
    assert f"0..{max(Reason)}" in text


# --- docs/reasons.md ---


def test_every_reason_is_documented_with_its_number_and_family() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `([a-z_]+)` \| ([a-z]+) \| ([^|]+) \| ([^|]+) \|$",
        (DOCS / "reasons.md").read_text(),
        re.MULTILINE,
    )

    assert {(int(number), name, family) for number, name, family, _, _ in rows} == {
        (reason.value, reason.name.lower(), reason.family.value) for reason in Reason
    }
    assert all(meaning.strip() for *_, meaning in rows)


def test_the_reasons_that_halt_a_campaign_are_marked() -> None:
    text = (DOCS / "reasons.md").read_text()
    marked = re.findall(r"^\| \d+ \| `([a-z_]+)` \| [a-z]+ \| [^|]*\*\*counts\*\*[^|]* \|", text, re.MULTILINE)

    assert set(marked) == {reason.name.lower() for reason in EXPLICIT_FAILURES}


# --- docs/protocol.md ---


@pytest.mark.parametrize("name", ["hello", "report", "directive_offer", "welcome", "welcome_admit"])
def test_the_examples_of_the_protocol_are_the_pinned_bytes(name: str) -> None:
    text = re.sub(r"\s+", "", (DOCS / "protocol.md").read_text())

    assert pinned(name).hex() in text
