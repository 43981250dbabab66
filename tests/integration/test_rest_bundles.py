"""Uploads over HTTP: what is not signed by enough release keys, byte for byte, leaves no trace."""

import asyncio
import io
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from firmware_store.root import init_dev_keys
from firmware_store.sparse import list_blobs
from server.services.tokens import Role
from tests.integration.test_rest import assert_problem, make_token
from tests.servers import ROOT, Api, ServerProcess, make_bundle, unique

MEDIA = "application/vnd.tidegate.bundle"


@pytest.fixture
def bundle(server: ServerProcess, tmp_path: Path) -> bytes:
    return make_bundle(tmp_path, server.keys, content={"app": b"app " * 9000, "rootfs": b"rootfs " * 9000}).read_bytes()


async def known(admin: Api) -> set[str]:
    return {found["id"] for found in (await admin.get("/v1/bundles", params={"limit": "1000"})).body["bundles"]}


async def test_a_signed_bundle_is_taken_in_and_shown(admin: Api, bundle: bytes) -> None:
    answer = await admin.upload(bundle)

    assert answer.status == 201
    shown = answer.body
    assert shown["version"] == "1.1.0"
    assert shown["components"] == {"app": 36_000, "rootfs": 63_000}
    assert len(shown["signers"]) == 2
    assert (await admin.get(f"/v1/bundles/{shown['id']}")).body == shown
    assert shown["id"] in await known(admin)


async def test_the_newest_bundle_comes_first(admin: Api, server: ServerProcess, tmp_path: Path) -> None:
    uploaded = [(await admin.upload(make_bundle(tmp_path, server.keys).read_bytes())).body["id"] for _ in range(3)]

    listed = [found["id"] for found in (await admin.get("/v1/bundles", params={"limit": "3"})).body["bundles"]]

    assert listed == uploaded[::-1]


async def test_an_upload_in_pieces_of_unknown_length_is_the_same_upload(admin: Api, bundle: bytes) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(bundle), 997):
            yield bundle[at : at + 997]

    assert (await admin.upload(pieces())).status == 201


async def test_the_same_bundle_is_taken_in_once(admin: Api, bundle: bytes) -> None:
    await admin.upload(bundle)

    assert_problem(await admin.upload(bundle), 409, "conflict")


async def test_of_two_uploads_at_once_one_wins(admin: Api, bundle: bytes) -> None:
    answers = await asyncio.gather(*(admin.upload(bundle) for _ in range(3)))

    assert sorted(answer.status for answer in answers) == [201, 409, 409]


SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "cut short in the last chunk": lambda data: data[:-1],
    "cut short after the envelope": lambda data: data[: 8 + int.from_bytes(data[4:8], "big")],
    "one byte too long": lambda data: data + b"\0",
    "another bundle behind it": lambda data: data + data,
    "a byte changed in the last chunk": lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:],
    "a byte changed in the middle": lambda data: data[: len(data) // 2] + b"!!!!" + data[len(data) // 2 + 4 :],
    "a byte changed in the envelope": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "empty": lambda _: b"",
    "no bundle at all": lambda _: b"GET / HTTP/1.1" * 100,
    "an envelope of four gigabytes": lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:],
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
async def test_a_spoilt_upload_is_refused_and_leaves_no_trace(
    admin: Api, bundle: bytes, spoil: Callable[[bytes], bytes]
) -> None:
    before = await known(admin)

    answer = await admin.upload(spoil(bundle))

    assert answer.status == 422, answer
    assert answer.body["type"].rsplit("/", 1)[1] in {"invalid-input", "not-trusted"}
    assert await known(admin) == before
    assert (await admin.upload(bundle)).status == 201


@pytest.mark.parametrize("signers", [(), (1,), (2,)], ids=["unsigned", "signed once", "signed once by the other"])
async def test_too_few_signatures_are_not_enough(
    admin: Api, server: ServerProcess, tmp_path: Path, signers: tuple[int, ...]
) -> None:
    data = make_bundle(tmp_path, server.keys, signers=signers).read_bytes()

    assert_problem(await admin.upload(data), 422, "not-trusted")


async def test_the_keys_of_another_fleet_sign_nothing_here(admin: Api, tmp_path: Path) -> None:
    init_dev_keys(tmp_path / "theirs", fleet=None, now=1_800_000_000)
    data = make_bundle(tmp_path, tmp_path / "theirs").read_bytes()

    assert_problem(await admin.upload(data), 422, "not-trusted")


@pytest.mark.parametrize("media", ["application/octet-stream", "application/json", "multipart/form-data; boundary=x"])
async def test_an_upload_says_that_it_is_a_bundle(admin: Api, bundle: bytes, media: str) -> None:
    assert_problem(await admin.upload(bundle, **{"Content-Type": media}), 415, "unsupported-media-type")


async def test_an_upload_is_not_compressed_once_more(admin: Api, bundle: bytes) -> None:
    answer = await admin.upload(bundle, **{"Content-Encoding": "gzip"})

    assert_problem(answer, 415, "unsupported-media-type")


async def test_an_upload_that_breaks_off_leaves_no_trace(admin: Api, server: ServerProcess, bundle: bytes) -> None:
    before = await known(admin)
    address = urlsplit(server.url)
    for broken_after in (0, 50, 3000, len(bundle) - 1):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        head = (
            f"POST /v1/bundles HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
            f"Content-Type: {MEDIA}\r\nContent-Length: {len(bundle)}\r\n\r\n"
        )
        writer.write(head.encode() + bundle[:broken_after])
        await writer.drain()
        writer.transport.abort()

    assert (await admin.upload(bundle)).status == 201
    assert len(await known(admin) - before) == 1


async def test_what_is_here_is_left_out_of_a_second_try(
    admin: Api, server: ServerProcess, bundle: bytes, tmp_path: Path
) -> None:
    """An upload that broke off near its end; then the command line sends the rest."""
    app = random.Random(unique("app")).randbytes(1_500_000)
    path = make_bundle(tmp_path, server.keys, content={"app": app})
    whole = path.read_bytes()
    digests = [blob.digest.hex() for blob in list_blobs(path)]

    assert (await admin.upload(io.BytesIO(whole[:-1]))).status == 422
    answer = await admin.post("/v1/blobs/missing", {"digests": digests})
    pushed = subprocess.run(
        [sys.executable, "-m", "server", "bundle", "push", str(path), "--server", server.url, "--token", server.token],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert set(answer.body["missing"]) < set(digests)
    assert len(answer.body["missing"]) < 33
    assert pushed.stdout.strip() in await known(admin)
    left = re.search(r"(\d+) bytes are left to send", pushed.stderr)
    assert left is not None
    assert int(left[1]) < len(whole) / 2


async def test_only_who_may_upload_is_told_what_is_here(server: ServerProcess, admin: Api) -> None:
    body = {"digests": ["0" * 64]}
    viewer = Api(server.url, await make_token(admin, Role.VIEWER))
    try:
        assert_problem(await viewer.post("/v1/blobs/missing", body), 403, "forbidden")
    finally:
        await viewer.close()

    assert (await admin.post("/v1/blobs/missing", body)).body == {"missing": ["0" * 64]}
    assert_problem(await admin.post("/v1/blobs/missing", {"digests": ["../keys"]}), 422, "invalid-input")
