"""Trust through a real server, its broker and the command line: what people publish is what devices get."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from firmware_store.documents import Kind
from firmware_store.errors import ConflictError, InvalidInputError
from firmware_store.root import RoleName, key_file
from server.cli.root import app as root_app
from server.cli.status import app as status_app
from server.protocol.orders import Action, Directive, StatusRef, read_directive
from tests.mqtt_client import MqttClient
from tests.servers import Api, ServerProcess, make_bundle, own_server, unique
from tests.trust_fleet import TrustFleet

WAIT_S = 20
Run = Callable[..., list[str]]


@pytest.fixture
def own() -> Iterator[ServerProcess]:
    with own_server() as server:
        yield server


@pytest.fixture
async def api(own: ServerProcess) -> AsyncIterator[Api]:
    api = Api(own.url, own.token)
    yield api
    await api.close()


@pytest.fixture
def fleet(own: ServerProcess) -> TrustFleet:
    return TrustFleet.open(own.keys)


@pytest.fixture
def run(own: ServerProcess, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command against the server; returns the lines it printed on standard output."""

    def command(app: Any, *tokens: object) -> list[str]:
        words = [*map(str, tokens), "--server", own.url, "--token", own.token]
        app(words, result_action="return_value")
        return capsys.readouterr().out.splitlines()

    return command


def write(folder: Path, data: bytes) -> Path:
    path = folder / f"{hashlib.sha256(data).hexdigest()[:8]}.cbor"
    path.write_bytes(data)
    return path


class Device:
    """A device's connection to the broker; it believes nothing, and shows what comes."""

    def __init__(self, credential: dict[str, Any], *topics: str) -> None:
        chosen = {name: credential[name] for name in ("client_id", "username", "password")}
        self._client = MqttClient(credential["host"], credential["port"], **chosen)
        self._topics = topics

    def __enter__(self) -> Self:
        self._client.__enter__()
        assert self._client.subscribe(*self._topics) == [0] * len(self._topics)
        return self

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(*error)

    def until(self, wanted: Callable[[str, bytes], bool]) -> list[tuple[str, bytes]]:
        """Return what came, up to the first message that is wanted."""
        seen = []
        while not seen or not wanted(*seen[-1]):
            seen.append(self._client.receive())
        return seen


def directive(fleet: TrustFleet, body: bytes) -> Directive:
    return read_directive(fleet.root.unseal(Kind.DIRECTIVE, body).value)


async def running(api: Api, own: ServerProcess, folder: Path, cohort: str) -> tuple[str, dict[str, Any], Path]:
    """Upload a bundle and start a campaign on it; its first wave is open when this returns."""
    file = make_bundle(folder, own.keys)
    bundle = (await api.upload(file.read_bytes())).body
    plan = {"waves": [{"ratio": 1, "ramp_s": 0}]}
    draft = {"name": "spring", "bundle": bundle["id"], "cohort": cohort, "regions": ["eu"], "plan": plan}
    campaign = (await api.post("/v1/campaigns", draft)).body["id"]
    assert (await api.post(f"/v1/campaigns/{campaign}/start", {"reason": "go"})).status == 200
    async with asyncio.timeout(WAIT_S):
        while (await api.get(f"/v1/campaigns/{campaign}")).body["waves"][0]["state"] != "open":
            await asyncio.sleep(0.05)
    return campaign, bundle, file


async def test_a_revocation_reaches_the_devices_with_the_halt_of_the_campaign(
    own: ServerProcess, api: Api, fleet: TrustFleet, run: Run, tmp_path: Path
) -> None:
    cohort = unique("cohort")
    campaign, bundle, file = await running(api, own, tmp_path, cohort)
    credential = await api.add_device(unique("device"), "eu", cohort)
    status = fleet.status(1, digests=[bytes.fromhex(bundle["manifest_digest"])])
    topic = f"tg/1/eu/cohort/{cohort}/directive"

    with Device(credential, "tg/1/trust/status", topic) as device:
        offer = (await asyncio.to_thread(device.until, lambda where, _: where == topic))[-1][1]
        printed = await asyncio.to_thread(run, status_app, "publish", write(tmp_path, status))
        seen = await asyncio.to_thread(
            device.until, lambda where, body: where == topic and directive(fleet, body).action is Action.HALT
        )

    assert directive(fleet, offer).action is Action.OFFER
    assert printed == [campaign]
    *before, told, halt = seen
    assert {where for where, _ in before} <= {topic}  # an offer whose level was renewed meanwhile
    assert told == ("tg/1/trust/status", status)
    assert directive(fleet, halt[1]).status == StatusRef(1, hashlib.sha256(status).digest())

    view = (await api.get(f"/v1/campaigns/{campaign}")).body
    assert view["state"] == "halted"
    (decision, *_) = (await api.get(f"/v1/campaigns/{campaign}/decisions")).body["decisions"]
    assert (decision["actor"], decision["sentence"]) == ("trust", view["sentence"])
    assert (await api.get("/v1/trust/status")).body == status
    assert (await api.get("/v1/trust/revocations")).body["revocations"] == []

    again = await api.upload(file.read_bytes())
    assert (again.status, again.body["detail"]) == (422, "this release has been revoked")
    draft = {"name": "again", "bundle": bundle["id"], "cohort": unique("cohort"), "regions": ["eu"]}
    other = (await api.post("/v1/campaigns", draft)).body["id"]
    refused = await api.post(f"/v1/campaigns/{other}/start", {"reason": "go"})
    assert (refused.status, refused.body["title"]) == (422, "not trusted")
    assert (await api.get(f"/v1/campaigns/{other}")).body["state"] == "draft"


async def test_a_halt_proposes_a_revocation_until_it_is_signed_or_declined(
    own: ServerProcess, api: Api, fleet: TrustFleet, run: Run, tmp_path: Path
) -> None:
    campaigns = []
    for _ in range(2):
        campaign, bundle, _ = await running(api, own, tmp_path, unique("cohort"))
        campaigns.append((campaign, bundle["manifest_digest"]))
        await api.post(f"/v1/campaigns/{campaign}/halt", {"reason": "smoke"})

    proposed = [json.loads(line) for line in await asyncio.to_thread(run, status_app, "proposals", "-o", "jsonl")]
    assert {(one["campaign"], one["manifest_digest"], one["state"]) for one in proposed} == {
        (campaign, digest, "proposed") for campaign, digest in campaigns
    }

    (first,) = [one["id"] for one in proposed if one["campaign"] == campaigns[0][0]]
    assert await asyncio.to_thread(run, status_app, "decline", first, "--reason", "it was the weather") == ["declined"]
    with pytest.raises(ConflictError):
        await asyncio.to_thread(run, status_app, "decline", first, "--reason", "again")
    status = fleet.status(1, digests=[bytes.fromhex(campaigns[1][1])])
    assert await asyncio.to_thread(run, status_app, "publish", write(tmp_path, status)) == []

    assert await asyncio.to_thread(run, status_app, "proposals", "-o", "jsonl") == []
    answer = (await api.get("/v1/trust/revocations")).body["revocations"]
    settled = {(one["campaign"], one["state"], one["decided_by"], one["reason"]) for one in answer}
    assert settled == {
        (campaigns[0][0], "declined", "first-admin", "it was the weather"),
        (campaigns[1][0], "published", "first-admin", None),
    }


async def test_a_directive_key_is_replaced_while_the_server_runs_and_over_a_restart(
    own: ServerProcess, api: Api, fleet: TrustFleet, run: Run, tmp_path: Path
) -> None:
    cohort = unique("cohort")
    campaign, *_ = await running(api, own, tmp_path, cohort)
    credential = await api.add_device(unique("device"), "eu", cohort)
    topic = f"tg/1/eu/cohort/{cohort}/directive"
    new = fleet.new_key(RoleName.DIRECTIVE)
    old = fleet.root
    root = fleet.publish(fleet.rotated(fleet.kid(RoleName.DIRECTIVE), new, stolen=True))
    file = write(tmp_path, root)

    with pytest.raises(ConflictError, match=r"put its file, directive-2\.pem for example"):
        await asyncio.to_thread(run, root_app, "publish", file)
    key_file(own.keys, RoleName.DIRECTIVE, 2).write_bytes(new.to_pem(None))
    key_file(own.keys, RoleName.DIRECTIVE, 2).chmod(0o600)
    with Device(credential, "tg/1/trust/root/+", topic) as device:
        await asyncio.to_thread(device.until, lambda where, _: where == topic)
        assert await asyncio.to_thread(run, root_app, "publish", file) == []
        # a level that is renewed meanwhile brings orders of the old key
        seen = await asyncio.to_thread(device.until, lambda where, _: where == "tg/1/trust/root/2")
        orders = await asyncio.to_thread(device.until, lambda where, _: where == topic)

    assert seen[-1][1] == root
    order = directive(fleet, orders[-1][1])
    assert (order.action, order.counter.epoch) == (Action.OFFER, 2)

    own.stop()
    own.start()
    again = Api(own.url, own.token)
    try:
        assert (await again.get("/v1/trust/root")).body == root
        assert (await again.get("/v1/trust/root/1")).body == own.keys.joinpath("root.cbor").read_bytes()
        assert (await again.get(f"/v1/campaigns/{campaign}")).body["state"] == "running"
    finally:
        await again.close()
    with Device(await _credential(own, credential), "tg/1/trust/root/+", topic) as device:
        kept = dict(await asyncio.to_thread(device.until, lambda where, _: where == topic))
    assert directive(fleet, kept[topic]).counter.epoch == 2
    assert kept.get("tg/1/trust/root/2", root) == root
    assert old.version == 1


async def _credential(own: ServerProcess, credential: dict[str, Any]) -> dict[str, Any]:
    """The same device at the broker's new port."""
    api = Api(own.url, own.token)
    try:
        name = credential["username"]
        answer = await api.post(f"/v1/devices/{name}/credential", {})
        return dict(answer.body["credential"])
    finally:
        await api.close()


async def test_documents_are_fetched_to_make_the_next_ones(
    api: Api, fleet: TrustFleet, run: Run, tmp_path: Path
) -> None:
    assert (await api.get("/v1/trust/status")).status == 404
    roots = [fleet.publish(fleet.following()) for _ in range(2)]
    status = fleet.status(4)

    await asyncio.to_thread(run, root_app, "publish", *(write(tmp_path, root) for root in roots))
    await asyncio.to_thread(run, status_app, "publish", write(tmp_path, status))
    await asyncio.to_thread(run, root_app, "fetch", "-o", tmp_path / "root")
    await asyncio.to_thread(run, root_app, "fetch", "-o", tmp_path / "root-2", "--version", "2")
    await asyncio.to_thread(run, status_app, "fetch", "-o", tmp_path / "status")

    assert (tmp_path / "root").read_bytes() == roots[1]
    assert (tmp_path / "root-2").read_bytes() == roots[0]
    assert (tmp_path / "status").read_bytes() == status
    for version in ("4", "0", "-1", "1e1", "9" * 400, "²"):
        assert (await api.get(f"/v1/trust/root/{version}")).status == 404
    with pytest.raises(InvalidInputError):
        await asyncio.to_thread(run, root_app, "publish", tmp_path / "nowhere")


async def test_a_server_says_that_it_waits_for_a_status(api: Api, fleet: TrustFleet) -> None:
    headers = {"Content-Type": "application/cbor"}
    status = fleet.status(1, expires=int(time.time()) + 3)

    answer = await api.call("POST", "/v1/trust/status", data=status, headers=headers)

    assert (answer.status, answer.body["is_new"], answer.body["halted"]) == (200, True, [])
    async with asyncio.timeout(WAIT_S):
        while "expired" not in (text := await _trust_check(api)):
            await asyncio.sleep(0.2)
    assert text.startswith("root 1, status 1: the status document has expired")
    assert (await api.get("/readyz")).status == 503


async def _trust_check(api: Api) -> str:
    ready = await api.get("/readyz")
    (trust,) = [check for check in ready.body["checks"] if check["name"] == "trust"]
    return str(trust["text"])
