"""A NATS server that somebody else runs and that believes our keys: ``deploy/nats``.

Folder: keys.json and revoked.json (0600, ours alone) and trust.conf, which nats.conf includes. When trust.conf
changes, whoever runs the server has it reloaded; here we only see whether that has happened.
"""

import json
import ssl
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from firmware_store.errors import ConfigurationError, ConflictError
from server.domain.identity import DeviceId
from server.embedded.credentials import MqttCredential
from server.embedded.mqtt_probe import Answer, ask_mqtt, await_answer, await_refusal
from server.embedded.nats_access import KEYS_FILE, NatsAccess
from server.embedded.process import in_thread, write_private

TRUST_FILE: Final = "trust.conf"
_TRUST_MODE: Final = 0o644  # it holds public keys and signatures, and NATS runs as another user

log = structlog.get_logger(__name__)


class OwnNats:
    """Credentials for one MQTT address of it."""

    def __init__(
        self, folder: Path, topic_root: str, *, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> None:
        """Blocking. Raises: ConfigurationError: no keys there, or they are damaged."""
        if not (folder / KEYS_FILE).exists():
            raise ConfigurationError(f"{folder} has no {KEYS_FILE}: make it with `tidegate device nats init {folder}`.")
        self._trust = folder / TRUST_FILE
        self._access = NatsAccess(folder, topic_root)
        self._address = (host, port)
        self._tls = tls

    @property
    def server_credential(self) -> MqttCredential:
        return self._access.server

    def issue_device_credential(self, device: str, *, issued: datetime) -> MqttCredential:
        """Raises: InvalidInputError: not a device id."""
        return self._access.device(device, issued=issued)

    async def start(self) -> None:
        """See that the server believes our keys, that trust.conf says what it should, and that it has been read.

        Raises:
            ConfigurationError: the server does not know our keys.
            BrokerUnavailableError: it does not answer, or has not read the file.
        """
        # It also has NATS make what it keeps MQTT sessions in: a reload just then can leave that half done.
        if await await_answer(*self._address, self._access.probe, tls=self._tls) is Answer.REFUSED:
            raise ConfigurationError(f"The NATS server does not know our keys: have it include {self._trust}.")
        if not await in_thread(lambda: _says(self._trust, self._access.settings())):
            log.warning("trust_settings_changed", file=str(self._trust))
            await self._reload(self._access.settings(), self._access.canary)
        elif await ask_mqtt(*self._address, self._access.canary, tls=self._tls) is not Answer.REFUSED:
            await await_refusal(*self._address, self._access.canary, tls=self._tls)
        self._access.note_enforced()

    async def revoke(self, devices: Mapping[DeviceId, datetime]) -> None:
        """As ``EmbeddedBroker.revoke``; raises BrokerUnavailableError where nobody reloads the server."""
        await self._access.revoke(devices, self._reload)

    async def _reload(self, trust: Mapping[str, Any], canary: MqttCredential) -> None:
        await in_thread(lambda: _write(self._trust, trust))
        await await_refusal(*self._address, canary, tls=self._tls)
        log.info("nats_reloaded")


def create_nats_folder(folder: Path, topic_root: str) -> Path:
    """Make the keys and trust.conf; return the latter. Blocking.

    Raises:
        ConflictError: there are keys already; nothing has changed.
        ConfigurationError: the folder cannot be made.
    """
    if (folder / KEYS_FILE).exists():
        raise ConflictError(f"{folder / KEYS_FILE} exists and is not overwritten")
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(folder / TRUST_FILE, NatsAccess(folder, topic_root).settings())
    except OSError as exc:
        raise ConfigurationError(f"cannot write {folder}: {exc.strerror}") from exc
    return folder / TRUST_FILE


def _write(file: Path, trust: Mapping[str, Any]) -> None:
    write_private(file, json.dumps(trust, indent=2) + "\n", mode=_TRUST_MODE)


def _says(file: Path, trust: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")) == trust)
    except (OSError, ValueError):
        return False
