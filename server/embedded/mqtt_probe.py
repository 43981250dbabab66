"""One MQTT connection, to learn whom a broker lets in: raw bytes, so that no client library is started for it."""

import asyncio
import ssl
import struct
from collections.abc import Callable
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from firmware_store.errors import BrokerUnavailableError
from server.embedded.credentials import MqttCredential

PROBE_TIMEOUT_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 15.0
REFUSAL_TIMEOUT_S: Final = 20.0

_CLEAN_SESSION: Final = 0x02
_WITH_PASSWORD: Final = 0x40
_WITH_USERNAME: Final = 0x80
_KEEP_ALIVE_S: Final = 30
_POLL_S: Final = 0.02


class Answer(Enum):
    """What a broker says to a CONNECT; ``NONE``: nothing that counts."""

    ACCEPTED = auto()
    REFUSED = auto()
    NONE = auto()


# the CONNACKs without a session: accepted, bad user name or password, not authorized (MQTT 3.1.1 table 3.1)
_ANSWERS: Final = MappingProxyType(
    {
        b"\x20\x02\x00\x00": Answer.ACCEPTED,
        b"\x20\x02\x00\x04": Answer.REFUSED,
        b"\x20\x02\x00\x05": Answer.REFUSED,
    }
)


async def await_answer(
    host: str, port: int, credential: MqttCredential, *, tls: ssl.SSLContext | None = None
) -> Answer:
    """Return what the broker says, once it says something.

    Raises:
        BrokerUnavailableError: it does not.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while (answer := await ask_mqtt(host, port, credential, tls=tls)) is Answer.NONE:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(_POLL_S)
            return answer
    except TimeoutError as exc:
        raise BrokerUnavailableError(f"No MQTT broker answers at {host}:{port}.") from exc


async def await_refusal(
    host: str,
    port: int,
    credential: MqttCredential,
    *,
    tls: ssl.SSLContext | None = None,
    give_up: Callable[[], bool] = lambda: False,
) -> None:
    """Return when the broker refuses the credential.

    Raises:
        BrokerUnavailableError: it goes on letting it in, or does not answer, or ``give_up`` says so.
    """
    try:
        async with asyncio.timeout(REFUSAL_TIMEOUT_S):
            while await ask_mqtt(host, port, credential, tls=tls) is not Answer.REFUSED:
                if give_up():
                    raise BrokerUnavailableError("The MQTT broker has ended.")
                await asyncio.sleep(_POLL_S)
    except TimeoutError as exc:
        raise BrokerUnavailableError(
            f"The MQTT broker did not take its new configuration within {REFUSAL_TIMEOUT_S:.0f} s."
        ) from exc


async def ask_mqtt(host: str, port: int, credential: MqttCredential, *, tls: ssl.SSLContext | None = None) -> Answer:
    """Send a CONNECT and read the CONNACK (MQTT 3.1.1 3.1 and 3.2)."""
    flags = _CLEAN_SESSION | _WITH_USERNAME | _WITH_PASSWORD
    body = _prefixed(b"MQTT") + bytes([4, flags]) + struct.pack(">H", _KEEP_ALIVE_S)
    body += b"".join(
        _prefixed(text.encode()) for text in (credential.client_id, credential.username, credential.password)
    )
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
            try:
                writer.write(b"\x10" + _remaining_length(len(body)) + body)
                answer = _ANSWERS.get(await reader.readexactly(4), Answer.NONE)
                if answer is Answer.ACCEPTED:  # otherwise the broker closes, and has perhaps done so
                    writer.write(b"\xe0\x00")  # DISCONNECT
                    await writer.drain()
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError):
        return Answer.NONE
    return answer


def _prefixed(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _remaining_length(length: int) -> bytes:
    """Encode as MQTT 3.1.1 2.2.3 says: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while True:
        length, low = divmod(length, 128)
        encoded.append(low | (0x80 if length else 0))
        if not length:
            return bytes(encoded)
