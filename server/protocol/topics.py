"""MQTT topics of protocol 1: text <-> values.

Layout (root ``tg/1`` by default)::

    {root}/{region}/device/{id}/up/{hello|beat|report|gone}
    {root}/{region}/device/{id}/down/{welcome|ack|directive}
    {root}/{region}/cohort/{cohort}/directive
    {root}/trust/root/{version}    {root}/trust/status
    {root}/blob/{sha256 hex}

Subscriptions use ``+`` and never ``#``: NATS takes ``#`` to ask for the parent level too, and refuses it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from firmware_store.errors import CodecError, InvalidInputError
from server.domain.identity import Cohort, DeviceId, Region, cohort, device_id, region

_ROOT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}(/[a-z0-9][a-z0-9-]{0,31}){0,3}\Z", re.ASCII)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}\Z", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


class Up(StrEnum):
    """What a device (or, for ``gone``, the broker in its name) publishes."""

    HELLO = "hello"
    BEAT = "beat"
    REPORT = "report"
    GONE = "gone"


class UpTopic(NamedTuple):
    """A parsed topic below a device's ``up/``; ids are checked."""

    region: Region
    device: DeviceId
    kind: Up


@dataclass(frozen=True, slots=True)
class CohortAudience:
    """Every device of one cohort in one region."""

    region: Region
    cohort: Cohort


@dataclass(frozen=True, slots=True)
class DeviceAudience:
    """One device. ``region`` is where its topic lies; the signed audience is the device alone."""

    region: Region
    device: DeviceId


Audience = CohortAudience | DeviceAudience


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics below one root.

    Raises:
        InvalidInputError: the root is not made of plain lower-case levels.
    """

    root: str = "tg/1"

    def __post_init__(self) -> None:
        if not _ROOT.match(self.root):
            raise InvalidInputError("A topic root is 1 to 4 levels of a-z, 0-9 and -, such as tg/1.")

    def up(self, in_region: Region, device: DeviceId, kind: Up) -> str:
        return f"{self.root}/{in_region}/device/{device}/up/{kind}"

    def welcome(self, in_region: Region, device: DeviceId) -> str:
        return f"{self.root}/{in_region}/device/{device}/down/welcome"

    def ack(self, in_region: Region, device: DeviceId) -> str:
        return f"{self.root}/{in_region}/device/{device}/down/ack"

    def directive(self, audience: Audience) -> str:
        if isinstance(audience, CohortAudience):
            return f"{self.root}/{audience.region}/cohort/{audience.cohort}/directive"
        return f"{self.root}/{audience.region}/device/{audience.device}/down/directive"

    @property
    def blobs(self) -> str:
        """What the topics of all blobs, and no others, begin with."""
        return f"{self.root}/blob/"

    def blob(self, digest: bytes) -> str:
        return f"{self.root}/blob/{digest.hex()}"

    def trust_root(self, version: int) -> str:
        return f"{self.root}/trust/root/{version}"

    @property
    def trust_status(self) -> str:
        return f"{self.root}/trust/status"

    @property
    def all_up(self) -> str:
        """What the server's ingest subscribes to: one filter, since NATS shares a session's 65,535 unacknowledged
        messages out among its QoS 1 subscriptions.
        """
        return f"{self.root}/+/device/+/up/+"

    @property
    def all_directives(self) -> tuple[str, ...]:
        """The server's own retained directives, which it compares with what they should be."""
        return (f"{self.root}/+/cohort/+/directive", f"{self.root}/+/device/+/down/directive")

    @property
    def all_trust(self) -> tuple[str, ...]:
        """The server's own retained trust documents."""
        return (f"{self.root}/trust/root/+", self.trust_status)

    def is_trust(self, topic: str) -> bool:
        """Tell a trust document's topic from all others."""
        return topic.startswith(f"{self.root}/trust/")

    def is_blob(self, topic: str) -> bool:
        """Tell a blob's topic from all others."""
        return topic.startswith(f"{self.root}/blob/")

    def parse_up(self, topic: str) -> UpTopic:
        """Read a topic that a device published on.

        Raises:
            CodecError: another shape, or an id that is none.
        """
        levels = self._levels(topic)
        match levels:
            case [in_region, "device", device, "up", kind] if kind in _UP:
                try:
                    return UpTopic(region(in_region), device_id(device), _UP[kind])
                except InvalidInputError as exc:
                    raise CodecError(f"A topic with a hostile id: {exc}") from exc
        raise CodecError("Not a topic that a device publishes on.")

    def parse_directive(self, topic: str) -> Audience:
        """Read a directive's topic.

        Raises:
            CodecError: another shape, or an id that is none.
        """
        try:
            match self._levels(topic):
                case [in_region, "cohort", name, "directive"]:
                    return CohortAudience(region(in_region), cohort(name))
                case [in_region, "device", device, "down", "directive"]:
                    return DeviceAudience(region(in_region), device_id(device))
        except InvalidInputError as exc:
            raise CodecError(f"A topic with a hostile id: {exc}") from exc
        raise CodecError("Not a directive's topic.")

    def parse_trust_root(self, topic: str) -> int:
        """Read the version off a root document's topic.

        Raises:
            CodecError: not a root document's topic.
        """
        levels = self._levels(topic)
        if len(levels) == 3 and levels[:2] == ["trust", "root"] and _VERSION.match(levels[2]):
            return int(levels[2])
        raise CodecError("Not a root document's topic.")

    def parse_blob(self, topic: str) -> bytes:
        """Read the digest (32 bytes) off a blob's topic.

        Raises:
            CodecError: not a blob's topic.
        """
        name = topic.removeprefix(self.blobs)
        if len(name) < len(topic) and _DIGEST.match(name):
            return bytes.fromhex(name)
        raise CodecError("Not a blob's topic.")

    def _levels(self, topic: str) -> list[str]:
        if not topic.startswith(self.root + "/"):
            raise CodecError("A topic outside our root.")
        return topic[len(self.root) + 1 :].split("/")


_UP: Final = {kind.value: kind for kind in Up}
