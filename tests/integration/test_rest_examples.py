"""Every request that the OpenAPI document shows is sent to a real server, and answered as the document says.

The names in the examples (a campaign's id, say) stand for objects that are made here, each in the state that its
request is for.
"""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from jsonschema import Draft202012Validator

from firmware_store.keys import Algorithm, SigningKey
from server.api.application import document
from server.api.enrolment import EXAMPLE_REQUEST, PROVEN
from server.api.parameters import PATH
from server.domain.identity import DeviceId
from server.protocol.renewal import prove_renewal
from server.services.tokens import Role
from tests.enrolment_world import request_builder, sign_request
from tests.integration.test_rest import make_token
from tests.integration.test_rest_blobs import share
from tests.servers import Answer, Api, ServerProcess, make_bundle, own_server, simulated, unique
from tests.trust_fleet import TrustFleet

DOCUMENT: dict[str, Any] = json.loads(document())
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
WAIT_S = 20

FIRST = (
    "add_devices",
    "upload_bundle",
    "create_campaign",
    "add_freeze",
    "create_token",
    "publish_status",
    "make_claim",
)
LAST = ("enrol", "renew_identity", "revoke_device", "remove_freeze", "revoke_token", "remove_webhook")
"""What the examples of others need comes first, and what ends it comes last; all else in any order."""


@dataclass
class World:
    """``real``: what a name in the examples stands for; ``sent``: the bodies, with their types, that are no JSON."""

    api: Api
    second: Api
    server: ServerProcess
    folder: Path
    real: dict[str, str] = field(default_factory=dict)
    sent: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    claim: str = ""
    key: SigningKey | None = None
    living: ExitStack = field(default_factory=ExitStack)

    def translate(self, value: Any) -> Any:
        text = json.dumps(value)
        for name, real in self.real.items():
            text = text.replace(json.dumps(name)[1:-1], json.dumps(real)[1:-1])
        return json.loads(text)

    async def campaign(self, *orders: str, **members: Any) -> str:
        """Let the examples' campaign be a new one, to which these orders were given."""
        draft = {
            "name": "spring",
            "bundle": self.real[PATH["bundle"].example],
            "cohort": unique("c"),
            "regions": ["eu"],
        }
        answer = await self.api.post("/v1/campaigns", draft | members)
        assert answer.status == 201, answer
        self.real[PATH["campaign"].example] = answer.body["id"]
        path = f"/v1/campaigns/{answer.body['id']}"
        for order in orders:
            answer = await self.api.post(f"{path}/{order}", {"reason": "because"})
            assert answer.status == 200, answer
        return path


Prepare = Callable[[World], Awaitable[object]]


async def prepare_bundle(world: World) -> None:
    shared = await share(world.api, world.server, world.folder)
    world.real[PATH["bundle"].example] = shared.id
    world.real[PATH["sha256"].example] = shared.page


async def prepare_upload(world: World) -> None:
    data = make_bundle(world.folder, world.server.keys).read_bytes()
    world.sent["upload_bundle"] = (data, "application/vnd.tidegate.bundle")


async def prepare_image(world: World) -> None:
    shared = await share(world.api, world.server, world.folder)
    world.real[PATH["sha256"].example] = shared.image


async def prepare_gate(world: World) -> None:
    wave = {"ratio": 1.0, "ramp_s": 0, "soak_s": 0, "gate": {"manual": True}}
    path = await world.campaign("start", plan={"waves": [wave, {"ratio": 1.0}]}, policy={"halt": {"block_s": 1}})
    async with asyncio.timeout(WAIT_S):
        while (await world.api.get(path)).body["awaits"] != "advance":
            await asyncio.sleep(0.1)


async def prepare_status(world: World) -> None:
    status = TrustFleet.open(world.server.keys).status(1)
    world.sent["publish_status"] = (status, "application/tidegate-status+cbor")


async def prepare_root(world: World) -> None:
    root = (await world.api.get("/v1/trust/root")).body
    world.sent["publish_root"] = (root, "application/tidegate-root+cbor")


async def prepare_revocation(world: World) -> None:
    """A halt proposes one."""
    await prepare_bundle(world)
    await world.campaign("start", "halt")
    proposed = (await world.api.get("/v1/trust/revocations")).body["revocations"]
    world.real[PATH["revocation"].example] = proposed[0]["id"]


async def prepare_operation(world: World) -> None:
    body = {"filter": "region = eu", "change": {"labels": {"site": "bremen"}}, "reason": "a move"}
    answer = await world.api.post("/v1/operations", body)
    assert answer.status == 202, answer
    world.real[PATH["operation"].example] = answer.body["id"]


async def prepare_rehearsal(world: World) -> None:
    """It is of devices that have said what they are."""
    world.living.enter_context(
        simulated(world.server, world.folder, devices=1, regions=["eu"], factory=b"the factory's image " * 1000)
    )
    async with asyncio.timeout(WAIT_S):
        while not (await world.api.get("/v1/devices", params={"filter": "hardware:* AND online = true"})).body[
            "devices"
        ]:
            await asyncio.sleep(0.1)
    await world.campaign(cohort="main")


async def prepare_table(world: World) -> None:
    table = f"id,region,cohort,labels\n{unique('gw')},eu,main,\n"
    world.sent["import_devices"] = (table.encode(), "text/csv")


async def prepare_enrolment(world: World) -> None:
    world.key = SigningKey.generate(Algorithm.ED25519)
    request = sign_request(request_builder(""), world.key).public_bytes(Encoding.DER)
    world.real[EXAMPLE_REQUEST["csr"]] = b64encode(request).decode()
    claim = await world.api.post(f"/v1/devices/{PATH['device'].example}/claim", {})
    world.claim = claim.body["claim"]


async def prepare_renewal(world: World) -> None:
    assert world.key is not None
    nonce = (await world.api.post("/v1/enrol/nonce", {})).body["nonce"]
    request = sign_request(request_builder(""), world.key).public_bytes(Encoding.DER)
    proof = prove_renewal(world.key, DeviceId(PATH["device"].example), request, b64decode(nonce))
    world.real |= {
        EXAMPLE_REQUEST["csr"]: b64encode(request).decode(),
        PROVEN["nonce"]: nonce,
        PROVEN["proof"]: b64encode(proof).decode(),
    }


async def prepare_webhook(world: World) -> None:
    if PATH["webhook"].example not in world.real:
        answer = await world.api.post("/v1/webhooks", {"name": "nowhere", "url": "https://hooks.invalid/"})
        world.real[PATH["webhook"].example] = answer.body["webhook"]["id"]


async def prepare_delivery(world: World) -> None:
    """Whatever becomes of a try, it can be made once more."""
    await prepare_webhook(world)
    await world.api.post(f"/v1/devices/{PATH['device'].example}/hold", {"reason": "on the bench"})
    path = f"/v1/webhooks/{world.real[PATH['webhook'].example]}/deliveries"
    async with asyncio.timeout(WAIT_S):
        while not (tries := (await world.api.get(path)).body["deliveries"]):
            await asyncio.sleep(0.1)
    world.real[PATH["delivery"].example] = str(tries[0]["id"])


PREPARED: dict[str, Prepare] = {
    "upload_bundle": prepare_upload,
    "get_blob": prepare_bundle,
    "head_blob": prepare_bundle,
    "get_image": prepare_image,
    "head_image": prepare_image,
    "submit_campaign": lambda world: world.campaign(),
    "approve_campaign": lambda world: world.campaign("submit", policy={"approvals": 1}),
    "start_campaign": lambda world: world.campaign(),
    "advance_campaign": prepare_gate,
    "pause_campaign": lambda world: world.campaign("start"),
    "resume_campaign": lambda world: world.campaign("start", "pause"),
    "roll_campaign_back": lambda world: world.campaign("start", "halt"),
    "halt_campaign": lambda world: world.campaign("start"),
    "cancel_campaign": lambda world: world.campaign("start"),
    "publish_root": prepare_root,
    "publish_status": prepare_status,
    "decline_revocation": prepare_revocation,
    "get_webhook": prepare_webhook,
    "change_webhook": prepare_webhook,
    "rotate_webhook": prepare_webhook,
    "remove_webhook": prepare_webhook,
    "list_deliveries": prepare_webhook,
    "resend_delivery": prepare_delivery,
    "get_operation": prepare_operation,
    "cancel_operation": prepare_operation,
    "rehearse_campaign": prepare_rehearsal,
    "import_devices": prepare_table,
    "enrol": prepare_enrolment,
    "renew_identity": prepare_renewal,
}

MADE = {"upload_bundle": "bundle", "create_campaign": "campaign", "add_freeze": "freeze", "create_token": "token_id"}
"""Whose answer has the id that stands in the examples of others."""


@pytest.fixture(scope="module")
def alone() -> Iterator[ServerProcess]:
    with own_server() as server:
        yield server


@pytest.fixture
async def world(alone: ServerProcess, tmp_path: Path) -> AsyncIterator[World]:
    api = Api(alone.url, alone.token)
    second = Api(alone.url, await make_token(api, Role.ADMIN))
    with ExitStack() as living:
        yield World(api, second, alone, tmp_path, living=living)
    await api.close()
    await second.close()


def _order() -> list[str]:
    between = [name for name in OPERATIONS if name not in {*FIRST, *LAST}]
    return [*FIRST, *between, *LAST]


async def replay(world: World, name: str) -> Answer:
    """Send the request that the document shows of an operation."""
    method, path, operation = OPERATIONS[name]
    given: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
    for parameter in operation.get("parameters", []):
        if "example" in parameter:
            given[parameter["in"]][parameter["name"]] = parameter["example"]
        else:
            assert not parameter["required"], (name, parameter)
    options: dict[str, Any] = {"headers": dict(given["header"])}
    if name in world.sent:
        options["data"], options["headers"]["Content-Type"] = world.sent[name]
    elif "requestBody" in operation:
        options["json"] = world.translate(operation["requestBody"]["content"]["application/json"]["example"])
    if operation["security"] == [{"claim": []}]:
        options["headers"]["Authorization"] = f"Bearer {world.claim}"
    options["params"] = [(key, _text(one)) for key, value in given["query"].items() for one in _all(value)]
    api = world.second if name == "approve_campaign" else world.api
    return await api.call(method, path.format_map(world.translate(given["path"])), **options)


def _all(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def check(name: str, answer: Answer) -> None:
    """The answer is one that the document promises to whoever is let do it."""
    method, _, operation = OPERATIONS[name]
    assert answer.status < 300, (name, answer)
    promised = operation["responses"][str(answer.status)].get("content", {})
    if method == "HEAD":
        return
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in promised, (name, kind, list(promised))
    schema = promised[kind]["schema"]
    if "$ref" in schema:
        whole = {**schema, "components": DOCUMENT["components"]}
        validator = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
        assert [error.message for error in validator.iter_errors(answer.body)] == [], name


async def test_every_example_is_answered_as_the_document_says(world: World) -> None:
    answered = []
    for name in _order():
        if name in PREPARED:
            await PREPARED[name](world)
        answer = await replay(world, name)
        check(name, answer)
        if name in MADE:
            world.real[PATH[MADE[name]].example] = answer.body["id"]
        answered.append(name)

    assert sorted(answered) == sorted(OPERATIONS)
