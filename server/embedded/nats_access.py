"""Who may come into one NATS server: its keys, the credentials they give out, and those that were taken back.

What the server is told follows from the keys and from who is revoked, and from nothing else. That matters twice: NATS
reloads no other operator token than the one it has started with, and after a restart of ours the same text shows that
nothing has to be told again.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from firmware_store.errors import InvalidInputError
from server.domain.enrolment import CREDENTIAL_LIFE
from server.domain.identity import DeviceId
from server.embedded.credentials import PROBE_NAME, BrokerKeys, MqttCredential
from server.embedded.process import in_thread
from server.embedded.revocations import Revocations

KEYS_FILE: Final = "keys.json"
REVOKED_FILE: Final = "revoked.json"

_FOR_EVER: Final = 1 << 40

Reload = Callable[[Mapping[str, Any], MqttCredential], Awaitable[None]]
"""Have NATS take the settings; return when it refuses the credential, the canary. Raises: BrokerUnavailableError."""


class NatsAccess:
    """Reading or making the keys blocks.

    Raises:
        ConfigurationError: a file is damaged; it is not replaced.
    """

    def __init__(self, folder: Path, topic_root: str) -> None:
        self._topic_root = topic_root
        self._keys = BrokerKeys.load_or_create(folder / KEYS_FILE)
        self._revocations = Revocations(folder / REVOKED_FILE)
        self._enforced: dict[str, int] | None = None
        self._reloading = asyncio.Lock()

    @property
    def server(self) -> MqttCredential:
        """For Tidegate itself: everything below the first level of the topic root."""
        return self._keys.server(self._topic_root, now=datetime.now(UTC))

    @property
    def probe(self) -> MqttCredential:
        """A credential that opens nothing; to see that the server answers."""
        return self._keys.probe(now=datetime.now(UTC))

    @property
    def canary(self) -> MqttCredential:
        """A credential that no server lets in which has the settings as they are now.

        A signal to reload has no answer. But each list also revokes a name that stands for these settings alone, so
        that a server which refuses it has them in force, and has ended the sessions that they no longer allow.
        """
        return self._keys.probe(now=datetime.now(UTC), name=self._canary_name(self._revocations.as_seconds()))

    def settings(self) -> Mapping[str, Any]:
        """Return the part of the configuration that says whom the server believes, in NATS's words."""
        revoked = self._revocations.as_seconds()
        return self._keys.trust_settings(self._topic_root, revoked=revoked | {self._canary_name(revoked): _FOR_EVER})

    def note_enforced(self) -> None:
        """The server has started with, or still has, ``settings``."""
        self._enforced = self._revocations.as_seconds()

    def device(
        self, device: str, *, issued: datetime | None = None, valid_for: timedelta = CREDENTIAL_LIFE
    ) -> MqttCredential:
        """Return a credential for one device; it is stored nowhere, and those issued earlier stay valid.

        ``issued`` (default: now) is what a revocation is compared with, in whole seconds.

        Raises:
            InvalidInputError: not a device id, or a longer life than a revocation is remembered.
        """
        if valid_for > CREDENTIAL_LIFE:
            raise InvalidInputError(f"A credential is valid for at most {CREDENTIAL_LIFE.days} days.")
        since = issued or datetime.now(UTC)
        return self._keys.device(DeviceId(device), issued=since, expires=since + valid_for)

    async def revoke(self, devices: Mapping[DeviceId, datetime], reload: Reload) -> None:
        """Refuse credentials issued at or before the instants given; nothing happens where that is so already.

        Raises:
            InvalidInputError: not a device id.
            BrokerUnavailableError: written down, but not known to be in force; the next call tries again.
        """
        async with self._reloading:
            await in_thread(lambda: self._revocations.add(devices, now=datetime.now(UTC)))
            if (wanted := self._revocations.as_seconds()) != self._enforced:
                await reload(self.settings(), self.canary)
                self._enforced = wanted

    def _canary_name(self, revoked: Mapping[str, int]) -> str:
        told = json.dumps([self._topic_root, revoked], sort_keys=True)
        return f"{PROBE_NAME}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"
