"""Thousands of requests made from the OpenAPI document, right and wrong ones, to a real server: it keeps its word.

The server is one of its own: what is thrown at it freezes all regions, revokes devices and clears the store.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT, Api, ServerProcess, make_bundle, own_server

SEED = 20_261_122
EXAMPLES_MOST = 2
"""Random ones for each operation; those at every bound of its schema come on top.

Not at the bounds of a campaign's schema: its policy alone has fifty numbers, which is as many requests as all others.
"""

EXAMPLES_LEAST = 500
RUN_S = 400

JUDGED = {
    "add_devices": "a device is added once",
    "add_webhook": "URLs that are not of this network, types that fit the format",
    "add_freeze": "zones and dates that there are, the end after the beginning",
    "change_webhook": "as add_webhook",
    "create_campaign": "a plan and a policy that fit each other, cron fields, URLs",
    "create_token": "printable, in Unicode's sense",
    "enrol": "base64, and a request that its key has signed",
    "list_bundles": "the grammar of filters",
    "list_campaigns": "the grammar of filters",
    "list_devices": "the grammar of filters",
    "list_executions": "the grammar of filters",
    "list_fleet_executions": "the grammar of filters",
    "add_policy": "cron fields, and numbers that fit each other",
    "publish_policy": "as add_policy",
    "list_drift": "the grammar of filters",
    **dict.fromkeys(
        (
            "list_audit",
            "list_decisions",
            "list_deliveries",
            "list_operations",
            "list_policies",
            "list_revocations",
            "list_tokens",
            "list_trust_events",
        ),
        "cursors that were given out",
    ),
    "export_devices": "the grammar of filters",
    "import_devices": "a table",
    "preview_windows": "zones that there are",
    "publish_root": "signed bytes",
    "publish_status": "signed bytes",
    "rehearse_draft": "a plan and a policy that fit each other, cron fields, URLs",
    "renew_identity": "base64, and a request that its key has signed",
    "resume_campaign": "a reason, after a halt",
    "revoke_device": "printable, in Unicode's sense",
    "start_campaign": "a reason, of an emergency",
    "create_operation": "the grammar of filters, and a change that changes something",
    "change_device": "a change that changes something",
    "upload_bundle": "signed bytes",
}
"""What is beyond any JSON Schema: only here may a request that fits its schema be answered with 422."""


@pytest.fixture(scope="module")
def alone() -> Iterator[ServerProcess]:
    with own_server(token_requests_per_s="10000", address_failures_per_s="10000") as server:
        yield server


async def furnish(server: ServerProcess, folder: Path) -> dict[str, str]:
    """Make a device, a bundle and a campaign, which most requests are then about."""
    api = Api(server.url, server.token)
    try:
        await api.add_device("gw-17", "eu")
        uploaded = await api.upload(make_bundle(folder, server.keys).read_bytes())
        body = {"name": "spring", "bundle": uploaded.body["id"], "cohort": "main", "regions": ["eu"]}
        campaign = await api.post("/v1/campaigns", body)
    finally:
        await api.close()
    return {"device": "gw-17", "bundle": uploaded.body["id"], "campaign": campaign.body["id"]}


@pytest.mark.slow
def test_schemathesis_finds_nothing(alone: ServerProcess, tmp_path: Path) -> None:
    known = asyncio.run(furnish(alone, tmp_path))
    accepted = ["2xx", "3xx", "401", "403", "404", "409", "412", "429", "503"]
    parameters = ", ".join(f'"path.{name}" = "{value}"' for name, value in known.items())
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        f"parameters = {{ {parameters} }}\n"
        f"checks.positive_data_acceptance.expected-statuses = {accepted}\n"
        'checks.missing_required_header.expected-statuses = ["401", "428"]\n'
        f"[[operations]]\ninclude-operation-id = {sorted(JUDGED)}\n"
        f"checks.positive_data_acceptance.expected-statuses = {[*accepted, '422']}\n"
        '[[operations]]\ninclude-operation-id = ["create_campaign", "rehearse_draft"]\n'
        "phases.coverage.enabled = false\n"
        '[[operations]]\ninclude-operation-id = "stream_events"\nparameters = { "query.follow" = "false" }\n'  # ends
        f"checks.positive_data_acceptance.expected-statuses = {[*accepted, '410']}\n"
    )
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config), "run"]
    command += [f"{alone.url}/v1/openapi.json", "--header", f"Authorization: Bearer {alone.token}"]
    command += ["--checks", "all", "--seed", str(SEED), "--max-examples", str(EXAMPLES_MOST), "--workers", "1"]
    command += ["--generation-database", "none", "--no-color", "--warnings", "off"]

    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False
    )

    assert ran.returncode == 0, ran.stdout[-20_000:]
    made = re.search(r"(\d+) generated", ran.stdout)
    assert made is not None
    assert int(made[1]) >= EXAMPLES_LEAST
