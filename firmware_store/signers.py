"""Signers whose keys this process never sees, and the choice between them and a key file.

A command signs by reading the message from its standard input and writing the 64 bytes of the signature, and nothing
else, to its standard output: a few lines around a PKCS#11 tool, a cloud's key service or an ssh to another machine.
What it returns is checked before it goes anywhere, so that a wrong or compromised signer is noticed here.
"""

import re
import selectors
import shlex
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

from firmware_store.errors import ConfigurationError, SignerUnavailableError
from firmware_store.keys import SIGNATURE_BYTES, Kid, PublicKey, Signer, load_key, load_public_key
from firmware_store.roles import RoleName

DEFAULT_TIMEOUT_S: Final = 60.0
"""Long enough for somebody to touch a token or to type a PIN."""

_FILE: Final = "file:"
COMMAND: Final = "command:"


class CommandSigner:
    """Signs by running ``command``, which holds the private half of ``public``. ``sign`` blocks: give it a thread."""

    def __init__(self, public: PublicKey, command: Sequence[str], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        if not command:
            raise ConfigurationError("a signing command needs a program")
        self.public = public
        self._command = tuple(command)
        self._timeout_s = timeout_s

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``; one byte more than that is already refused.

        Raises:
            SignerUnavailableError: the command cannot be run, fails, takes too long, or returns anything else.
        """
        with tempfile.TemporaryFile() as source:
            source.write(message)
            source.seek(0)
            signature = self._run(source)
        if not self.public.verify(signature, message):
            raise SignerUnavailableError(f"{self._name} returned no signature by key {self.public.kid.hex()}")
        return signature

    @property
    def _name(self) -> str:
        return f"the signing command {self._command[0]}"

    def _run(self, source: IO[bytes]) -> bytes:
        """The message is a file, so that a command that does not read it cannot block us; its errors go to ours."""
        deadline = time.monotonic() + self._timeout_s
        try:
            process = subprocess.Popen(self._command, stdin=source, stdout=subprocess.PIPE, bufsize=0)
        except OSError as exc:
            raise SignerUnavailableError(f"cannot run {self._name}: {exc.strerror}") from exc
        with process:
            assert process.stdout is not None
            try:
                output = _read_to_end(process.stdout, deadline)
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except (TimeoutError, subprocess.TimeoutExpired) as exc:
                raise SignerUnavailableError(f"{self._name} took more than {self._timeout_s:g} s") from exc
            finally:
                process.kill()  # nothing happens to one that has ended
        if code:
            raise SignerUnavailableError(f"{self._name} failed with code {code}")
        return output


def load_signer(spec: str, *, passphrase: bytes | None = None) -> Signer:
    """Return the signer that a setting names.

    ``/path/key.pem`` or ``file:/path/key.pem`` is a key file; ``command:/path/key.pub.pem PROGRAM ARGUMENT...``, with
    the quotes of a shell and no shell, is a command for the private half of that public key.

    Raises:
        ConfigurationError: no key, no command, or nothing that could be either.
    """
    if not spec.startswith(COMMAND):
        return load_key(Path(spec.removeprefix(_FILE)), passphrase)
    try:
        public, *command = shlex.split(spec.removeprefix(COMMAND))
    except ValueError as exc:
        raise ConfigurationError(
            f"a signing command is command:PUBLIC-KEY-FILE PROGRAM ARGUMENT..., not {spec!r}"
        ) from exc
    return CommandSigner(load_public_key(Path(public)), command)


def load_role(role: RoleName, source: str | Path, *, passphrase: bytes | None = None) -> Mapping[Kid, Signer]:
    """Return a role's signers: those of a setting, one a line, or the key files of a folder that are named after it.

    Raises:
        ConfigurationError: one cannot be read.
    """
    if isinstance(source, str):
        specs = [spec for line in source.splitlines() if (spec := line.strip())]
    else:
        name = re.compile(rf"{role}-[A-Za-z0-9]+\.pem")  # not directive-2.pub.pem
        specs = [f"{_FILE}{path}" for path in sorted(source.glob("*.pem")) if name.fullmatch(path.name)]
    signers = [load_signer(spec, passphrase=passphrase) for spec in specs]
    return MappingProxyType({signer.public.kid: signer for signer in signers})


def _read_to_end(stream: IO[bytes], deadline: float) -> bytes:
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            piece = stream.read(SIGNATURE_BYTES + 1)
            if not piece:
                return output
            output += piece
            if len(output) > SIGNATURE_BYTES:
                raise SignerUnavailableError("the signing command returned more than a signature")
    raise TimeoutError
