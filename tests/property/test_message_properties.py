"""Messages, orders and topics: whatever is written is read back, and whatever else comes is refused in one way."""

import contextlib
from dataclasses import replace
from datetime import UTC
from typing import Any
from uuid import UUID

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_store.codec import decode, encode
from firmware_store.errors import CodecError, InvalidInputError
from server.domain.execution import REPORTED
from server.domain.gate import FULL, Ramp
from server.domain.identity import CampaignId, Cohort, DeviceId, HardwareClass, Region
from server.domain.windows import Window
from server.protocol import messages
from server.protocol.messages import Beat, Counter, Gone, Hello, Report, Slot
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
from server.protocol.reasons import Reason
from server.protocol.sources import DeltaOffer, HttpSource, Transport
from server.protocol.topics import CohortAudience, DeviceAudience, Topics, Up, UpTopic

u63 = st.integers(0, (1 << 63) - 1)
campaigns = st.uuids().map(CampaignId)
devices = st.from_regex(r"[a-z0-9][a-z0-9_-]{2,63}", fullmatch=True).map(DeviceId)
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)
regions, cohorts = names.map(Region), names.map(Cohort)
ramps = st.tuples(u63, st.integers(0, FULL), u63, st.integers(0, FULL)).map(
    lambda v: Ramp(min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=16)
counters = st.builds(Counter, u63, u63)
reports = st.builds(
    Report,
    sequence=u63,
    campaign=campaigns,
    manifest_digest=st.binary(min_size=32, max_size=32),
    attempt=st.integers(0, 255),
    state=st.sampled_from(sorted(REPORTED)),
    reason=st.sampled_from(Reason),
    detail=texts,
    done_bytes=u63,
    total_bytes=u63,
    slot=texts,
)
slots = st.builds(
    Slot,
    name=texts,
    sequence_number=u63,
    version=texts,
    manifest_digest=st.just(b"") | st.binary(min_size=32, max_size=32),
    state=texts,
)
hellos = st.builds(
    Hello,
    boot_id=st.binary(min_size=8, max_size=8),
    vendor=texts,
    hardware=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._|-]{0,63}", fullmatch=True).map(HardwareClass),
    agent_version=texts,
    slots=st.lists(slots, max_size=4).map(tuple),
    booted=texts,
    nonce=st.binary(min_size=16, max_size=16),
    root_version=u63,
    status_version=u63,
    cohort_counter=counters,
    device_counter=counters,
    execution=st.none() | reports,
    labels=st.dictionaries(texts, texts, max_size=4),
    utc_offset_minutes=st.none() | st.integers(-1440, 1440),
    wake_interval_s=st.none() | st.integers(1, 31 * 86_400),
)
beats = st.builds(
    Beat,
    boot_id=st.binary(min_size=8, max_size=8),
    uptime_s=st.integers(0, (1 << 32) - 1),
    cohort_counter=counters,
    execution=st.none() | reports,
    health=st.dictionaries(st.sampled_from(["errors", "restarts", "free_bytes"]), u63),
)
gones = st.builds(Gone, boot_id=st.binary(min_size=8, max_size=8), nonce=st.binary(min_size=16, max_size=16))
digests = st.binary(min_size=32, max_size=32)
halted = st.sets(digests, max_size=16).map(lambda found: tuple(sorted(found)))
statuses = st.none() | st.builds(StatusRef, u63, digests)
audiences = st.builds(CohortAudience, regions, cohorts) | st.builds(DeviceAudience, regions, devices)
windows = st.builds(
    Window, st.sampled_from(["* * * * *", "0 2 * * 1-5", "*/5 22 L * MON#2", "59 23 29 2 *"]), st.integers(1, 604_800)
)
deltas = st.builds(
    DeltaOffer,
    component=st.integers(0, 31),
    codec=st.from_regex(r"[a-z][a-z0-9-]{0,15}", fullmatch=True),
    source_digest=digests,
    target_digest=digests,
    wire_bytes=st.integers(65_537, 1 << 34),
    index_digest=digests,
    index_size=st.integers(1, 65_536),
    chunk_count=st.integers(1, 1 << 20),
)
urls = st.from_regex(r"https?://[a-z0-9.-]{1,32}(:[0-9]{1,5})?(/[A-Za-z0-9._~-]{1,8}){0,3}", fullmatch=True)
https = st.builds(
    HttpSource, st.sampled_from(Transport), urls, st.from_regex(r"[A-Za-z0-9._~+/=-]{1,128}", fullmatch=True)
)
ordered = st.builds(
    Directive,
    fleet=st.binary(min_size=16, max_size=16),
    audience=audiences,
    counter=counters,
    issued=u63,
    expires=u63,
    action=st.sampled_from(sorted(set(Action) - {Action.NONE})),
    campaign=campaigns,
    manifest_digest=st.binary(min_size=32, max_size=32),
    sequence_number=u63,
    envelope=st.builds(Envelope, st.binary(min_size=32, max_size=32), u63),
    ramp=ramps,
    deadlines=st.builds(Deadlines, u63, u63, u63),
    keep_on_halt=st.booleans(),
    halted=halted,
    status=statuses,
    members_before=st.none() | u63,
    windows=st.lists(windows, max_size=8).map(tuple),
    reboots_admitted=st.booleans(),
)
offers = st.builds(
    replace,
    ordered,
    action=st.just(Action.OFFER),
    deltas=st.lists(deltas, max_size=8).map(tuple),
    http=st.none() | https,
)
nothing = st.builds(
    Directive,
    fleet=st.binary(min_size=16, max_size=16),
    audience=audiences,
    counter=counters,
    issued=u63,
    expires=u63,
    action=st.just(Action.NONE),
    halted=halted,
    status=statuses,
)
directives = ordered | offers | nothing
welcomes = st.builds(
    Welcome,
    fleet=st.binary(min_size=16, max_size=16),
    device=devices,
    nonce=st.binary(min_size=16, max_size=16),
    server_time=u63,
    cohort_counter=counters,
    device_counter=counters,
    region=regions,
    cohort=cohorts,
    member_since=u63,
    held=st.booleans(),
    heartbeat_s=u63,
    root_version=u63,
    status_version=u63,
    admit=st.none() | st.builds(Admit, campaigns, u63),
    utc_offset_minutes=st.none() | st.integers(-1440, 1440),
    reboot=st.none() | st.builds(Admit, campaigns, u63),
)

TELEMETRY: dict[str, tuple[Any, Any, Any]] = {
    "report": (reports, messages.encode_report, messages.decode_report),
    "hello": (hellos, messages.encode_hello, messages.decode_hello),
    "beat": (beats, messages.encode_beat, messages.decode_beat),
    "gone": (gones, messages.encode_gone, messages.decode_gone),
    "ack": (u63, messages.encode_ack, messages.decode_ack),
}


@pytest.mark.parametrize("kind", TELEMETRY)
@given(data=st.data())
def test_telemetry_comes_back_as_it_was(kind: str, data: st.DataObject) -> None:
    values, to_bytes, from_bytes = TELEMETRY[kind]
    value = data.draw(values)

    assert from_bytes(to_bytes(value)) == value


@given(directives)
def test_a_directive_comes_back_as_it_was(directive: Directive) -> None:
    assert read_directive(decode(encode(directive_map(directive)))) == directive


@given(welcomes)
def test_a_welcome_comes_back_as_it_was(welcome: Welcome) -> None:
    assert read_welcome(decode(encode(welcome_map(welcome)))) == welcome


DECODERS = [from_bytes for _, _, from_bytes in TELEMETRY.values()]


def refuse_or_accept(data: bytes) -> None:
    for from_bytes in DECODERS:
        try:
            from_bytes(data)
        except CodecError:
            continue


@given(st.binary(max_size=5000))
def test_arbitrary_bytes_raise_nothing_but_a_codec_error(data: bytes) -> None:
    refuse_or_accept(data)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=33) | texts | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(-2, 14) | texts, inner, max_size=6),
    max_leaves=15,
)


@given(anything)
def test_any_cbor_raises_nothing_but_a_codec_error(value: object) -> None:
    refuse_or_accept(cbor2.dumps(value, timezone=UTC))


@pytest.mark.parametrize("kind", TELEMETRY)
@given(data=st.data())
def test_a_message_with_one_byte_changed_raises_nothing_but_a_codec_error(kind: str, data: st.DataObject) -> None:
    values, to_bytes, _ = TELEMETRY[kind]
    message = bytearray(to_bytes(data.draw(values)))
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))

    refuse_or_accept(bytes(message))


@pytest.mark.parametrize("kind", TELEMETRY)
@given(data=st.data())
def test_a_member_of_another_type_raises_nothing_but_a_codec_error(kind: str, data: st.DataObject) -> None:
    values, to_bytes, from_bytes = TELEMETRY[kind]
    message = cbor2.loads(to_bytes(data.draw(values)))
    message[data.draw(st.sampled_from(sorted(message)))] = data.draw(anything)

    with contextlib.suppress(CodecError):
        from_bytes(cbor2.dumps(message, timezone=UTC))


@pytest.mark.parametrize(("write", "read"), [(directive_map, read_directive), (welcome_map, read_welcome)])
@given(data=st.data())
def test_an_order_with_a_member_changed_raises_nothing_but_a_codec_error(
    write: Any, read: Any, data: st.DataObject
) -> None:
    order = dict(write(data.draw(directives if write is directive_map else welcomes)))
    order[data.draw(st.sampled_from([*order, 99]))] = data.draw(
        st.none() | st.booleans() | u63 | st.binary(max_size=33) | texts | st.lists(u63 | texts, max_size=5)
    )

    with contextlib.suppress(CodecError):
        read(order)


@given(regions, devices, st.sampled_from(Up))
def test_a_topic_that_a_device_publishes_on_is_read_back(region: Region, device: DeviceId, kind: Up) -> None:
    topics = Topics()

    assert topics.parse_up(topics.up(region, device, kind)) == UpTopic(region, device, kind)


@given(st.text(max_size=60) | st.text("tg/1+#*device.up-eu\n", max_size=40).map(lambda tail: f"tg/1/{tail}"))
def test_any_other_topic_raises_nothing_but_a_codec_error(topic: str) -> None:
    topics = Topics()
    for parse in (topics.parse_up, topics.parse_directive, topics.parse_trust_root, topics.parse_blob):
        with pytest.raises(CodecError):
            parse(topic)


@given(st.integers(1, 10**18 - 1))
def test_the_version_of_a_root_is_read_off_its_topic(version: int) -> None:
    topics = Topics()

    assert topics.parse_trust_root(topics.trust_root(version)) == version


@pytest.mark.parametrize("version", ["0", "01", "-1", "+1", "1\n", "1e3", "", "\u0661", "9" * 19])
def test_a_topic_with_another_form_of_a_number_is_no_root_documents(version: str) -> None:
    with pytest.raises(CodecError):
        Topics().parse_trust_root(f"tg/1/trust/root/{version}")


@pytest.mark.parametrize(
    "halted",
    [(b"b" * 32, b"a" * 32), (b"a" * 32, b"a" * 32), tuple(bytes([n]) * 32 for n in range(17))],
    ids=["not sorted", "twice", "too many"],
)
def test_a_list_of_halted_releases_has_one_form(halted: tuple[bytes, ...]) -> None:
    directive = Directive(b"f" * 16, CohortAudience(Region("eu"), Cohort("main")), Counter(1, 1), 1, 2, Action.NONE)

    with pytest.raises(InvalidInputError):
        replace(directive, halted=halted)
    with pytest.raises(CodecError):
        read_directive({**directive_map(directive), 20: list(halted)})


def test_no_halted_releases_are_no_member() -> None:
    directive = Directive(b"f" * 16, CohortAudience(Region("eu"), Cohort("main")), Counter(1, 1), 1, 2, Action.NONE)

    with pytest.raises(CodecError):
        read_directive({**directive_map(directive), 20: []})


def blank() -> Directive:
    return Directive(
        b"f" * 16,
        CohortAudience(Region("eu"), Cohort("main")),
        Counter(1, 1),
        1,
        2,
        Action.HOLD,
        campaign=CampaignId(UUID(int=1)),
        manifest_digest=bytes(32),
    )


@pytest.mark.parametrize(
    "windows",
    [
        [],
        [["0 2 * * *", 3600]] * 9,
        [["0 2 * * *", 0]],
        [["0 2 * * *", 604_801]],
        [["0 2 * * *", -1]],
        [["0 2 * * *", True]],
        [["0 2 * * *", "3600"]],
        [["0 2 * * *"]],
        [["0 2 * * *", 3600, 1]],
        [["0 0 2 * * *", 3600]],
        [["0 2 * *", 3600]],
        [["0 2 * *  *", 3600]],
        [["0 2 * * *\n", 3600]],
        [["60 2 * * *", 3600]],
        [["0 0 31 2 *", 3600]],
        [["@daily", 3600]],
        [[b"0 2 * * *", 3600]],
        ["0 2 * * *"],
        [["1," * 64 + "1 2 * * *", 3600]],
        {1: ["0 2 * * *", 3600]},
        None,
    ],
)
def test_a_window_that_cannot_be_is_refused(windows: Any) -> None:
    with pytest.raises(CodecError):
        read_directive({**directive_map(blank()), 15: windows})


@pytest.mark.parametrize("members_before", [-1, True, "1", None, 1 << 63])
def test_the_day_of_a_snapshot_is_a_time(members_before: Any) -> None:
    with pytest.raises(CodecError):
        read_directive({**directive_map(blank()), 14: members_before})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (13, [bytes(15), 5]),
        (13, [bytes(16), -1]),
        (13, [bytes(16)]),
        (13, [bytes(16), 5, 5]),
        (13, bytes(16)),
        (13, None),
        (14, 1441),
        (14, -1441),
        (14, True),
        (14, None),
        (15, 0),
    ],
)
@given(welcome=welcomes)
def test_a_welcome_that_cannot_be_is_refused(key: int, value: Any, welcome: Welcome) -> None:
    with pytest.raises(CodecError):
        read_welcome({**welcome_map(welcome), key: value})


def test_an_offset_beyond_a_day_is_refused_where_it_is_made() -> None:
    with pytest.raises(InvalidInputError):
        Welcome(
            bytes(16),
            DeviceId("gw-1"),
            bytes(16),
            1,
            Counter(),
            Counter(),
            Region("eu"),
            Cohort("main"),
            0,
            False,
            60,
            utc_offset_minutes=1441,
        )


DELTA: list[Any] = [0, "zstd", bytes(32), bytes(32), 100, bytes(32), 39, 1]
SOURCE: list[Any] = [1, "https://updates.example.com/ota", "tk_1_00"]


def blank_offer() -> Directive:
    return replace(blank(), action=Action.OFFER, envelope=Envelope(bytes(32), 1), ramp=Ramp(0, 0, 0, 0))


def changed(row: list[Any], number: int, value: Any) -> list[Any]:
    return [*row[:number], value, *row[number + 1 :]]


@pytest.mark.parametrize(
    "deltas",
    [
        [],
        [DELTA] * 9,
        [DELTA[:-1]],
        [[*DELTA, 1]],
        [changed(DELTA, 0, 32)],
        [changed(DELTA, 0, -1)],
        [changed(DELTA, 1, "ZSTD")],
        [changed(DELTA, 1, "")],
        [changed(DELTA, 1, "a" * 17)],
        [changed(DELTA, 2, bytes(31))],
        [changed(DELTA, 3, "0" * 32)],
        [changed(DELTA, 4, 39)],
        [changed(DELTA, 4, (1 << 34) + 1)],
        [changed(DELTA, 5, b"")],
        [changed(DELTA, 6, 0)],
        [changed(DELTA, 6, 65_537)],
        [changed(DELTA, 7, 0)],
        [changed(DELTA, 7, (1 << 20) + 1)],
        [changed(DELTA, 7, True)],
        {0: DELTA},
        None,
    ],
)
def test_a_delta_that_cannot_be_is_refused(deltas: Any) -> None:
    assert read_directive({**directive_map(blank_offer()), 18: [DELTA]}).deltas

    with pytest.raises(CodecError):
        read_directive({**directive_map(blank_offer()), 18: deltas})


@pytest.mark.parametrize(
    "source",
    [
        SOURCE[:-1],
        [*SOURCE, 1],
        changed(SOURCE, 0, 2),
        changed(SOURCE, 0, True),
        changed(SOURCE, 1, "ftp://updates.example.com"),
        changed(SOURCE, 1, "https://updates.example.com/"),
        changed(SOURCE, 1, "https://user@updates.example.com"),
        changed(SOURCE, 1, "https://updates.example.com/?a=b"),
        changed(SOURCE, 1, "https://updates.example.com/\r\nHost: a"),
        changed(SOURCE, 1, "https://" + "a" * 250),
        changed(SOURCE, 1, b"https://updates.example.com"),
        changed(SOURCE, 2, ""),
        changed(SOURCE, 2, "tk\r\nHost: a"),
        changed(SOURCE, 2, "t" * 129),
        None,
    ],
)
def test_a_source_that_cannot_be_is_refused(source: Any) -> None:
    assert read_directive({**directive_map(blank_offer()), 19: SOURCE}).http

    with pytest.raises(CodecError):
        read_directive({**directive_map(blank_offer()), 19: source})


@pytest.mark.parametrize(("key", "value"), [(18, [DELTA]), (19, SOURCE)])
def test_only_an_offer_names_sources(key: int, value: Any) -> None:
    with pytest.raises(CodecError):
        read_directive({**directive_map(blank()), key: value})


@given(reports, st.binary(min_size=1, max_size=20))
def test_nothing_may_follow_a_message(report: Report, tail: bytes) -> None:
    with pytest.raises(CodecError):
        messages.decode_report(messages.encode_report(report) + tail)
