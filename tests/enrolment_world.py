"""The REST API on a real database and the real embedded broker, and devices that enrol through it.

Nothing listens to the fleet here: what is tested is who gets a certificate and a credential, and what those open.
"""

import shutil
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from firmware_store.keys import Algorithm, SigningKey
from firmware_store.root import init_dev_keys
from server.api.application import make_application
from server.composition import Parts, build, find_grounds
from server.config import Settings
from server.db.database import Database
from server.db.pool import open_pool
from server.embedded import EmbeddedBroker
from server.mqtt.session import BrokerAccess
from server.outside import NatsIssuer, Outside
from server.protocol.renewal import prove_renewal
from server.services.certificates import Certificates
from server.services.tokens import Role
from tests.mqtt_client import MqttClient
from tests.trust_fleet import TrustFleet

PASSPHRASE = "correct horse"
_NOW = 1_790_000_000


@cache
def dev_keys() -> Path:
    folder = Path(mkdtemp(prefix="tidegate-keys-"))
    init_dev_keys(folder, fleet=None, now=_NOW)
    return folder


def mark_for_production(keys: Path) -> None:
    """Sign the root again, without its mark."""
    fleet = TrustFleet.open(keys)
    (keys / "root.cbor").write_bytes(fleet.seal_root(replace(fleet.root, dev=False)))


@dataclass
class Answer:
    """What the API said."""

    status: int
    body: Any
    headers: Any

    @property
    def detail(self) -> str:
        return str(self.body["detail"])


@dataclass
class DeviceSide:
    """A device with a key of its own; what it gets is kept here."""

    id: str
    key: SigningKey = field(default_factory=lambda: SigningKey.generate(Algorithm.ESP256))
    identity: dict[str, Any] = field(default_factory=dict)

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificates(self.identity["certificate"].encode())[0]

    def keep(self, folder: Path) -> tuple[Path, Path]:
        """Write certificate and key where a TLS client finds them."""
        chain, key = folder / f"{self.id}.pem", folder / f"{self.id}.key"
        chain.write_text(self.identity["certificate"])
        key.write_bytes(self.key.to_pem(None))
        return chain, key


def private_half(key: SigningKey) -> Any:
    return serialization.load_pem_private_key(key.to_pem(None), None)


def request_builder(common_name: str) -> x509.CertificateSigningRequestBuilder:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))


def sign_request(builder: x509.CertificateSigningRequestBuilder, key: SigningKey) -> x509.CertificateSigningRequest:
    private = private_half(key)
    return builder.sign(private, hashes.SHA256() if key.public.algorithm is Algorithm.ESP256 else None)


def make_csr(key: SigningKey, common_name: str = "") -> str:
    return as_pem(sign_request(request_builder(common_name), key))


def as_pem(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(serialization.Encoding.PEM).decode()


class EnrolmentWorld:
    """``admin`` calls with a token, ``knock`` without one."""

    def __init__(self, client: "TestClient[Any, Any]", token: str, parts: Parts, broker: EmbeddedBroker | None) -> None:
        self._client = client
        self._token = token
        self.parts = parts
        self.enrolment = parts.context.enrolment
        self.broker = broker

    @property
    def url(self) -> str:
        return str(self._client.make_url("/"))

    async def admin(self, method: str, path: str, body: object = None, *, token: str | None = None) -> Answer:
        return await self.knock(method, path, body, token=token or self._token)

    async def knock(
        self, method: str, path: str, body: object = None, *, token: str | None = None, data: bytes | None = None
    ) -> Answer:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        async with self._client.request(
            method, path, json=body if data is None else None, data=data, headers=headers
        ) as response:
            is_json = "json" in response.content_type
            return Answer(
                response.status, await response.json() if is_json else await response.read(), response.headers
            )

    async def token_for(self, role: Role) -> str:
        text, _ = await self.parts.context.tokens.create(name=f"test-{role}", role=role)
        return text

    async def add(self, device: str) -> dict[str, Any] | None:
        """Add a device; return its broker credential, if there is one."""
        body = {"devices": [{"id": device, "region": "eu", "cohort": "main"}]}
        answer = await self.admin("POST", "/v1/devices", body)
        assert answer.status == 201, answer.body
        credential: dict[str, Any] | None = answer.body["devices"][0]["credential"]
        return credential

    async def claim(self, device: str, **options: object) -> str:
        answer = await self.admin("POST", f"/v1/devices/{device}/claim", options)
        assert answer.status == 201, answer.body
        return str(answer.body["claim"])

    async def enrol(self, device: DeviceSide, token: str, *, csr: str | None = None) -> Answer:
        body = {"device": device.id, "csr": csr or make_csr(device.key)}
        answer = await self.knock("POST", "/v1/enrol", body, token=token)
        if answer.status == 201:
            device.identity = answer.body
        return answer

    async def enrolled(self, name: str, *, algorithm: Algorithm = Algorithm.ESP256) -> DeviceSide:
        """Add a device and enrol it."""
        device = DeviceSide(name, SigningKey.generate(algorithm))
        await self.add(name)
        answer = await self.enrol(device, await self.claim(name))
        assert answer.status == 201, answer.body
        return device

    async def nonce(self) -> bytes:
        return b64decode((await self.knock("POST", "/v1/enrol/nonce")).body["nonce"])

    async def renew(self, device: DeviceSide, new: SigningKey, **forged: Any) -> Answer:
        """Renew with a new key; ``forged`` replaces what an honest device sends or signs."""
        csr = sign_request(request_builder(""), new)
        der = csr.public_bytes(serialization.Encoding.DER)
        nonce = forged.get("nonce") or await self.nonce()
        proof = forged.get("proof") or prove_renewal(forged.get("signer", device.key), device.id, der, nonce)
        body = {
            "device": forged.get("name", device.id),
            "csr": b64encode(forged.get("der", der)).decode(),
            "nonce": b64encode(nonce).decode(),
            "proof": b64encode(proof).decode(),
        }
        answer = await self.knock("POST", "/v1/enrol/renew", body)
        if answer.status == 201:
            device.identity, device.key = answer.body, new
        return answer

    async def revoke(self, device: str, reason: str = "stolen") -> Answer:
        return await self.admin("POST", f"/v1/devices/{device}/revoke", {"reason": reason})

    async def revoked_serials(self) -> set[int]:
        return {entry.serial_number for entry in await self.revocation_list()}

    async def revocation_list(self) -> x509.CertificateRevocationList:
        return x509.load_pem_x509_crl((await self.knock("GET", "/v1/enrol/crl")).body)

    async def ca(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((await self.knock("GET", "/v1/enrol/ca")).body)

    def connect(self, credential: dict[str, Any], **options: Any) -> MqttClient:
        chosen = {name: credential[name] for name in ("client_id", "username", "password")}
        return MqttClient(credential["host"], credential["port"], **{**chosen, **options})


@asynccontextmanager
async def enrolment_world(
    database: str,
    data_dir: Path,
    *,
    broker: EmbeddedBroker | None = None,
    issuer: NatsIssuer | None = None,
    keys: Path | None = None,
    **settings: Any,
) -> AsyncIterator[EnrolmentWorld]:
    """Run the API for the block; without a broker as with one of the operator's own."""
    if keys is None:
        keys = data_dir / "keys"
        shutil.copytree(dev_keys(), keys, dirs_exist_ok=True)
        if settings.get("environment") == "production":
            mark_for_production(keys)
    given = Settings(data_dir=data_dir, keys_dir=keys, **settings)
    if broker is not None:
        issuer = NatsIssuer(broker, BrokerAccess(broker.mqtt_host, broker.mqtt_port, ""))
    outside = Outside(database, BrokerAccess("127.0.0.1", 1, "unused"), issuer, Certificates(rest=None, mqtt=None))
    pool = await open_pool(database)
    try:
        parts = await build(given, Database(pool), find_grounds(given), outside)
        await parts.context.enrolment.repeat_revocations()
        token, _ = await parts.context.tokens.create(name="test-admin", role=Role.ADMIN)
        async with TestClient(TestServer(make_application(parts.context))) as client:
            yield EnrolmentWorld(client, token, parts, broker)
    finally:
        await pool.close()
