"""Who may connect to the embedded broker, and what a device may do there.

NATS does not bind an MQTT client id to a credential, so whoever knew another's id could throw it off by connecting
under it. Therefore a credential names a client id that only the server can compute.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from firmware_store.errors import ConfigurationError
from server.domain.identity import DeviceId, device_id
from server.embedded.nats_jwt import (
    KeyKind,
    NKey,
    Permissions,
    account_token,
    operator_token,
    scoped_user_token,
    system_account_token,
    user_token,
)
from server.embedded.process import write_private

SERVER_NAME: Final = "tidegate.server"  # the dot keeps it from being a device's id
PROBE_NAME: Final = "tidegate.probe"
PROBE_VALID: Final = timedelta(minutes=2)


@dataclass(frozen=True)
class MqttCredential:
    """What an MQTT client connects with. ``client_id`` is a part of it: see this module's text."""

    username: str
    password: str = field(repr=False)
    client_id: str = field(repr=False)


def device_permissions(topic_root: str) -> Permissions:
    """Return what a device may do; ``{{name()}}`` stands for its id.

    ``$MQTT.sub.>`` is where NATS delivers a QoS 1 subscription; over MQTT nobody can subscribe to it by name.
    """
    root = topic_root.replace("/", ".")
    return Permissions(
        publish=(f"{root}.*.device.{{{{name()}}}}.up.>",),
        subscribe=(
            f"{root}.*.device.{{{{name()}}}}.down.>",
            f"{root}.*.cohort.*.directive",
            f"{root}.trust.root.*",
            f"{root}.trust.status",
            f"{root}.blob.*",
            "$MQTT.sub.>",
        ),
    )


class BrokerKeys:
    """What makes credentials valid. Lost, every device needs a new one; stolen, the thief is every device."""

    def __init__(
        self, *, operator: NKey, account: NKey, device_signer: NKey, system_account: str, created: datetime
    ) -> None:
        self._operator = operator
        self._account = account
        self._device_signer = device_signer
        self._system_account = system_account
        self._created = created

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Raises: ConfigurationError: the file is damaged; it is not replaced."""
        if path.exists():
            return cls._load(path)
        keys = cls(
            operator=NKey.generate(KeyKind.OPERATOR),
            account=NKey.generate(KeyKind.ACCOUNT),
            device_signer=NKey.generate(KeyKind.ACCOUNT),
            system_account=NKey.generate(KeyKind.ACCOUNT).public,  # its seed is dropped: nobody signs for it
            created=datetime.now(UTC),
        )
        stored = {
            "operator_seed": keys._operator.seed_text,
            "account_seed": keys._account.seed_text,
            "device_signer_seed": keys._device_signer.seed_text,
            "system_account": keys._system_account,
            "created": int(keys._created.timestamp()),
        }
        write_private(path, json.dumps(stored, indent=2) + "\n")
        return keys

    @classmethod
    def _load(cls, path: Path) -> Self:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                operator=NKey.from_seed_text(stored["operator_seed"]),
                account=NKey.from_seed_text(stored["account_seed"]),
                device_signer=NKey.from_seed_text(stored["device_signer_seed"]),
                system_account=str(stored["system_account"]),
                created=datetime.fromtimestamp(stored.get("created", 0), UTC),
            )
        except (ConfigurationError, ValueError, KeyError, TypeError, OverflowError) as exc:
            raise ConfigurationError(f"{path} is damaged: restore it from a backup.") from exc

    def trust_settings(self, topic_root: str, *, revoked: Mapping[str, int]) -> dict[str, Any]:
        """Return the part of the broker's configuration that says whom it believes: the same for the same arguments.

        ``revoked``: name -> Unix second; that name's credentials issued then or earlier are refused.
        """
        fleet = account_token(
            self._operator,
            account=self._account.public,
            name="fleet",
            templates={self._device_signer.public: device_permissions(topic_root)},
            now=self._created,
            revocations={self._user_key(name): second for name, second in revoked.items()},
        )
        system = system_account_token(self._operator, account=self._system_account, now=self._created)
        return {
            "operator": operator_token(self._operator, system_account=self._system_account, now=self._created),
            "system_account": self._system_account,
            "resolver": "MEMORY",
            "resolver_preload": {self._account.public: fleet, self._system_account: system},
        }

    def device(self, device: DeviceId, *, issued: datetime, expires: datetime) -> MqttCredential:
        """Return the credential of a device. Its id is checked again: a token named ``*`` would open every topic.

        Raises:
            InvalidInputError: not a device id.
        """
        name = device_id(device)
        token = scoped_user_token(
            self._device_signer,
            account=self._account.public,
            subject=self._user_key(name),
            name=name,
            now=issued,
            expires=expires,
        )
        return MqttCredential(username=name, password=token, client_id=self._client_id(name))

    def server(self, topic_root: str, *, now: datetime) -> MqttCredential:
        """Return the server's own credential: everything below the first level of the topic root.

        MQTT's ``tg/#`` covers ``tg`` as well, and NATS asks for both.
        """
        first, *_ = topic_root.split("/")
        permissions = Permissions(publish=(f"{first}.>",), subscribe=(first, f"{first}.>", "$MQTT.sub.>"))
        token = user_token(
            self._account, subject=self._user_key(SERVER_NAME), name=SERVER_NAME, permissions=permissions, now=now
        )
        return MqttCredential(username=SERVER_NAME, password=token, client_id=self._client_id(SERVER_NAME))

    def probe(self, *, now: datetime, name: str = PROBE_NAME) -> MqttCredential:
        """Return a credential that opens nothing, and soon not even the door: the port may be somebody else's."""
        token = user_token(
            self._account,
            subject=self._user_key(name),
            name=name,
            permissions=Permissions(publish=("never",), subscribe=("never",)),
            now=now,
            expires=now + PROBE_VALID,
        )
        return MqttCredential(username=name, password=token, client_id=self._client_id(name))

    def _user_key(self, name: str) -> str:
        # the same for one name each time, so that an account's revocation list can name it without a record of it
        return self._account.derive_public(KeyKind.USER, name)

    def _client_id(self, name: str) -> str:
        mac = hmac.digest(self._account.seed_text.encode(), b"client-id:" + name.encode(), hashlib.sha256)
        return f"{name.replace('.', '-')}-{mac[:12].hex()}"
