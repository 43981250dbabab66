"""Where else than in blobs at the broker an offer's bytes may come from: deltas from another image, and HTTP.

Both only ever save bytes or time. Nothing in here is trusted for what it brings: a delta's pieces are blobs that are
named by digest, and whatever a delta or a server gives is compared with the digests of the signed manifest.
"""

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

from firmware_store.codec import Value
from firmware_store.errors import CodecError, InvalidInputError
from firmware_store.suit_values import CHUNK_BYTES, DIGEST_BYTES, MAX_COMPONENTS, MAX_IMAGE_BYTES, MAX_INDEX_BYTES
from server.protocol.strict_map import as_bytes, as_uint

DELTAS_MOST: Final = 8
"""In one offer; a device picks one for each component."""
BASE_URL_CHARACTERS_MOST: Final = 256
_CODEC: Final = re.compile(r"[a-z][a-z0-9-]{0,15}", re.ASCII)
_BASE_URL: Final = re.compile(
    r"https?://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*", re.ASCII
)
_TICKET: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,128}", re.ASCII)  # RFC 6750 2.1: what a bearer token is made of


class Transport(IntEnum):
    """By which of the two a device fetches first; it takes the other one when that fails."""

    MQTT = 0
    HTTP = 1


class DeltaOffer(NamedTuple):
    """A delta that makes the target image of a component from another image, and where its pieces are.

    Its bytes are cut as an image's are, with the profile ``FIXED``: index root, pages and chunks are blobs.
    ``component`` is the number in the manifest, from 0. A device that does not have the codec leaves the delta alone.
    ``wire_bytes`` are all of its blobs together.
    """

    component: int
    codec: str
    source_digest: bytes
    target_digest: bytes
    wire_bytes: int
    index_digest: bytes
    index_size: int
    chunk_count: int


class HttpSource(NamedTuple):
    """The server that has the same blobs below ``{base_url}/v1/blobs/``; ``ticket`` is the bearer token for them."""

    prefer: Transport
    base_url: str
    ticket: str


def check_deltas(deltas: Sequence[DeltaOffer]) -> None:
    """Check what a type cannot say.

    Raises:
        InvalidInputError: too many deltas, or one that cannot be.
    """
    if len(deltas) > DELTAS_MOST:
        raise InvalidInputError(f"An offer has at most {DELTAS_MOST} deltas.")
    for delta in deltas:
        if not 0 <= delta.component < MAX_COMPONENTS:
            raise InvalidInputError(f"A delta is for a component from 0 to {MAX_COMPONENTS - 1}.")
        if not _CODEC.fullmatch(delta.codec):
            raise InvalidInputError("A delta's codec is a short word in small letters.")
        digests = (delta.source_digest, delta.target_digest, delta.index_digest)
        if any(len(digest) != DIGEST_BYTES for digest in digests):
            raise InvalidInputError(f"A delta's digests have {DIGEST_BYTES} bytes.")
        if not 1 <= delta.index_size <= MAX_INDEX_BYTES or not delta.index_size < delta.wire_bytes <= MAX_IMAGE_BYTES:
            raise InvalidInputError("A delta's index has at most 64 KiB, and all of its blobs more than that index.")
        if not 1 <= delta.chunk_count <= MAX_IMAGE_BYTES // CHUNK_BYTES:
            raise InvalidInputError("A delta has at least one chunk, and no more than the largest image.")


def check_http(source: HttpSource) -> None:
    """Check what a type cannot say.

    Raises:
        InvalidInputError: no base URL, or no bearer token.
    """
    if len(source.base_url) > BASE_URL_CHARACTERS_MOST or not _BASE_URL.fullmatch(source.base_url):
        raise InvalidInputError("A base URL is http or https, a host, and a path without a slash at its end.")
    if not _TICKET.fullmatch(source.ticket):
        raise InvalidInputError("A ticket has 1 to 128 characters of a bearer token.")


def delta_rows(deltas: Sequence[DeltaOffer]) -> list[Value]:
    """Return key 18 of a directive."""
    return [[str(part) if isinstance(part, str) else part for part in delta] for delta in deltas]


def read_deltas(value: Value) -> tuple[DeltaOffer, ...]:
    """Read key 18 of a directive; ``check_deltas`` has the last word.

    Raises:
        CodecError: of another shape.
    """
    if type(value) is not list or not value:
        raise CodecError("Deltas are an array, which is left out where there are none.")
    return tuple(map(_read_delta, value))


def http_row(source: HttpSource) -> list[Value]:
    """Return key 19 of a directive."""
    return [source.prefer.value, source.base_url, source.ticket]


def read_http(row: list[Any]) -> HttpSource:
    """Read key 19 of a directive; ``check_http`` has the last word.

    Raises:
        CodecError: of another shape.
        ValueError: a transport that there is not.
    """
    prefer, base_url, ticket = row
    if type(base_url) is not str or type(ticket) is not str:
        raise CodecError("A source has a base URL and a ticket.")
    return HttpSource(Transport(as_uint(prefer)), base_url, ticket)


def _read_delta(value: Value) -> DeltaOffer:
    match value:
        case [component, str(codec), source, target, wire_bytes, index_digest, index_size, chunk_count]:
            return DeltaOffer(
                as_uint(component),
                codec,
                as_bytes(source, DIGEST_BYTES),
                as_bytes(target, DIGEST_BYTES),
                as_uint(wire_bytes),
                as_bytes(index_digest, DIGEST_BYTES),
                as_uint(index_size),
                as_uint(chunk_count),
            )
    raise CodecError("A delta that is not an array of eight.")
