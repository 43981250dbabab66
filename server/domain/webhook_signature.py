"""The signature of a delivery (pure), as Standard Webhooks has it: HMAC-SHA-256 over its id, its time and its body."""

import base64
import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

SECRET_BYTES: Final = 32
_SHOWN_AS: Final = "whsec_"


def shown(secret: bytes) -> str:
    """Return a secret as receivers' libraries take it."""
    return _SHOWN_AS + base64.b64encode(secret).decode()


def signed_headers(secrets: Sequence[bytes], *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers; while a secret is being replaced there is a signature by each of them."""
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.new(secret, content, sha256).digest()).decode() for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
