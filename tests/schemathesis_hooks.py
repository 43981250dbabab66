"""What schemathesis has to know of our own media types: their bodies are bytes."""

from typing import Any

import schemathesis

MEDIA = ("application/vnd.tidegate.bundle", "application/tidegate-root+cbor", "application/tidegate-status+cbor")


@schemathesis.serializer(*MEDIA)
def as_bytes(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
