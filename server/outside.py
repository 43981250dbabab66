"""What the server stands on: a database and a broker, embedded or the operator's own, and who issues credentials."""

import ssl
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote, urlsplit

from firmware_store.errors import ConfigurationError
from server.config import Settings
from server.db.migrate import apply_migrations, check_schema
from server.domain.enrolment import CREDENTIAL_LIFE
from server.domain.identity import DeviceId
from server.embedded import EmbeddedBroker, EmbeddedPostgres, MqttCredential
from server.embedded.own_nats import OwnNats
from server.mqtt.session import BrokerAccess
from server.services.certificates import Certificates, TlsFiles, broker_files, serving_files
from server.services.inventory import BrokerCredential, CredentialIssuer

_MQTT_PORTS: Final = MappingProxyType({"mqtt": 1883, "mqtts": 8883})

Watch = Callable[[], Coroutine[None, None, None]]
"""Returns when what it watches was stopped, raises when it ended by itself."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What the server stands on, embedded or not."""

    database_url: str
    broker: BrokerAccess
    issuer: CredentialIssuer | None
    certificates: Certificates
    watchers: tuple[Watch, ...] = ()


@dataclass(frozen=True, slots=True)
class NatsIssuer:
    """Credentials of the embedded broker, or of a NATS of the operator's own. ``told``: where devices find it."""

    nats: EmbeddedBroker | OwnNats
    told: BrokerAccess

    def issue(self, device: DeviceId, *, issued: datetime) -> BrokerCredential:
        given = self.nats.issue_device_credential(device, issued=issued)
        return BrokerCredential(
            host=self.told.host,
            port=self.told.port,
            tls=self.told.tls is not None,
            username=given.username,
            password=given.password,
            client_id=given.client_id,
            expires_at=issued + CREDENTIAL_LIFE,
        )

    async def revoke(self, devices: Mapping[DeviceId, datetime]) -> None:
        await self.nats.revoke(devices)


async def stand(settings: Settings, stack: AsyncExitStack) -> Outside:
    """Start what is embedded until the stack is closed, and bring the schema up to date where it is ours to do so.

    Raises:
        ConfigurationError, SchemaError: it cannot work as it is set up; the text says what to do.
        StoreUnavailableError, BrokerUnavailableError: they do not answer.
    """
    certificates = Certificates(
        rest=serving_files(settings.tls_certificate, settings.tls_key),
        mqtt=broker_files(ca=settings.mqtt_ca, certificate=settings.mqtt_certificate, key=settings.mqtt_key),
    )
    await stack.enter_async_context(certificates.watched())
    watchers: list[Watch] = []
    if settings.database_url is None:
        postgres = await stack.enter_async_context(EmbeddedPostgres(settings.data_dir))
        database_url = postgres.database_url
        await apply_migrations(database_url)
        watchers.append(postgres.watch)
    else:
        database_url = settings.database_url.get_secret_value()
        await check_schema(database_url)
    return await stand_broker(settings, stack, database_url, certificates, tuple(watchers))


async def stand_broker(
    settings: Settings,
    stack: AsyncExitStack,
    database_url: str,
    certificates: Certificates,
    watchers: tuple[Watch, ...],
) -> Outside:
    if settings.mqtt_url is None:
        if settings.nats_dir is not None:
            raise ConfigurationError("TIDEGATE_NATS_DIR is for a NATS of your own: set TIDEGATE_MQTT_URL too.")
        broker = await stack.enter_async_context(EmbeddedBroker(settings.data_dir, settings.topic_root))
        access = _as_server(BrokerAccess(broker.mqtt_host, broker.mqtt_port, ""), broker.server_credential)
        issuer = NatsIssuer(broker, _told(settings, access))
        return Outside(database_url, access, issuer, certificates, (*watchers, broker.watch))
    access = external_broker(settings.mqtt_url.get_secret_value(), settings.mqtt_client_id, certificates.mqtt)
    if settings.nats_dir is None:
        return Outside(database_url, access, None, certificates, watchers)
    nats = OwnNats(settings.nats_dir, settings.topic_root, host=access.host, port=access.port, tls=access.tls)
    await nats.start()
    access = _as_server(access, nats.server_credential)
    return Outside(database_url, access, NatsIssuer(nats, _told(settings, access)), certificates, watchers)


def _as_server(address: BrokerAccess, own: MqttCredential) -> BrokerAccess:
    return replace(address, client_id=own.client_id, username=own.username, password=own.password)


def _told(settings: Settings, access: BrokerAccess) -> BrokerAccess:
    return access if settings.device_mqtt_url is None else external_broker(settings.device_mqtt_url, "")


def external_broker(url: str, client_id: str, files: TlsFiles | None = None) -> BrokerAccess:
    """Return how to reach a broker; ``files``: for TLS, instead of the system's authorities.

    Raises:
        ConfigurationError: no URL of a broker, or files for TLS without it.
    """
    parts = urlsplit(url)
    if parts.scheme not in _MQTT_PORTS or not parts.hostname:
        raise ConfigurationError("A broker's URL looks like mqtt://user:password@host:1883 or mqtts://host:8883.")
    if files is not None and parts.scheme != "mqtts":
        raise ConfigurationError("Files for TLS to the broker, and a TIDEGATE_MQTT_URL without it: write mqtts://.")
    default = ssl.create_default_context if files is None else lambda: files.context
    return BrokerAccess(
        parts.hostname,
        parts.port or _MQTT_PORTS[parts.scheme],
        client_id,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        default() if parts.scheme == "mqtts" else None,
    )
