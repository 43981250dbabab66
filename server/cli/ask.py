"""Questions to the person at the terminal, and files that the person names."""

import sys
from getpass import getpass
from pathlib import Path

from firmware_store.errors import ConfigurationError
from firmware_store.keys import SigningKey, key_is_encrypted, load_key


def confirm(question: str) -> None:
    """Return if the answer is yes.

    Raises:
        ConfigurationError: it is not, or there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError("there is nobody to ask: say --yes to go on without a question")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigurationError("nothing was signed")


def load_signing_key(path: Path, passphrase_file: Path | None) -> SigningKey:
    """Read a key; its passphrase comes from the file, or from the person.

    Raises:
        ConfigurationError: no key, the wrong passphrase, or nobody to ask for it.
    """
    if not key_is_encrypted(path):
        return load_key(path, None)
    if passphrase_file is not None:
        return load_key(path, read_file(passphrase_file).rstrip(b"\r\n"))
    if not sys.stdin.isatty():
        raise ConfigurationError(f"the key {path} needs a passphrase: name a --passphrase-file")
    return load_key(path, getpass(f"Passphrase of {path}: ").encode())


def read_file(path: Path) -> bytes:
    """Read a small file.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc
