"""Whom a device trusts where a server speaks TLS."""

import ssl
from pathlib import Path

from firmware_store.errors import InvalidInputError


def read_authorities(path: Path | None) -> ssl.SSLContext | None:
    """Return what trusts the authorities in a PEM file and no others; None, the system's, without one.

    Raises:
        InvalidInputError: it has no certificate that can be read.
    """
    if path is None:
        return None
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as exc:
        raise InvalidInputError(f"{path} has no certificates of authorities: {exc}") from exc
