"""Roots and statuses that must not get in, at the server's door: each a typed refusal, a row, and nothing changed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from firmware_store.documents import Kind, seal
from firmware_store.root import RoleName, read_root
from server.services.tokens import Role
from tests.servers import Answer, Api, ServerProcess, own_server, pour, unique
from tests.trust_fleet import DAY_S, TrustFleet

ROOT_MEDIA, STATUS_MEDIA = "application/tidegate-root+cbor", "application/tidegate-status+cbor"

Forge = Callable[[TrustFleet, TrustFleet], bytes]


@pytest.fixture(scope="module")
def own() -> Iterator[ServerProcess]:
    """A server of its own: what is accepted here changes it."""
    with own_server() as server:
        yield server


@pytest.fixture
async def door(own: ServerProcess) -> AsyncIterator[Api]:
    api = Api(own.url, own.token)
    yield api
    await api.close()


@pytest.fixture
def fleet(own: ServerProcess) -> TrustFleet:
    return TrustFleet.open(own.keys)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> TrustFleet:
    return TrustFleet.make(tmp_path_factory.mktemp("strangers"))


async def send(api: Api, document: str, data: bytes, media: str | None = None) -> Answer:
    given = media or {"root": ROOT_MEDIA, "status": STATUS_MEDIA}[document]
    return await api.call("POST", f"/v1/trust/{document}", data=data, headers={"Content-Type": given})


async def everything(api: Api) -> dict[str, Any]:
    """All that the server says of its trust, without the list of what it has refused."""
    status = await api.get("/v1/trust/status")
    return {
        "root": (await api.get("/v1/trust/root")).body,
        "status": status.body if status.status == 200 else None,
        "ready": [check for check in (await api.get("/readyz")).body["checks"] if check["name"] == "trust"],
    }


async def assert_refused(api: Api, document: str, data: bytes, *, status: int = 422) -> str:
    before = await everything(api)

    answer = await send(api, document, data)

    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert await everything(api) == before
    (event, *_) = (await api.get("/v1/trust/events")).body["events"]
    assert (event["document"], event["accepted"], event["actor"]) == (document, False, "first-admin")
    assert event["sentence"] == answer.body["detail"]
    return str(answer.body["detail"])


# --- roots ---


def skip(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.seal_root(replace(fleet.root, version=fleet.root.version + 2))


def signed_by_old_only(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.seal_root(fleet.with_new_root_keys(), fleet.of(RoleName.ROOT))


def signed_by_new_only(fleet: TrustFleet, _: TrustFleet) -> bytes:
    root = fleet.with_new_root_keys()
    return fleet.seal_root(root, fleet.of(RoleName.ROOT, root))


def signed_by_one_of_two(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.seal_root(fleet.following(), fleet.of(RoleName.ROOT)[:1])


def one_key_twice(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return seal(Kind.ROOT, fleet.following().payload(), fleet.of(RoleName.ROOT)[:1] * 2)


def signed_by_another_role(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.seal_root(fleet.following(), fleet.of(RoleName.RELEASE))


def of_another_fleet(_: TrustFleet, strangers: TrustFleet) -> bytes:
    return strangers.seal_root(strangers.following())


def of_another_fleet_by_our_keys(fleet: TrustFleet, strangers: TrustFleet) -> bytes:
    return fleet.seal_root(replace(fleet.following(), fleet=strangers.root.fleet))


def a_status_for_a_root(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.status(signers=fleet.of(RoleName.ROOT))


def unsigned(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.seal_root(fleet.following(), [])


def no_longer_for_development(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.seal_root(fleet.following(dev=False))


BAD_ROOTS: list[tuple[Forge, str]] = [
    (skip, "root 3 cannot follow root 1: one step at a time"),
    (signed_by_old_only, "a root signed by 0 of our keys where 2 are needed"),
    (signed_by_new_only, "a root signed by 0 of our keys where 2 are needed"),
    (signed_by_one_of_two, "a root signed by 1 of our keys where 2 are needed"),
    (one_key_twice, "a root signed by 1 of our keys where 2 are needed"),
    (signed_by_another_role, "a root signed by 0 of our keys where 2 are needed"),
    (of_another_fleet, "a root signed by 0 of our keys where 2 are needed"),
    (of_another_fleet_by_our_keys, "the root of another fleet"),
    (a_status_for_a_root, ""),
    (unsigned, ""),
    (no_longer_for_development, "development keys stay development keys"),
]


@pytest.mark.parametrize(("forge", "reason"), BAD_ROOTS, ids=[forge.__name__ for forge, _ in BAD_ROOTS])
async def test_a_bad_root_is_refused(
    door: Api, fleet: TrustFleet, strangers: TrustFleet, forge: Forge, reason: str
) -> None:
    assert reason in await assert_refused(door, "root", forge(fleet, strangers))


async def test_a_bad_root_is_not_kept_over_a_restart(own: ServerProcess, door: Api, fleet: TrustFleet) -> None:
    await assert_refused(door, "root", signed_by_old_only(fleet, fleet))
    await assert_refused(door, "root", signed_by_new_only(fleet, fleet))
    before = (await door.get("/v1/trust/root")).body
    own.stop()
    own.start()

    api = Api(own.url, own.token)
    try:
        assert (await api.get("/v1/trust/root")).body == before
        assert (await api.get("/v1/trust/root/2")).status == 404
    finally:
        await api.close()


async def test_a_root_that_takes_protection_away_is_refused(door: Api, fleet: TrustFleet) -> None:
    fleet.root = read_root((await door.get("/v1/trust/root")).body)
    protected = fleet.following(floors={b"c" * 16: 7})
    assert (await send(door, "root", fleet.publish(protected))).status == 200

    assert "fell below 7" in await assert_refused(door, "root", fleet.seal_root(fleet.following(floors={})))


# --- statuses ---


def thief_of_the_directive_key(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.status(99, signers=fleet.of(RoleName.DIRECTIVE))


def status_of_another_fleet(_: TrustFleet, strangers: TrustFleet) -> bytes:
    return strangers.status(99)


def status_for_another_fleet_by_our_key(fleet: TrustFleet, strangers: TrustFleet) -> bytes:
    return fleet.status(99, fleet=strangers.root.fleet)


def expired_status(fleet: TrustFleet, _: TrustFleet) -> bytes:
    issued = fleet.root.issued
    return fleet.status(99, issued=issued, expires=issued + 1)


def status_from_the_future(fleet: TrustFleet, _: TrustFleet) -> bytes:
    issued = fleet.root.issued + 30 * DAY_S
    return fleet.status(99, issued=issued, expires=issued + DAY_S)


def status_of_another_epoch(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.status(99, epoch=2)


def unsigned_status(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.status(99, signers=[])


def root_for_a_status(fleet: TrustFleet, _: TrustFleet) -> bytes:
    return fleet.seal_root(fleet.following(), fleet.of(RoleName.STATUS))


BAD_STATUSES: list[tuple[Forge, str]] = [
    (thief_of_the_directive_key, "a status signed by 0 of our keys where 1 are needed"),
    (status_of_another_fleet, "a status signed by 0 of our keys where 1 are needed"),
    (status_for_another_fleet_by_our_key, "the status of another fleet"),
    (expired_status, "the status document has expired"),
    (status_from_the_future, "check the clock"),
    (status_of_another_epoch, "of another epoch of its role"),
    (unsigned_status, ""),
    (root_for_a_status, ""),
]


@pytest.mark.parametrize(("forge", "reason"), BAD_STATUSES, ids=[forge.__name__ for forge, _ in BAD_STATUSES])
async def test_a_bad_status_is_refused(
    door: Api, fleet: TrustFleet, strangers: TrustFleet, forge: Forge, reason: str
) -> None:
    assert reason in await assert_refused(door, "status", forge(fleet, strangers))


async def test_an_old_status_does_not_take_a_revocation_back(door: Api, fleet: TrustFleet) -> None:
    assert (await send(door, "status", fleet.status(6, digests=[b"r" * 32]))).status == 200

    assert "status 5, where status 6 is known" in await assert_refused(door, "status", fleet.status(5))
    assert "another status under the version 6" in await assert_refused(door, "status", fleet.status(6))


# --- bytes ---

HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "a depth bomb": b"\x82" * 5000,
    "2^62 items": b"\x82\x9b" + b"\x40" + b"\x00" * 7,
    "an indefinite array": b"\x9f\x40\x80\xff",
    "a text": b"root",
    "a map": b"\xa0",
}


@pytest.mark.parametrize("document", ["root", "status"])
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
async def test_bytes_that_are_no_document_are_refused(door: Api, document: str, data: bytes) -> None:
    await assert_refused(door, document, data)


async def test_a_byte_after_the_end_is_refused(door: Api, fleet: TrustFleet) -> None:
    await assert_refused(door, "status", fleet.status(50) + b"\x00")


async def test_an_endless_document_is_cut_off(own: ServerProcess) -> None:
    headers = {"Content-Type": ROOT_MEDIA, "Authorization": f"Bearer {own.token}"}

    assert await pour(own.url, "/v1/trust/root", headers) == 413


@pytest.mark.parametrize("media", ["application/json", "application/octet-stream", "multipart/form-data"])
async def test_a_document_of_another_media_type_is_not_read(door: Api, fleet: TrustFleet, media: str) -> None:
    assert (await send(door, "status", fleet.status(50), media)).status == 415


async def test_nothing_is_decompressed(door: Api, fleet: TrustFleet) -> None:
    headers = {"Content-Type": STATUS_MEDIA, "Content-Encoding": "gzip"}

    answer = await door.call("POST", "/v1/trust/status", data=fleet.status(50), headers=headers)

    assert answer.status == 415


# --- people ---


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.APPROVER])
@pytest.mark.parametrize("document", ["root", "status"])
async def test_who_may_not_release_may_not_publish(
    own: ServerProcess, door: Api, fleet: TrustFleet, role: Role, document: str
) -> None:
    made = await door.post("/v1/tokens", {"name": unique("somebody"), "role": role.value})
    before = await everything(door)
    api = Api(own.url, made.body["token"])
    try:
        good = fleet.seal_root(fleet.following()) if document == "root" else fleet.status(70)
        assert (await send(api, document, good)).status == 403
    finally:
        await api.close()

    assert await everything(door) == before


async def test_of_many_that_publish_at_once_one_is_first_and_the_rest_are_told(door: Api, fleet: TrustFleet) -> None:
    fleet.root = read_root((await door.get("/v1/trust/root")).body)
    rivals = [fleet.seal_root(fleet.following(expires=fleet.root.expires + number)) for number in range(6)]

    answers = await asyncio.gather(*(send(door, "root", data) for data in rivals))

    assert sorted(answer.status for answer in answers) == [200, 422, 422, 422, 422, 422]
    winner = rivals[[answer.status for answer in answers].index(200)]
    assert (await door.get("/v1/trust/root")).body == winner
