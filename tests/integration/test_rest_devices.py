"""``/v1/devices`` over HTTP: adding all or none, and walking through a fleet page by page."""

import asyncio
from typing import Any

import pytest

from tests.integration.test_rest import assert_problem
from tests.mqtt_client import MqttClient
from tests.servers import Api, unique


def entry(device: str, region: str = "eu", cohort: str = "main") -> dict[str, str]:
    return {"id": device, "region": region, "cohort": cohort}


async def test_a_device_is_added_with_a_credential_of_its_own(admin: Api) -> None:
    names = [unique("gw"), unique("gw")]

    answer = await admin.post("/v1/devices", {"devices": [entry(name) for name in names]})

    assert answer.status == 201
    assert [added["id"] for added in answer.body["devices"]] == names
    credentials = [added["credential"] for added in answer.body["devices"]]
    assert len({credential["password"] for credential in credentials}) == 2
    assert {credential["topic_root"] for credential in credentials} == {"tg/1"}


async def test_the_credential_lets_the_device_in(admin: Api) -> None:
    device, region = unique("gw"), unique("r")
    given = await admin.add_device(device, region)

    def publish() -> bool:
        with MqttClient(
            given["host"],
            given["port"],
            client_id=given["client_id"],
            username=given["username"],
            password=given["password"],
        ) as client:
            client.publish(f"tg/1/{region}/device/{device}/up/beat", b"anything")
            return True

    assert await asyncio.to_thread(publish)


async def test_a_new_credential_can_be_had_for_a_device_that_is_there(admin: Api) -> None:
    device = unique("gw")
    await admin.add_device(device, "eu")

    answer = await admin.post(f"/v1/devices/{device}/credential", {})

    assert answer.status == 200
    assert answer.body["credential"]["username"] == device


async def test_a_device_that_has_never_spoken_says_nothing_of_itself(admin: Api) -> None:
    device = unique("gw")
    await admin.add_device(device, "eu", "lab")

    answer = await admin.get(f"/v1/devices/{device}")

    assert answer.status == 200
    said = {
        name: answer.body[name] for name in ("online", "held", "hardware", "running_version", "last_seen", "labels")
    }
    assert said == {
        "online": False,
        "held": False,
        "hardware": None,
        "running_version": None,
        "last_seen": None,
        "labels": {},
    }
    assert (answer.body["region"], answer.body["cohort"]) == ("eu", "lab")


async def test_of_a_list_with_a_known_device_none_is_added(admin: Api) -> None:
    known, new = unique("gw"), unique("gw")
    await admin.add_device(known, "eu")

    answer = await admin.post("/v1/devices", {"devices": [entry(new), entry(known)]})

    assert_problem(answer, 409, "conflict")
    assert known in answer.body["detail"]
    assert_problem(await admin.get(f"/v1/devices/{new}"), 404, "not-found")


async def test_a_device_comes_once_in_a_list(admin: Api) -> None:
    name = unique("gw")

    assert_problem(await admin.post("/v1/devices", {"devices": [entry(name), entry(name)]}), 422, "invalid-input")


@pytest.mark.parametrize(
    "bad",
    [
        entry("+"),
        entry("#"),
        entry("gw/1"),
        entry("GW-1"),
        entry("gw"),
        entry("a" * 65),
        entry("gw-1\n"),
        entry("gw-é"),
        entry("gw-1", region="+"),
        entry("gw-1", region=""),
        entry("gw-1", cohort="a/b"),
        entry("gw-1") | {"held": True},
        {"id": "gw-1"},
        {"id": 5, "region": "eu", "cohort": "main"},
    ],
    ids=str,
)
async def test_a_name_that_would_be_an_attack_on_a_broker_is_refused(admin: Api, bad: dict[str, Any]) -> None:
    assert_problem(await admin.post("/v1/devices", {"devices": [bad]}), 422, "invalid-input")


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_list_has_one_to_a_thousand_devices(admin: Api, count: int) -> None:
    devices = [entry(unique("gw")) for _ in range(count)]

    assert_problem(await admin.post("/v1/devices", {"devices": devices}), 422, "invalid-input")


async def test_a_fleet_is_walked_through_page_by_page_and_each_device_comes_once(admin: Api) -> None:
    region = unique("r")
    names = sorted(unique("gw") for _ in range(25))
    await admin.post("/v1/devices", {"devices": [entry(name, region) for name in names]})

    seen, cursor, pages = [], "", 0
    while True:
        answer = await admin.get("/v1/devices", params={"region": region, "limit": "7", "cursor": cursor})
        seen += [device["id"] for device in answer.body["devices"]]
        pages += 1
        cursor = answer.body["next"]
        if cursor is None:
            break

    assert seen == names
    assert pages == 4


async def test_a_page_that_is_just_full_may_be_followed_by_an_empty_one(admin: Api) -> None:
    region, names = unique("r"), [unique("gw") for _ in range(4)]
    await admin.post("/v1/devices", {"devices": [entry(name, region) for name in names]})

    first = await admin.get("/v1/devices", params={"region": region, "limit": "4"})
    second = await admin.get(
        "/v1/devices", params={"region": region, "limit": "4", "cursor": first.body["next"] or "~"}
    )

    assert len(first.body["devices"]) == 4
    assert second.body == {"devices": [], "next": None}


async def test_devices_are_found_by_region_and_cohort(admin: Api) -> None:
    region, names = unique("r"), [unique("gw") for _ in range(3)]
    for name, cohort in zip(names, ("main", "main", "lab"), strict=True):
        await admin.add_device(name, region, cohort)

    async def found(**query: str) -> set[str]:
        return {device["id"] for device in (await admin.get("/v1/devices", params=query)).body["devices"]}

    assert await found(region=region, cohort="main") == set(names[:2])
    assert await found(region=region, cohort="lab") == {names[2]}
    assert await found(region=region, cohort="none") == set()


async def test_the_trust_root_is_the_servers_own(admin: Api, server: Any) -> None:
    answer = await admin.get("/v1/trust/root")

    assert answer.status == 200
    assert answer.body == (server.keys / "root.cbor").read_bytes()


async def test_devices_are_found_by_a_filter_page_by_page(admin: Api) -> None:
    region, names = unique("r"), sorted(unique("gw") for _ in range(5))
    for name, cohort in zip(names, ("main", "lab", "main", "lab", "main"), strict=True):
        await admin.add_device(name, region, cohort)
    text = f"region = {region} AND NOT cohort = lab AND NOT labels.site = x AND NOT last_seen:* AND claimed = true"

    first = await admin.get("/v1/devices", params={"filter": text, "limit": "2"})
    second = await admin.get("/v1/devices", params={"filter": text, "limit": "2", "cursor": first.body["next"] or "~"})

    assert [device["id"] for device in first.body["devices"] + second.body["devices"]] == names[::2]
    assert second.body["next"] is None


async def test_presence_is_a_field_of_filters_too(admin: Api) -> None:
    region, names = unique("r"), sorted(unique("gw") for _ in range(3))
    for name in names:
        await admin.add_device(name, region)

    async def found(text: str) -> list[str]:
        answer = await admin.get("/v1/devices", params={"filter": text, "region": region})
        return [device["id"] for device in answer.body["devices"]]

    assert await found("online = false") == names
    assert await found(f"online = true OR id = {names[0]}") == names[:1]


async def test_a_filter_that_is_none_is_refused_with_its_place(admin: Api) -> None:
    answer = await admin.get("/v1/devices", params={"filter": "region = eu AND colour = red"})

    assert_problem(answer, 422, "invalid-input")
    assert answer.body["errors"][0]["pointer"] == "?filter"
    assert answer.body["detail"].startswith("At character 17 of the filter: there is no field colour;")
