import gzip
import json

import numpy as np
import pytest

from server.services.replay.scenarios import SCENARIOS, make_trace
from server.traces.format import TraceError, lines_of, read_trace, write_trace


@pytest.fixture(params=["trace.jsonl", "trace.jsonl.gz"])
def path(request, tmp_path):
    return tmp_path / request.param


def lines(name="hardware", devices=20):
    return list(lines_of(make_trace(name, devices=devices, seed=1)))


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def refusal(path):
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    return caught.value


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_trace_is_read_as_it_was_written(name, path):
    trace = make_trace(name, devices=60, seed=3)

    write_trace(path, trace)
    again = read_trace(path)

    assert list(lines_of(trace)) == list(lines_of(again))
    assert np.array_equal(trace.away.start, again.away.start)


def test_the_example_of_the_format_is_read(tmp_path):
    records = [
        {
            "k": "head", "v": "haltrace/1", "name": "HW10x50", "seed": 1, "unit": "s", "tick": 60, "duration": 108000,
            "t0": "2025-01-06T09:00:00Z", "mqtt": {"heartbeat": 60, "keepalive": 60, "lwt": True}, "devices": 1,
        },
        {
            "k": "release", "fw": "2.0.0",
            "reboot": {"dist": "lognormal", "median": 60, "sigma": 0.7, "min": 10, "max": 300},
            "slow": {"p": 0.003, "s": [300, 720]}, "attrition_p": 0.0005,
            "faults": [
                {
                    "kind": "flap", "p": 0.5, "sel": {"hw": "hw0", "region": "r0"}, "every_s": [180, 480],
                    "off_s": [30, 90], "after_s": {"dist": "lognormal", "median": 10800, "sigma": 0.5},
                    "reboot_s": [1080, 2460],
                }
            ],
        },
        {"k": "expect", "verdict": "halt|hold", "scope": "hw0", "channel": "flap", "must_not": [], "must": ["pause"]},
        {"k": "note", "t": 75300, "d": 1620, "what": "region", "devices": 164},
        {"k": "dev", "id": "d000000", "region": "r0", "hw": "hw0", "site": "s8", "unsteady": True, "fw": "1.0.0"},
        {"k": "off", "id": "d000000", "iv": [[900, 960], [7200, 9000]]},
    ]  # fmt: skip

    trace = read_trace(write(tmp_path / "example.jsonl", records))

    assert trace.release.download_s is None
    assert [trace.away.start[1], trace.away.end[1]] == [7200.0, 9000.0]
    assert trace.devices.unsteady.tolist() == [True]
    assert trace.devices.away_by_habit.tolist() == [True]
    steady = read_trace(write(tmp_path / "steady.jsonl", replaced(records, "dev", unsteady=False, habit=True)))
    assert [steady.devices.unsteady.tolist(), steady.devices.away_by_habit.tolist()] == [[False], [True]]


def test_what_devices_declare_of_their_sleep_is_written_and_read_again(tmp_path):
    trace = make_trace("sleepers-brick-30", devices=60, seed=1)
    write_trace(tmp_path / "trace.jsonl", trace)

    again = read_trace(tmp_path / "trace.jsonl")

    assert set(trace.devices.wake_s.tolist()) == {0.0, 3600.0}
    assert again.devices.wake_s.tolist() == trace.devices.wake_s.tolist()
    assert again.release.faults == trace.release.faults


def replaced(records, kind, **fields):
    at = next(index for index, record in enumerate(records) if record["k"] == kind)
    return [*records[:at], {**records[at], **fields}, *records[at + 1 :]]


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (lambda records: records[1:], 1, "first line"),
        (lambda records: [records[0], *records], 2, "second head"),
        (lambda records: replaced(records, "head", v="haltrace/2"), 1, "haltrace/1"),
        (lambda records: replaced(records, "head", duration=float("inf")), 1, "duration"),
        (lambda records: replaced(records, "head", devices=21), 0, "promises 21"),
        (lambda records: replaced(records, "head", devices=19), 23, "more devices"),
        (lambda records: replaced(records, "head", extra=1), 1, "extra"),
        (lambda records: replaced(records, "head", t0="2025-01-06T09:00:00"), 1, "timezone"),
        (lambda records: [record for record in records if record["k"] != "release"], 0, "no release"),
        (lambda records: replaced(records, "release", faults=[{"kind": "flap", "p": 1}]), 2, "every_s"),
        (lambda records: replaced(records, "release", faults=[{"kind": "brick", "p": 2}]), 2, "less than or equal"),
        (
            lambda records: replaced(records, "release", faults=[{"kind": "brick", "p": 1, "sel": {"hw": "none"}}]),
            0,
            "selects none",
        ),
        (
            lambda records: replaced(records, "release", faults=[{"kind": "brick", "p": 1, "sel": {"sleeps": True}}]),
            0,
            "whether they sleep",
        ),
        (
            lambda records: replaced(records, "release", faults=[{"kind": "slow", "p": 1, "reboot_s": [0, 9]}]),
            2,
            "1 s or more",
        ),
        (lambda records: replaced(records, "expect", verdict="maybe"), 3, "verdict"),
        (lambda records: replaced(records, "dev", id="d000001"), 5, "twice"),
        (lambda records: replaced(records, "off", id="d999999"), None, "no dev line"),
        (lambda records: replaced(records, "off", iv=[[5, 9], [9, 12]]), None, "disjoint"),
        (lambda records: replaced(records, "off", iv=[[9, 5]]), None, "disjoint"),
        (lambda records: replaced(records, "off", iv=[[-1, 5]]), None, "greater than or equal"),
        (lambda records: [*records, {"k": "what"}], None, "what"),
        (lambda records: [*records, next(one for one in records if one["k"] == "off")], None, "already"),
    ],
)
def test_a_malformed_trace_is_refused_with_the_line(change, line, says, tmp_path):
    records = [record for record in lines() if record["k"] != "note"]

    error = refusal(write(tmp_path / "bad.jsonl", change(records)))

    assert says in str(error)
    assert line in {None, error.line}


@pytest.mark.parametrize("text", [b"", b"\n\n", b"{", b"\xff\xfe\n", b"[]\n", b"null\n", b'{"k":1}\n'])
def test_what_is_no_trace_is_refused(text, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(text)

    assert refusal(path)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"no gzip" + data])
def test_a_damaged_gzip_file_is_refused(damage, tmp_path):
    path = tmp_path / "bad.jsonl.gz"
    path.write_bytes(damage(gzip.compress(json.dumps(lines()[0]).encode() + b"\n" * 100)))

    assert refusal(path)


def test_a_missing_file_and_a_missing_folder_are_errors_of_the_caller(tmp_path):
    assert "No such file" in str(refusal(tmp_path / "none.jsonl"))
    with pytest.raises(TraceError):
        write_trace(tmp_path / "none" / "trace.jsonl", make_trace("healthy", devices=1, seed=1))


def test_a_line_that_never_ends_is_refused(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_bytes(b" " * (1 << 21))

    assert "1 MiB" in str(refusal(path))
