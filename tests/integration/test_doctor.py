"""What people get wrong, and whether the doctor sees it: with a real server, brokers and databases."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from server.cli.doctor import broker as probes
from server.cli.doctor import doctor, place, rest
from server.cli.doctor.finding import DAY_S, Finding, State, ends
from server.embedded import EmbeddedPostgres
from tests.brokers import Broker, nats
from tests.mosquitto_peer import Authority
from tests.ports import free_port
from tests.servers import Api, ServerProcess, unique


async def found(findings: AsyncIterator[Finding]) -> dict[str, Finding]:
    return {finding.check: finding async for finding in findings}


def states(findings: dict[str, Finding]) -> dict[str, State]:
    return {check: finding.state for check, finding in findings.items()}


# --- a server ---


async def test_a_server_that_is_well_is_said_to_be_so(server: ServerProcess) -> None:
    seen = await found(rest.examine(server.url, server.token))

    assert {check for check, state in states(seen).items() if state is State.OK} >= {
        *("server", "clock", "tls", "version", "token", "database", "broker", "store", "evaluator", "trust", "root"),
    }
    assert State.FAIL not in states(seen).values()
    assert all(finding.remedy for finding in seen.values() if finding.state is State.WARN)


async def test_a_server_that_does_not_answer_is_all_there_is_to_say() -> None:
    seen = await found(rest.examine(f"http://127.0.0.1:{free_port()}", "tg_x_y"))

    assert states(seen) == {"server": State.FAIL, "token": State.SKIPPED}
    assert "tidegate serve" in seen["server"].remedy


async def test_a_token_is_refused_missing_or_about_to_expire(server: ServerProcess, admin: Api) -> None:
    body = {"name": unique("short"), "role": "viewer", "valid_seconds": 3600}
    short = (await admin.post("/v1/tokens", body)).body["token"]

    given = {"": State.SKIPPED, "tg_00000000_nobody": State.FAIL, short: State.WARN}
    seen = {token: (await found(rest.examine(server.url, token)))["token"] for token in given}

    assert {token: finding.state for token, finding in seen.items()} == given
    assert seen[short].says.startswith(f"that of {body['name']}, viewer ends in 0.0 days")
    assert all(finding.remedy for finding in seen.values())


async def test_something_else_that_answers_is_no_server(server: ServerProcess) -> None:
    seen = await found(rest.examine(f"{server.url}/elsewhere", server.token))

    assert seen["server"].state is State.FAIL
    assert "answers 404" in seen["server"].says


def test_a_command_says_it_as_text_and_json_and_by_its_exit_code(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    well = doctor(server=server.url, token=server.token)
    text = capsys.readouterr().out
    wrong = doctor(server=server.url, token="tg_00000000_nobody", output="json")
    rows = json.loads(capsys.readouterr().out)

    assert (well, wrong) == (0, 1)
    assert f"ok      server: {server.url} answers in " in text
    assert {"state": "skipped", "check": "broker's abilities"}.items() <= rows[-1].items()
    assert next(row for row in rows if row["check"] == "token")["state"] == "fail"


@pytest.mark.parametrize(("skew_s", "state"), [(0, State.OK), (-30, State.WARN), (30, State.WARN), (-4000, State.FAIL)])
def test_a_clock_that_differs_is_told_by_how_much(skew_s: int, state: State) -> None:
    finding = rest._clock(formatdate(1_800_000_000 + skew_s, usegmt=True), 1_800_000_000.2, 1_800_000_000.4)

    assert finding.state is state
    assert state is State.OK or finding.remedy


@pytest.mark.parametrize(("days", "state"), [(-1, State.FAIL), (3, State.WARN), (30, State.OK)])
def test_what_ends_soon_is_told_before_it_does(days: int, state: State) -> None:
    finding = ends("root", "root 3", 1000 + days * DAY_S, now=1000, remedy="sign another")

    assert (finding.state, bool(finding.remedy)) == (state, state is not State.OK)


async def test_a_certificate_that_ends_in_an_hour_is_seen_though_nobody_trusts_it(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority(tmp_path).issue("localhost", file="rest"))
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]

    async with server:
        finding = await rest._certificate(f"https://localhost:{port}")

    assert (finding.state, finding.check) == (State.WARN, "tls")
    assert finding.says == "its certificate ends in 0.0 days"


# --- a broker of one's own ---


@pytest.fixture
def own_broker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Broker]:
    broker = nats(tmp_path, accounts=getattr(request, "param", ""))
    broker.start()
    yield broker
    broker.stop()


async def test_a_broker_that_can_do_all_is_left_as_it_was(own_broker: Broker) -> None:
    url = f"mqtt://127.0.0.1:{own_broker.port}"

    first = await found(probes.examine(url, "tg/1"))
    again = await found(probes.examine(url, "tg/1"))

    checks = {"broker connection", "broker retained", "broker packet size", "broker sessions, QoS 1"}
    assert states(first) == states(again) == dict.fromkeys(checks, State.OK)


@pytest.mark.parametrize("own_broker", ["max_payload: 8192"], indirect=True)
async def test_a_broker_with_small_packets_is_found_out(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "ANSWER_S", 2.0)

    seen = await found(probes.examine(f"mqtt://127.0.0.1:{own_broker.port}", "tg/1"))

    assert seen["broker retained"].state is State.OK
    wrong = [finding for finding in seen.values() if finding.state is State.FAIL]
    assert wrong
    assert all(finding.remedy for finding in wrong)


async def test_a_broker_that_is_not_there_and_a_url_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "ANSWER_S", 0.5)

    for url in (f"mqtt://127.0.0.1:{free_port()}", "http://127.0.0.1"):
        seen = await found(probes.examine(url, "tg/1"))

        assert states(seen) == {"broker connection": State.FAIL}


# --- a database and a disk of one's own ---


async def test_a_database_is_of_this_release_or_it_is_said_what_to_run(
    database: str, postgres: EmbeddedPostgres
) -> None:
    well = await found(place.examine_database(database))
    empty = await found(place.examine_database(postgres.database_url))
    nowhere = await found(place.examine_database(f"postgresql://nobody@127.0.0.1:{free_port()}/x"))

    assert states(well) == {"PostgreSQL": State.OK, "schema": State.OK}
    assert states(empty) == {"PostgreSQL": State.OK, "schema": State.FAIL}
    assert "tidegate db migrate" in empty["schema"].remedy
    assert states(nowhere) == {"PostgreSQL": State.FAIL}


def test_a_disk_is_measured_where_there_is_one(tmp_path: Path) -> None:
    assert "GiB free" in place.examine_disk(tmp_path).says
    assert place.examine_disk(tmp_path / "nowhere").state is State.FAIL
