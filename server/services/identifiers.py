"""Ids of the API: UUIDv7 (RFC 9562 5.7), so that they sort by age, shown with a prefix that says what they name."""

import secrets
import time
from uuid import UUID

from firmware_store.errors import InvalidInputError
from server.domain.identity import BUNDLE, CAMPAIGN, FREEZE, OPERATION, REVOCATION, WEBHOOK, show

__all__ = ["BUNDLE", "CAMPAIGN", "FREEZE", "OPERATION", "REVOCATION", "WEBHOOK", "new_uuid7", "parse", "show"]


def new_uuid7() -> UUID:
    """Return 48 bits of Unix milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | secrets.randbits(80)
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=value)


def parse(prefix: str, text: str) -> UUID:
    """Raises: InvalidInputError."""
    try:
        if text.startswith(prefix) and len(text) == len(prefix) + 32:
            return UUID(hex=text[len(prefix) :])
    except ValueError:
        pass
    raise InvalidInputError(f"Not an id: it would be {prefix} and 32 hexadecimal digits.")
