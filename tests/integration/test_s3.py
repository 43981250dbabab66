"""A server whose blobs are in a bucket: uploads go there within their limits, and devices are sent there."""

import os
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from firmware_store.blobs import BlobStore
from tests.integration.test_rest import assert_problem
from tests.integration.test_rest_blobs import share
from tests.s3_peer import S3Peer
from tests.servers import Api, ServerProcess, make_bundle, own_server

QUOTA, MOST = 400_000, 300_000


@pytest.fixture
def url(s3: S3Peer) -> str:
    return s3.url()


@pytest.fixture
def server(s3: S3Peer, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with own_server(blobs_url=url, store_quota_bytes=str(QUOTA), upload_most_bytes=str(MOST)) as running:
        yield running


@pytest.fixture
async def device(server: ServerProcess, admin: Api) -> AsyncIterator[Api]:
    api = Api(server.url, (await admin.post("/v1/tickets")).body["ticket"])
    yield api
    await api.close()


async def test_bundles_are_in_the_bucket_and_devices_are_sent_there(
    s3: S3Peer, url: str, server: ServerProcess, admin: Api, device: Api, tmp_path: Path
) -> None:
    shared = await share(admin, server, tmp_path)
    stored = {blob.digest.hex() async for blob in BlobStore(s3.bucket(url)).stored()}

    path = f"/v1/blobs/{shared.page}"
    told = await device.get(path, allow_redirects=False)
    head = await device.call("HEAD", path, allow_redirects=True)
    part = await device.get(path, headers={"Range": "bytes=3-"})
    image = await device.get(f"/v1/images/{shared.image}", allow_redirects=False)
    known = await device.get(path, headers={"If-None-Match": f'"{shared.page}"'}, allow_redirects=False)

    assert {shared.index, shared.page} <= stored
    assert not (server.data_dir / "blobs").exists()
    assert told.status == 302
    assert told.headers["Location"].startswith(s3.endpoint)
    assert "X-Amz-Expires=60" in told.headers["Location"]
    assert told.headers["Cache-Control"] == "no-store"
    assert head.status == 200
    whole = (await device.get(path)).body
    assert sha256(whole).hexdigest() == shared.page
    assert (part.status, part.body) == (206, whole[3:])
    assert (image.status, image.body) == (200, shared.content)
    assert known.status == 304

    # What does not fit, by itself or beside what is there, is refused in words.
    large = make_bundle(tmp_path, server.keys, content={"app": os.urandom(MOST)}).read_bytes()
    assert_problem(await admin.upload(large), 413, "too-large")
    for _ in range(3):
        medium = make_bundle(tmp_path, server.keys, content={"app": os.urandom(150_000)})
        answer = await admin.upload(medium.read_bytes())
        if answer.status != 201:
            break
    assert_problem(answer, 507, "store-full")
    assert sum([blob.size async for blob in BlobStore(s3.bucket(url)).stored()]) <= QUOTA
