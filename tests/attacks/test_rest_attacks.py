"""Attacks on a real server's API, by callers who have a token, even an administrator's.

What devices may try at the broker is in ``test_ingest_attacks``.
"""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from yarl import URL

from firmware_store.bundle import read_envelope, replace_envelope
from firmware_store.keys import load_key
from firmware_store.root import RoleName, key_file
from firmware_store.suit import sign_envelope
from tests.servers import Api, ServerProcess, make_bundle


async def test_a_gzip_bomb_is_not_unpacked(admin: Api) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    answer = await admin.call("POST", "/v1/devices", data=bomb, headers=headers)

    assert answer.status in {400, 415}
    assert (await admin.get("/readyz")).status == 200


def zip_with_a_path() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../../escaped", b"escaped")
        archive.writestr("/tmp/escaped", b"escaped")
    return file.getvalue()


def tar_with_a_path() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (("../../escaped", tarfile.REGTYPE), ("link", tarfile.SYMTYPE), ("device", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            archive.addfile(member)
    return file.getvalue()


def multipart_without_end() -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../escaped"\r\n\r\nescaped'


@pytest.mark.parametrize("build", [zip_with_a_path, tar_with_a_path, multipart_without_end])
async def test_an_upload_with_paths_in_it_writes_no_file(
    admin: Api, server: ServerProcess, build: Callable[[], bytes]
) -> None:
    before = files_below(server.folder)

    assert (await admin.upload(build())).status == 422
    assert (await admin.upload(build(), **{"Content-Type": "multipart/form-data; boundary=x"})).status == 415
    assert files_below(server.folder) == before
    assert not Path("/tmp/escaped").exists()


def files_below(folder: Path) -> set[Path]:
    """Everything a bundle could have been written to; the database and the broker write their own."""
    return {path for path in folder.rglob("*") if not {"postgres", "broker"} & set(path.relative_to(folder).parts)}


@pytest.mark.parametrize("name", ["../../keys/root.cbor", "..", "%2e%2e%2fkeys", "\0", "bun_../../etc/passwd"])
async def test_an_id_in_a_url_is_never_a_path(admin: Api, name: str) -> None:
    for kind in ("bundles", "campaigns", "devices"):
        url = URL(f"/v1/{kind}/{quote(name, safe='')}", encoded=True)

        assert (await admin.get(url)).status in {404, 422}


async def test_the_keys_of_the_server_sign_no_upload(admin: Api, server: ServerProcess, tmp_path: Path) -> None:
    """Who owns the server's keys and an administrator's token still has no release: the server itself refuses."""
    bundle = make_bundle(tmp_path, server.keys, signers=(1,))
    for role in (RoleName.DIRECTIVE, RoleName.SESSION):
        key = load_key(key_file(server.keys, role), None)
        replace_envelope(bundle, sign_envelope(read_envelope(bundle), key))

    answer = await admin.upload(bundle.read_bytes())

    assert (answer.status, answer.body["type"]) == (422, "https://tidegate.dev/problems/not-trusted")


@pytest.mark.parametrize(
    "text",
    [
        "region = \"eu' OR '1'='1\"",
        'region = "eu\' UNION SELECT secret FROM token --"',
        'region = "eu\'; DROP TABLE device; --"',
        'id = "%"',
        'id = "$1"',
        "labels.\"site') OR ('1'='1\" = x",
        "labels.\"x' ? 'y\":*",
        'labels.site = "\\"} OR true"',
        'version = "1.0\' OR true --"',
    ],
)
async def test_a_value_of_a_filter_is_never_read_as_sql(admin: Api, text: str) -> None:
    """Each of them is a filter, which lets nobody through."""
    answer = await admin.get("/v1/devices", params={"filter": text})

    assert (answer.status, answer.body["devices"]) == (200, [])
    assert (await admin.get("/readyz")).status == 200


@pytest.mark.parametrize(
    "text",
    [
        "region = eu; DROP TABLE device",
        "session_nonce = x",
        "device.id = x",
        'secret = "x"',
        "pg_sleep(5) = 1",
        "region = eu OR 1=1",
        "(" * 1999,
        "NOT " * 499 + "held = true",
        "region = " + "*" * 1900,
        'labels."' + "a" * 1900,
    ],
    ids=lambda text: text[:20],
)
async def test_what_no_filter_may_name_is_refused(admin: Api, text: str) -> None:
    answer = await admin.get("/v1/devices", params={"filter": text})

    assert answer.status == 422
    assert answer.body["errors"][0]["pointer"] == "?filter"
