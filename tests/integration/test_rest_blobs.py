"""``/v1/blobs`` and ``/v1/images`` of a real server, as a device, a browser or a cache would ask for them."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from device_sim.agent.events import Answer, Get
from device_sim.agent.http_client import HttpClient
from firmware_store.chunks import decode_index
from firmware_store.suit import open_envelope
from tests.integration.test_rest import assert_problem
from tests.integration.test_rest_campaigns import create, order
from tests.servers import Api, ServerProcess, make_bundle, unique

IMAGE = b"".join(b"line %d of an image of several chunks. " % number for number in range(9000))


class Shared(NamedTuple):
    """An uploaded bundle: its id, its blobs' and its image's digests."""

    id: str
    index: str
    page: str
    image: str
    content: bytes


async def share(api: Api, server: ServerProcess, folder: Any) -> Shared:
    content = unique("image").encode() + IMAGE
    data = make_bundle(folder, server.keys, content={"app": content}).read_bytes()
    uploaded = await api.upload(data)
    assert uploaded.status == 201, uploaded
    size = int.from_bytes(data[4:8], "big")
    manifest, _ = open_envelope(data[8 : 8 + size]).read()
    fetch = manifest.components[0].fetch
    root = data[8 + size : 8 + size + fetch.index_size]
    page = decode_index(root, fetch)[0]
    return Shared(
        uploaded.body["id"], fetch.index_digest.hex(), page.digest.hex(), sha256(content).hexdigest(), content
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    api = Api(server.url, server.token)
    try:
        return await share(api, server, tmp_path_factory.mktemp("bundle"))
    finally:
        await api.close()


@pytest.fixture
async def device(server: ServerProcess, admin: Api) -> AsyncIterator[Api]:
    """Somebody who has nothing but a ticket."""
    api = Api(server.url, (await admin.post("/v1/tickets")).body["ticket"])
    yield api
    await api.close()


async def test_a_ticket_opens_blobs_and_images_and_nothing_else(device: Api, shared: Shared) -> None:
    blob, image = await device.get(f"/v1/blobs/{shared.page}"), await device.get(f"/v1/images/{shared.image}")

    assert (blob.status, sha256(blob.body).hexdigest()) == (200, shared.page)
    assert (image.status, image.body) == (200, shared.content)
    for path in ("/v1/devices", "/v1/bundles", "/v1/campaigns"):
        assert_problem(await device.get(path), 401, "not-authenticated")
    assert_problem(await device.post("/v1/tickets"), 401, "not-authenticated")


async def test_a_devices_client_gets_blobs_and_parts_of_images(
    server: ServerProcess, admin: Api, shared: Shared
) -> None:
    ticket = (await admin.post("/v1/tickets")).body["ticket"]
    async with HttpClient() as client:
        blob = await client.get(Get(1, f"{server.url}/v1/blobs/{shared.page}", ticket, 65_536))
        nowhere = await client.get(Get(2, f"{server.url}/v1/blobs/{'0' * 64}", ticket, 65_536))
        image = f"{server.url}/v1/images/{shared.image}"
        parts = [
            await client.get(Get(3, image, ticket, 100_000, first)) for first in range(0, len(shared.content), 100_000)
        ]

    assert sha256(blob.payload).hexdigest() == shared.page
    assert nowhere.answer is Answer.GONE
    assert b"".join(part.payload for part in parts) == shared.content


async def test_a_forged_ticket_opens_nothing(server: ServerProcess, admin: Api, shared: Shared) -> None:
    ticket = (await admin.post("/v1/tickets")).body["ticket"]
    forged = ticket[:-1] + ("0" if ticket[-1] != "0" else "1")
    api = Api(server.url, forged)
    try:
        assert_problem(await api.get(f"/v1/blobs/{shared.page}"), 401, "not-authenticated")
    finally:
        await api.close()


@pytest.mark.parametrize("kind", ["blobs", "images"])
async def test_what_is_not_there_is_not_found(device: Api, kind: str) -> None:
    assert_problem(await device.get(f"/v1/{kind}/{'0' * 64}"), 404, "not-found")
    assert_problem(await device.get(f"/v1/{kind}/{'A' * 64}"), 422, "invalid-input")
    assert_problem(await device.get(f"/v1/{kind}/..%2F..%2Fkeys"), 422, "invalid-input")


@pytest.mark.parametrize("kind", ["blobs", "images"])
async def test_a_digest_is_a_validator_and_is_kept_for_ever(device: Api, shared: Shared, kind: str) -> None:
    digest = shared.page if kind == "blobs" else shared.image
    path = f"/v1/{kind}/{digest}"

    head = await device.call("HEAD", path)
    whole = await device.get(path)
    again = await device.get(path, headers={"If-None-Match": head.headers["ETag"]})
    part = await device.get(path, headers={"Range": "bytes=5-11", "If-Range": head.headers["ETag"]})
    other = await device.get(path, headers={"Range": "bytes=5-11", "If-Range": '"another"'})
    beyond = await device.get(path, headers={"Range": "bytes=99999999-"})

    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(whole.body))
    assert head.headers["ETag"] == f'"{digest}"'
    assert head.headers["Accept-Ranges"] == "bytes"
    assert head.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert (again.status, again.body) == (304, b"")
    assert (part.status, part.body) == (206, whole.body[5:12])
    assert part.headers["Content-Range"] == f"bytes 5-11/{len(whole.body)}"
    assert (other.status, other.body) == (200, whole.body)
    assert_problem(beyond, 416, "range-not-satisfiable")
    assert beyond.headers["Content-Range"] == f"bytes */{len(whole.body)}"


async def test_a_download_that_broke_off_goes_on_where_it_was(device: Api, shared: Shared) -> None:
    path, at = f"/v1/images/{shared.image}", 123_456

    first = await device.get(path, headers={"Range": f"bytes=0-{at - 1}"})
    rest = await device.get(path, headers={"Range": f"bytes={at}-", "If-Range": first.headers["ETag"]})

    assert first.body + rest.body == shared.content


async def test_many_at_once_get_the_same(device: Api, shared: Shared) -> None:
    answers = await asyncio.gather(*(device.get(f"/v1/images/{shared.image}") for _ in range(20)))

    assert {answer.body for answer in answers} == {shared.content}


async def test_a_halt_withdraws_it(admin: Api, device: Api, server: ServerProcess, tmp_path: Any) -> None:
    shared = await share(admin, server, tmp_path)
    campaign = await create(admin, shared.id, plan={"waves": [{"ratio": 1, "ramp_s": 0}]})
    await order(admin, campaign, "start", "go")
    assert (await device.get(f"/v1/blobs/{shared.index}")).status == 200

    await order(admin, campaign, "halt", "smoke")

    assert_problem(await device.get(f"/v1/blobs/{shared.index}"), 410, "withdrawn")
    assert_problem(await device.get(f"/v1/images/{shared.image}"), 410, "withdrawn")
    assert (await device.call("HEAD", f"/v1/blobs/{shared.index}")).status == 410
