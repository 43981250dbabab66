"""A server that speaks TLS to its callers, to its broker, and to devices that trust an authority of their own."""

import re
import ssl
from pathlib import Path

import aiohttp
import pytest

from tests.mosquitto_peer import Authority, Mosquitto, require_programs
from tests.ports import free_port
from tests.servers import ServerProcess, own_server
from tests.terminal import ROOT, Terminal, read_blocks


def https(server: ServerProcess) -> str:
    """The server's URL, by the name that its certificate has."""
    assert server.url.startswith("https://127.0.0.1:")
    return server.url.replace("127.0.0.1", "localhost")


@pytest.mark.peer
async def test_a_server_speaks_tls_to_its_callers_and_to_its_broker(tmp_path: Path) -> None:
    require_programs("mosquitto", "mosquitto_passwd")
    authority = Authority(tmp_path)
    rest, key = authority.issue("localhost", file="rest")
    authority.issue("localhost", file="broker")
    own, own_key = authority.issue("tidegate.server", file="own")

    with (
        Mosquitto(tmp_path) as broker,
        own_server(
            tls_certificate=str(rest),
            tls_key=str(key),
            mqtt_url=f"mqtts://localhost:{broker.device_port}",
            mqtt_ca=str(tmp_path / "ca.pem"),
            mqtt_certificate=str(own),
            mqtt_key=str(own_key),
        ) as server,
    ):
        async with aiohttp.ClientSession() as session:
            trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
            async with session.get(f"{https(server)}/readyz", ssl=trusting) as response:
                checks = {check["name"]: check for check in (await response.json())["checks"]}
            async with session.get(f"{https(server)}/metrics", ssl=trusting) as response:
                metrics = await response.text()
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(f"{https(server)}/healthz")
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"{https(server).replace('https', 'http')}/healthz")

        assert checks["broker"]["ok"]
        assert checks["certificate of rest"]["ok"]
        assert checks["certificate of mqtt"]["text"].startswith("valid until ")
        assert 'tidegate_certificate_not_after_seconds{name="rest"}' in metrics


def test_the_howto_leads_to_a_device_that_trusts_an_authority_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    authority, serve, ask, simulate = read_blocks(ROOT / "docs/howto/tls.md")
    with Terminal(tmp_path, {"TIDEGATE_PORT": str(port)}, [("8080", str(port))]) as terminal:
        terminal.run(authority)
        said = terminal.run(serve)
        token = re.search(r"first admin token \(shown once\): (\S+)", said)
        assert token is not None
        terminal.replace.append(("tg_...", token[1]))
        terminal.run(ask)
        ready = terminal.run(f"unset SSL_CERT_FILE\n{simulate}")

    assert f"listening on https://127.0.0.1:{port}" in said
    assert "READY 1" in ready
