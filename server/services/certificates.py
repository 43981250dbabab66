"""TLS: certificates and keys in files that somebody else renews, taken up while the server runs.

Connections that stand keep what they began with; each new one begins with what was in the files last and could be used.
A pair that cannot be used (half written, a key of another certificate, expired) changes nothing, and is told: in the
log, in the metrics and by ``/readyz``.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from cryptography import x509

from firmware_store.errors import ConfigurationError

log = structlog.get_logger(__name__)

LOOK_S: Final = 5.0
"""How often the files are looked at."""

SOON_S: Final = 14 * 86_400.0
"""A certificate that ends within this time is said to end soon."""

_DAY_S: Final = 86_400.0

Make = Callable[[], ssl.SSLContext]


class RenewedContext(ssl.SSLContext):
    """Stands for the newest context: whoever holds this one uses that one for each new connection."""

    newest: ssl.SSLContext

    @classmethod
    def of(cls, newest: ssl.SSLContext) -> "RenewedContext":
        context = cls(newest.protocol)
        context.newest = newest
        return context

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """See ``ssl.SSLContext``."""
        return self.newest.wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """See ``ssl.SSLContext``."""
        return self.newest.wrap_bio(*arguments, **options)


class CertificateState(NamedTuple):
    """``is_well``: it can be used still. ``text`` says until when, and what is wrong with a newer one."""

    name: str
    is_well: bool
    text: str


class TlsFiles:
    """One use of TLS: ``context`` for it, and ``look`` to take up what the files have now.

    ``certificate`` is None where there is nothing but authorities to trust.
    """

    def __init__(
        self,
        name: str,
        make: Make,
        files: Sequence[Path],
        *,
        certificate: Path | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises: ConfigurationError: the files cannot be used; the text says why."""
        self.name = name
        self._make = make
        self._files = tuple(files)
        self._certificate = certificate
        self._clock = clock
        self._seen = self._stamps()
        try:
            self.context = RenewedContext.of(make())
            self.not_after = self._read_end()
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"TLS for {name}: {_words(exc, self._files)}.") from exc
        self._refusal = ""

    def look(self) -> None:
        """Take up what the files have now, if they have changed; what cannot be used changes nothing. Blocks."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps  # taken before they are read: what changes meanwhile is read again
        self._refusal = self._take_up()
        if self._refusal:
            log.error("certificate_refused", name=self.name, reason=self._refusal, instead="the one before stays")
        else:
            until = None if self.not_after is None else _date(self.not_after)
            log.info("certificate_taken_up", name=self.name, until=until)

    def _take_up(self) -> str:
        """Return why what is there now cannot be used; empty: it is used from here on."""
        try:
            newest, not_after = self._make(), self._read_end()
        except (OSError, ValueError) as exc:
            return _words(exc, self._files)
        if not_after is not None and not_after <= self._clock():
            return f"the certificate has expired on {_date(not_after)}"
        self.context.newest, self.not_after = newest, not_after
        return ""

    @property
    def state(self) -> CertificateState:
        texts = [] if self._refusal == "" else [f"the newer one is refused: {self._refusal}"]
        left_s = float("inf") if self.not_after is None else self.not_after - self._clock()
        if self.not_after is not None:
            what = "expired on" if left_s <= 0 else "valid until"
            soon = f", in {left_s / _DAY_S:.0f} days" if 0 < left_s < SOON_S else ""
            texts.insert(0, f"{what} {_date(self.not_after)}{soon}")
        return CertificateState(self.name, left_s > 0, "; ".join(texts) or "authorities are read")

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._files))

    def _read_end(self) -> float | None:
        """Return when the certificate ends (Unix seconds); the first in its file is the server's own (RFC 8446 4.4.2).

        Raises:
            OSError, ValueError: it cannot be read.
        """
        if self._certificate is None:
            return None
        return x509.load_pem_x509_certificates(self._certificate.read_bytes())[0].not_valid_after_utc.timestamp()


class Certificates:
    """All uses of TLS; those without files are None."""

    def __init__(self, *, rest: TlsFiles | None, mqtt: TlsFiles | None) -> None:
        self.rest = rest
        self.mqtt = mqtt

    @property
    def states(self) -> list[CertificateState]:
        """How each of them is."""
        return [files.state for files in self._all]

    @property
    def ends(self) -> dict[str, float]:
        """When each certificate ends, in Unix seconds."""
        return {files.name: files.not_after for files in self._all if files.not_after is not None}

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Take up what is renewed, for the block."""
        watching = asyncio.create_task(self._watch(), name="watch certificates")
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def look(self) -> None:
        """Take up what has been renewed."""
        for files in self._all:
            await asyncio.to_thread(files.look)

    async def _watch(self) -> None:
        while self._all:
            await asyncio.sleep(LOOK_S)
            await self.look()

    @property
    def _all(self) -> list[TlsFiles]:
        return [files for files in (self.rest, self.mqtt) if files is not None]


def serving_files(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    """Return what REST is served with; None: without TLS. Raises: ConfigurationError."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigurationError("TLS for REST takes both, TIDEGATE_TLS_CERTIFICATE and TIDEGATE_TLS_KEY.")

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _load_pair(context, certificate, key)
        return context

    return TlsFiles("rest", make, (certificate, key), certificate=certificate)


def broker_files(*, ca: Path | None, certificate: Path | None, key: Path | None) -> TlsFiles | None:
    """Return how the server reaches its broker over TLS; None: by the system's authorities, without a certificate.

    Raises:
        ConfigurationError: files that cannot be used, or a certificate without its key.
    """
    if (certificate is None) != (key is None):
        raise ConfigurationError("A client certificate for the broker takes both, TIDEGATE_MQTT_CERTIFICATE and _KEY.")
    files = _given((ca, certificate, key))
    if not files:
        return None

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None and key is not None:
            _load_pair(context, certificate, key)
        return context

    return TlsFiles("mqtt", make, files, certificate=certificate)


def _given(files: Iterable[Path | None]) -> tuple[Path, ...]:
    return tuple(file for file in files if file is not None)


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    # With a password given, OpenSSL does not ask a terminal for one where the key is encrypted.
    context.load_cert_chain(certificate, key, password="")


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _words(exc: Exception, files: Sequence[Path]) -> str:
    """Say what is wrong, and with which files; OpenSSL's own words name none."""
    if isinstance(exc, ssl.SSLError):
        said = {"KEY_VALUES_MISMATCH": "the key is not that of the certificate"}.get(exc.reason or "", str(exc))
        return f"{' and '.join(map(str, files))} cannot be used: {said}"
    if isinstance(exc, OSError):
        return f"{exc.filename or ' or '.join(map(str, files))}: {exc.strerror}"
    return f"{files[0]}: {exc}"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")
