"""The audit over HTTP and by the command line."""

import asyncio
import json
from pathlib import Path

import pytest

from firmware_store.errors import ConflictError, SignatureError
from server.cli import audit as audit_cli
from tests.integration.test_rest import assert_problem
from tests.servers import Api, ServerProcess, unique


async def test_a_request_is_found_by_its_object(admin: Api, region: str) -> None:
    name = unique("gw")
    await admin.add_device(name, region)
    held = await admin.post(f"/v1/devices/{name}/hold", {"reason": "on the bench"})

    rows = (await admin.get(f"/v1/audit?object={name}&what=device.hold")).body["rows"]

    assert [(row["who"], row["reason"]) for row in rows] == [("first-admin", "on the bench")]
    assert rows[0]["request_id"] == held.headers["X-Request-Id"]
    assert (rows[0]["before"]["held"], rows[0]["after"]["held"]) == (False, True)


async def test_pages_follow_each_other(admin: Api, region: str) -> None:
    for _ in range(3):
        await admin.add_device(unique("gw"), region)

    first = (await admin.get("/v1/audit?limit=2")).body
    second = (await admin.get(f"/v1/audit?limit=2&cursor={first['next']}")).body

    numbers = [row["seq"] for row in first["rows"] + second["rows"]]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] - numbers[3] == 3


@pytest.mark.parametrize("query", ["since=yesterday", "until=2026-03-01T12:00:00", "cursor=x", "limit=0"])
async def test_a_query_that_makes_no_sense_is_refused(admin: Api, query: str) -> None:
    assert_problem(await admin.get(f"/v1/audit?{query}"), 422, "invalid-input")


async def test_the_command_lists_what_was_changed(
    server: ServerProcess, admin: Api, region: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = unique("gw")
    await admin.add_device(name, region)
    await asyncio.to_thread(audit_cli.ls, token=server.token, server=server.url, object=name, output="json")

    rows = json.loads(capsys.readouterr().out)

    assert {row["what"] for row in rows} == {"device.add", "device.give_credential"}


async def test_the_server_looks_its_audit_through(
    server: ServerProcess, admin: Api, region: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await admin.add_device(unique("gw"), region)

    code = await asyncio.to_thread(audit_cli.verify, token=server.token, server=server.url)

    said = capsys.readouterr().out
    assert code == 0
    assert "rows are as they were written" in said


async def test_an_export_is_checked_without_the_server(
    server: ServerProcess, admin: Api, region: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await admin.add_device(unique("gw"), region)
    file, root = tmp_path / "audit.jsonl", server.keys / "root.cbor"
    await asyncio.to_thread(audit_cli.export, out=file, token=server.token, server=server.url)

    assert audit_cli.verify(file, root=root) == 0
    assert audit_cli.verify(file) == 0
    assert "check that it is yours" in capsys.readouterr().out
    with pytest.raises(ConflictError):
        await asyncio.to_thread(audit_cli.export, out=file, token=server.token, server=server.url)

    lines = file.read_text(encoding="utf-8").split("\n")
    file.write_text("\n".join([lines[0], *lines[2:]]), encoding="utf-8")
    assert audit_cli.verify(file) == 1
    assert capsys.readouterr().out.startswith("row 1: it is missing")
    other = tmp_path / "other.cbor"
    other.write_bytes(b"another root")
    with pytest.raises(SignatureError):
        audit_cli.verify(file, root=other)
    assert audit_cli.verify(file, root=root) == 1


async def test_the_heads_signature_is_kept_in_the_data_folder(server: ServerProcess, admin: Api, region: str) -> None:
    await admin.add_device(unique("gw"), region)
    newest = (await admin.get("/v1/audit?limit=1")).body["rows"][0]["seq"]

    async with asyncio.timeout(20):
        while True:
            report = json.loads((await admin.post("/v1/audit/verify", {})).body.splitlines()[-1])
            if report["newest_checkpoint"] >= newest:
                break
            await asyncio.sleep(0.1)

    assert (server.data_dir / "audit" / "newest").stat().st_mode & 0o777 == 0o600
    assert report["first_bad"] is None
