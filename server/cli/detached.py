"""Signatures in files of their own, for keys on machines that bundles do not get to."""

from pathlib import Path

from firmware_store.bundle import read_envelope
from firmware_store.bundle_file import MAGIC, readable
from firmware_store.suit import MAX_ENVELOPE_BYTES, open_envelope


def read_any_envelope(path: Path) -> bytes:
    """Return the envelope of a bundle file, or a file that is nothing but an envelope.

    Raises:
        CodecError: neither of them.
        ConfigurationError: the file cannot be read.
    """
    with readable(path) as file:
        head = file.read(MAX_ENVELOPE_BYTES + 1)
    if head.startswith(MAGIC):
        return read_envelope(path)
    open_envelope(head)
    return head
