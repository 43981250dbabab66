"""Signing directives and welcomes, with a mind of its own: what must not be offered is not signed, whoever asks.

Release keys are never here. What signs bundles lives offline, so that somebody who owns this whole process cannot
install a byte that the release keys did not sign. The checks below are for a server that is whole and mistaken: a
campaign that was halted a moment ago, a release that was revoked, a root that has expired.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from firmware_store.codec import Encodable
from firmware_store.documents import Kind
from firmware_store.errors import (
    ConfigurationError,
    ConflictError,
    DigestError,
    NotFoundError,
    RevokedError,
    SignerUnavailableError,
    TrustError,
)
from firmware_store.keys import Kid
from firmware_store.roles import RoleName
from firmware_store.root import Root
from server.domain.campaign import OFFERING, State
from server.domain.checkpoint import Checkpoint, checkpoint_map
from server.domain.trust import Trust
from server.protocol.orders import (
    Action,
    Directive,
    Envelope,
    StatusRef,
    Welcome,
    directive_map,
    read_directive,
    welcome_map,
)
from server.services.keyring import Keyring, Pen

SIGN_S: Final = 10.0
"""How long a signature may take: what waits for it holds locks in the database."""

CHECKS_REMEMBERED: Final = 1024


class Envelopes(Protocol):
    """Where the envelopes of bundles are; a ``BlobStore``."""

    async def get(self, digest: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Mandate:
    """One belief, and the pens that count under it."""

    trust: Trust
    directive: Pen
    session: Pen

    @property
    def epoch(self) -> int:
        """Devices compare (epoch, counter); only a new root raises the epoch."""
        return self.trust.root.roles[RoleName.DIRECTIVE].epoch

    def read_directive(self, body: bytes) -> Directive:
        """Return a directive that a device with this belief would take.

        Raises:
            TrustError: it would not.
            CodecError: it is no directive at all.
        """
        opened = self.trust.root.unseal(Kind.DIRECTIVE, body, revoked=_revoked(self.trust))
        directive = read_directive(opened.value)
        if directive.counter.epoch != self.epoch:
            raise TrustError("a directive of another epoch of its role")
        return directive


class Authority:
    """The present mandate, and the checks that come before a signature."""

    def __init__(
        self, keyring: Keyring, trust: Trust, envelopes: Envelopes, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._keyring = keyring
        self._envelopes = envelopes
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._found_good: set[tuple[tuple[bytes, bytes], Envelope, bytes, int]] = set()
        self.mandate = self.under(trust)

    @property
    def trust(self) -> Trust:
        return self.mandate.trust

    @property
    def root(self) -> Root:
        return self.trust.root

    @property
    def root_bytes(self) -> bytes:
        """Return the root document as it was accepted."""
        return self.trust.root_body

    @property
    def directive_epoch(self) -> int:
        return self.mandate.epoch

    @property
    def status_version(self) -> int:
        """What a welcome tells: 0 where there is no status that a device could open."""
        current = self.trust.current
        return 0 if current is None else current.status.version

    # --- what counts ---

    def under(self, trust: Trust) -> Mandate:
        """Return what this server could sign under another belief; where it lacks a key, that pen is empty."""
        revoked = _revoked(trust)
        return Mandate(
            trust,
            self._keyring.pen(Kind.DIRECTIVE, RoleName.DIRECTIVE, trust.root, revoked=revoked),
            self._keyring.pen(Kind.WELCOME, RoleName.SESSION, trust.root, revoked=revoked),
        )

    async def under_with_keys(self, trust: Trust) -> Mandate:
        """Return what this server will sign under a new root, for which it may have been given a new key.

        Raises:
            ConflictError: it has no key that this root names; it would fall silent. The text says what to do.
        """
        mandate = self.under(trust)
        if not (mandate.directive and mandate.session):
            try:
                await asyncio.to_thread(self._keyring.load)
            except ConfigurationError as exc:
                raise ConflictError(f"The server's keys cannot be read again: {exc}.") from exc
            mandate = self.under(trust)
        for role, pen in ((RoleName.DIRECTIVE, mandate.directive), (RoleName.SESSION, mandate.session)):
            if not pen:
                names = ", ".join(kid.hex() for kid in trust.root.keys_for(role, revoked=_revoked(trust))) or "none"
                raise ConflictError(
                    f"Root {trust.root.version} is good, but this server could not sign under it. Its {role} keys are: "
                    f"{names}. Give the server such a key ({self._keyring.where(role)}), and publish the root again."
                )
        return mandate

    def adopt(self, mandate: Mandate) -> None:
        """From now on sign under this mandate alone."""
        self.mandate = mandate
        self._found_good.clear()

    # --- checks ---

    async def check_release(
        self, envelope: Envelope, manifest_digest: bytes, sequence_number: int, *, trust: Trust | None = None
    ) -> None:
        """Return if this release may be offered as far as keys, revocations and floors are concerned.

        Raises:
            TrustError: it may not.
            SignerUnavailableError: the envelope is not here any more, or damaged: nothing can be said.
        """
        trust = trust or self.trust
        asked = (trust.bodies, envelope, manifest_digest, sequence_number)
        if asked in self._found_good:
            return
        status = trust.status
        if status is not None:
            status.check_digest(manifest_digest)  # said even where the envelope is lost
        manifest = trust.check_release(await self._fetch(envelope)).manifest
        if (manifest.digest, manifest.sequence_number) != (manifest_digest, sequence_number):
            raise DigestError("the envelope is that of another release than the one it is named for")
        if len(self._found_good) >= CHECKS_REMEMBERED:
            self._found_good.clear()
        self._found_good.add(asked)

    async def check_offer(self, directive: Directive, state: State | None, *, trust: Trust | None = None) -> None:
        """Return if this directive is no offer, or one that may be made now.

        ``state`` is that of its campaign, read in the transaction that the signature belongs to.

        Raises:
            ConflictError: the campaign is not in a state that offers.
            TrustError: see ``check_release``; ExpiredError: root or status is no longer valid.
            SignerUnavailableError: see ``check_release``.
        """
        if directive.action is not Action.OFFER:
            return
        assert directive.envelope is not None
        if state not in OFFERING:
            raise ConflictError(f"A campaign that is {state or 'not there'} may not offer anything.")
        if directive.manifest_digest in directive.halted:
            raise RevokedError("this release was halted for the same audience")
        (trust or self.trust).check_time(int(self._clock()))
        await self.check_release(directive.envelope, directive.manifest_digest, directive.sequence_number, trust=trust)

    async def _fetch(self, envelope: Envelope) -> bytes:
        try:
            data = await self._envelopes.get(envelope.digest)
        except (NotFoundError, DigestError) as exc:
            raise SignerUnavailableError(
                f"The envelope {envelope.digest.hex()} cannot be checked: {exc}. Upload the bundle again."
            ) from exc
        if len(data) != envelope.size_bytes or hashlib.sha256(data).digest() != envelope.digest:
            raise SignerUnavailableError(f"The envelope {envelope.digest.hex()} has another size than it should.")
        return data

    # --- signatures ---

    async def sign_directive(self, directive: Directive, state: State | None) -> bytes:
        """Return the signed order, with the status it was signed under.

        Raises:
            ConflictError, TrustError: an offer that must not be made; see ``check_offer``.
            SignerUnavailableError: nobody signs.
        """
        return await self._sign(self.mandate, directive, state)

    def signing_under(self, mandate: Mandate) -> Callable[[Directive, State | None], Awaitable[bytes]]:
        """Return ``sign_directive`` as it will be once ``mandate`` is adopted."""

        async def sign(directive: Directive, state: State | None) -> bytes:
            return await self._sign(mandate, directive, state)

        return sign

    async def _sign(self, mandate: Mandate, directive: Directive, state: State | None) -> bytes:
        await self.check_offer(directive, state, trust=mandate.trust)
        current = mandate.trust.current
        named = None if current is None else StatusRef(current.status.version, current.digest)
        return await self._seal(mandate.directive, directive_map(replace(directive, status=named)))

    async def sign_welcome(self, welcome: Welcome) -> bytes:
        """Return the signed welcome. Raises: SignerUnavailableError."""
        return await self._seal(self.mandate.session, welcome_map(welcome))

    async def sign_checkpoint(self, checkpoint: Checkpoint) -> bytes:
        """Return the head of the audit, signed by the session key. Raises: SignerUnavailableError."""
        pen = self._keyring.pen(Kind.CHECKPOINT, RoleName.SESSION, self.root, revoked=_revoked(self.trust))
        return await self._seal(pen, checkpoint_map(checkpoint))

    def sign_welcome_now(self, welcome: Welcome) -> bytes | None:
        """Return the signed welcome, or None where the session key is not in this process: ask ``sign_welcome`` then.

        Raises:
            SignerUnavailableError: there is no session key that counts.
        """
        pen = self.mandate.session
        return None if pen.blocks else pen.seal(welcome_map(welcome))

    def read_directive(self, body: bytes) -> Directive:
        """See ``Mandate.read_directive``."""
        return self.mandate.read_directive(body)

    async def _seal(self, pen: Pen, payload: Mapping[int, Encodable]) -> bytes:
        if not pen.blocks:
            return pen.seal(payload)
        try:
            async with asyncio.timeout(SIGN_S), self._one_at_a_time:
                return await asyncio.to_thread(pen.seal, payload)
        except TimeoutError as exc:
            raise SignerUnavailableError(f"The signer has not signed within {SIGN_S:.0f} s.") from exc


def _revoked(trust: Trust) -> frozenset[Kid]:
    return frozenset() if trust.status is None else trust.status.revoked_kids
