"""Questions to the person at the terminal, and files that the person names."""

import sys
from getpass import getpass
from pathlib import Path

from firmware_store.errors import ConfigurationError, InvalidInputError
from firmware_store.keys import Signer, key_is_encrypted, load_key
from firmware_store.signers import COMMAND, load_signer


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


def agree(question: str) -> None:
    """Return if the answer is yes, or if there is nobody to ask: a script's command is its word.

    Raises:
        ConfigurationError: it is not.
    """
    if not sys.stdin.isatty():
        return
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigurationError("nothing was done")


def load_signing_key(spec: str | Path, passphrase_file: Path | None) -> Signer:
    """Return the signer that ``--key`` names; a file's passphrase comes from another file, or from the person.

    Raises:
        ConfigurationError: no key, the wrong passphrase, or nobody to ask for it.
    """
    if isinstance(spec, str) and spec.startswith(COMMAND):
        return load_signer(spec)
    path = Path(spec)
    if not key_is_encrypted(path):
        return load_key(path, None)
    if passphrase_file is not None:
        return load_key(path, read_passphrase(passphrase_file))
    if not sys.stdin.isatty():
        raise ConfigurationError(f"the key {path} needs a passphrase: name a --passphrase-file")
    return load_key(path, getpass(f"Passphrase of {path}: ").encode())


def new_passphrase(path: Path, passphrase_file: Path | None) -> bytes:
    """Return the passphrase for a new key: from a file, or from the person, twice.

    Raises:
        ConfigurationError: it is empty, it differs the second time, or there is nobody to ask.
    """
    if passphrase_file is not None:
        passphrase = read_passphrase(passphrase_file)
    elif not sys.stdin.isatty():
        raise ConfigurationError(f"the key {path} needs a passphrase: name a --passphrase-file")
    else:
        passphrase = getpass(f"New passphrase of {path}: ").encode()
        if getpass("The same again: ").encode() != passphrase:
            raise ConfigurationError("that was not the same: no key was written")
    if not passphrase:
        raise ConfigurationError("a key needs a passphrase that is not empty")
    return passphrase


def read_passphrase(path: Path) -> bytes:
    """Return what a file holds, without the end of its line.

    Raises:
        ConfigurationError: it cannot be read.
    """
    return read_file(path).rstrip(b"\r\n")


def read_file(path: Path) -> bytes:
    """Read a small file.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc


def parse_hex(text: str, what: str, size: int) -> bytes:
    """Return ``size`` bytes from their hexadecimal digits; dashes may be between them, as in a UUID.

    Raises:
        InvalidInputError: anything else.
    """
    try:
        value = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        value = b""
    if len(value) != size:
        raise InvalidInputError(f"{what} has {2 * size} hexadecimal digits, and is not {text!r}")
    return value
