"""TLS files that are renewed under a server and under a client, with real handshakes."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copyfile

import pytest

from firmware_store.errors import ConfigurationError
from server.outside import external_broker
from server.services.certificates import Certificates, broker_files, serving_files
from tests.mosquitto_peer import Authority


class Files:
    """What an operator's certificate client writes: ``pair`` renews it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "pair.pem", folder / "pair.key"
        self.pair("first.example")

    def pair(self, name: str) -> None:
        self.authority.issue(name, file="pair")

    def mismatch(self) -> None:
        """A new certificate beside the key of the old one, as while both are being replaced."""
        copyfile(self.authority.issue("other.example", file="other")[0], self.certificate)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say who is there, as the client's certificate has it, once for each line."""
    peer = writer.get_extra_info("peercert")
    while await reader.readline():
        writer.write(f"{_name(peer)}\n".encode())
    writer.close()


def _name(certificate: dict[str, object] | None) -> str:
    return dict(part[0] for part in certificate["subject"])["commonName"] if certificate else "nobody"  # type: ignore[attr-defined]


@asynccontextmanager
async def served(context: ssl.SSLContext) -> AsyncIterator[int]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Talk:
    """A connection that stays."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.server = _name(writer.get_extra_info("peercert"))

    @classmethod
    async def begin(cls, port: int, context: ssl.SSLContext) -> "Talk":
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost"))

    async def say(self) -> str:
        self._writer.write(b"hello\n")
        return (await self._reader.readline()).decode().strip()

    async def end(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def test_a_renewed_certificate_is_used_for_new_connections_and_the_old_ones_stay(files: Files) -> None:
    found = serving_files(files.certificate, files.key)
    assert found is not None
    trusting = ssl.create_default_context(cafile=files.ca)

    async with served(found.context) as port:
        before = await Talk.begin(port, trusting)
        files.pair("second.example")
        found.look()
        after = await Talk.begin(port, trusting)

        assert (before.server, after.server) == ("first.example", "second.example")
        assert await before.say() == "nobody"
        assert found.context.newest.minimum_version is ssl.TLSVersion.TLSv1_2
        await before.end()
        await after.end()


async def test_a_pair_that_cannot_be_used_changes_nothing_and_is_told_until_it_is_whole(files: Files) -> None:
    found = serving_files(files.certificate, files.key)
    assert found is not None
    trusting = ssl.create_default_context(cafile=files.ca)

    async with served(found.context) as port:
        for spoil, said in (
            (files.mismatch, "the key is not that of the certificate"),
            (files.key.unlink, "No such file"),
            (lambda: files.key.write_bytes(b"-----BEGIN"), "cannot be used"),
        ):
            spoil()
            found.look()
            talk = await Talk.begin(port, trusting)

            assert talk.server == "first.example"
            assert said in found.state.text
            assert found.state.is_well
            await talk.end()

        files.pair("second.example")
        found.look()

        assert found.state.text.startswith("valid until ")
        assert "refused" not in found.state.text


async def test_a_certificate_that_has_expired_is_not_well_and_an_expired_one_is_not_taken_up(files: Files) -> None:
    found = serving_files(files.certificate, files.key)
    assert found is not None
    assert found.not_after is not None
    found._clock = lambda: 7 * 86_400 + found.not_after
    files.pair("second.example")

    found.look()

    assert not found.state.is_well
    assert found.state.text.startswith("expired on ")
    assert "the newer one is refused: the certificate has expired" in found.state.text


async def test_the_broker_sees_the_renewed_client_certificate_in_the_next_session(files: Files) -> None:
    pair = files.authority.issue("broker.example", file="broker")
    demanding = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    demanding.load_cert_chain(*pair)
    demanding.verify_mode = ssl.CERT_REQUIRED
    found = broker_files(ca=files.ca, certificate=files.certificate, key=files.key)
    access = external_broker("mqtts://localhost:8883", "server", found)
    assert access.tls is not None

    async with served(demanding) as port:
        before = await Talk.begin(port, access.tls)
        files.pair("second.example")
        await Certificates(rest=None, mqtt=found).look()
        after = await Talk.begin(port, access.tls)

        assert [await before.say(), await after.say()] == ["first.example", "second.example"]
        await before.end()
        await after.end()


async def test_a_broker_of_other_authorities_is_refused(files: Files, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    others = Files(tmp_path / "others")
    found = broker_files(ca=files.ca, certificate=None, key=None)
    serving = serving_files(others.certificate, others.key)
    assert found is not None
    assert serving is not None

    async with served(serving.context) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await Talk.begin(port, found.context)


def test_settings_that_cannot_work_are_refused_in_words(files: Files) -> None:
    for settings, said in (
        ((files.certificate, None), "takes both"),
        ((files.certificate, files.folder / "none"), "No such file"),
        ((files.key, files.certificate), "cannot be used"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            serving_files(*settings)
    with pytest.raises(ConfigurationError, match="takes both"):
        broker_files(ca=None, certificate=files.certificate, key=None)
    with pytest.raises(ConfigurationError, match="mqtts://"):
        external_broker("mqtt://localhost", "server", broker_files(ca=files.ca, certificate=None, key=None))


def test_an_encrypted_key_is_refused_without_asking_a_terminal(files: Files) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )

    with pytest.raises(ConfigurationError, match="cannot be used"):
        serving_files(files.certificate, files.key)
