"""How a device gets its identity, keeps it, and loses it.

A claim token, made by an operator for one device and used once, turns into a certificate and, at the embedded broker,
a credential. From then on the device's key speaks for it: it asks for the next certificate by a signature. A
revocation ends all of it at once, live sessions too where the broker is ours, and only a new claim begins again.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from firmware_store.cose import verify1
from firmware_store.errors import AuthenticationError, InvalidInputError, NotFoundError, SignatureError
from firmware_store.keys import PublicKey
from server.db.enrolment import Admission, ClaimRecord, EnrolmentRepository, NewCertificate
from server.domain.enrolment import CLAIM_LIFE_MOST, CREDENTIAL_LIFE, renewal_time
from server.domain.identity import Cohort, DeviceId, Region
from server.domain.scope import EVERYTHING, Scope
from server.protocol.renewal import RENEWAL_TYPE, renewal_payload
from server.services.authority import Authority
from server.services.csr import read_request
from server.services.device_ca import CRL_LIFE, DeviceCaFolder, IssuedCertificate
from server.services.fleet import Fleet
from server.services.inventory import BrokerCredential, CredentialIssuer
from server.services.metrics import Metrics
from server.services.nonces import Nonces

CLAIM_BYTES: Final = 16
CRL_FRESH_S: Final = 3600.0
"""A revocation makes a new list at once; without one the list is signed anew so often."""

_CLAIM: Final = re.compile(r"tgc_[A-Za-z0-9_-]{22}\Z", re.ASCII)
_REASON_MOST: Final = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """``token`` is shown this once."""

    token: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a device that has shown who it is goes away with."""

    device: DeviceId
    region: Region
    cohort: Cohort
    certificate: IssuedCertificate
    renew: datetime
    credential: BrokerCredential | None
    root: bytes


@dataclass(frozen=True, slots=True)
class Revoked:
    """``at_broker``: the device's session has ended; False where a broker of one's own reads the revocation list."""

    at: datetime
    at_broker: bool


class Enrolment:
    """Claims, certificates and revocations."""

    def __init__(
        self,
        *,
        repository: EnrolmentRepository,
        fleet: Fleet,
        authority: Authority,
        ca: DeviceCaFolder,
        issuer: CredentialIssuer | None,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._fleet = fleet
        self._authority = authority
        self._ca = ca
        self._issuer = issuer
        self._metrics = metrics
        self._clock = clock
        self._nonces = Nonces()
        self._crl: tuple[float, bytes] | None = None

    async def make_claim(self, device: DeviceId, *, valid: timedelta, by: str, scope: Scope = EVERYTHING) -> Claim:
        """Make a token that enrols this device, once; an earlier one that is still open is withdrawn.

        Raises:
            NotFoundError: no such device, or none within ``scope``.
            InvalidInputError: valid for no time, or for too long.
        """
        if not timedelta() < valid <= CLAIM_LIFE_MOST:
            raise InvalidInputError(
                f"A claim is valid for up to {CLAIM_LIFE_MOST.days} days.", pointer="/valid_seconds"
            )
        token = f"tgc_{secrets.token_urlsafe(CLAIM_BYTES)}"
        now = self._now()
        claim = ClaimRecord(_digest(token), device, created_by=by, created_at=now, expires_at=now + valid)
        await self._repository.add_claim(claim, scope=scope)
        log.info("claim_made", device=device, by=by, expires=claim.expires_at.isoformat())
        return Claim(token, claim.expires_at)

    async def enrol(self, device: DeviceId, *, token: str, csr: str) -> Enrolled:
        """Turn a claim and a signing request into a certificate.

        Raises:
            AuthenticationError: the claim is not good; nothing has changed.
            InvalidInputError, WeakKeyError: the request is not good; the claim stays open.
            ConflictError: the key is bound already, or there is no CA; the claim stays open.
        """
        now = self._now()
        secret = _digest(token)
        await self._check_claim(device, token, secret, now)
        public = read_request(csr).public
        certificate, record = await self._certify(device, public, now)
        try:
            admission = await self._repository.enrol(secret, record)
        except NotFoundError as exc:
            raise AuthenticationError("This claim token is not known.") from exc
        log.info("device_enrolled", device=device, kid=public.kid.hex(), serial=f"{certificate.serial:x}")
        self._metrics.enrolments.labels("enrolled").inc()
        return self._admit(device, admission, certificate)

    def make_nonce(self) -> bytes:
        """Return what the next renewal's proof must contain; good for a few minutes, once."""
        return self._nonces.make(now=self._clock())

    async def renew(self, device: DeviceId, *, csr: str, nonce: bytes, proof: bytes) -> Enrolled:
        """Turn a signing request that a good key of the device vouches for into a certificate.

        The key may be the old one again or a new one; the old certificate stays good until it expires.

        Raises:
            AuthenticationError: the proof is not good; nothing has changed.
            InvalidInputError, WeakKeyError: the request is not good.
            ConflictError: the new key is bound to another device or was revoked.
            RateLimitedError: too many of late.
        """
        self._nonces.check(nonce, now=self._clock())
        now = self._now()
        keys = await self._repository.valid_keys(device, now=now)
        if not keys:
            raise self._refused(device, "No key of this device is good: it needs a claim.")
        request = read_request(csr)
        try:
            old = verify1(proof, renewal_payload(device, request.der, nonce), keys, typ=RENEWAL_TYPE)
        except SignatureError as exc:
            raise self._refused(device, "The proof does not hold.") from exc
        if old is None:
            raise self._refused(device, "The proof is by no key that the device may renew with.")
        self._nonces.spend(nonce, now=self._clock())
        certificate, record = await self._certify(device, request.public, now)
        admission = await self._repository.renew(old, record)
        log.info("device_renewed", device=device, kid=request.public.kid.hex(), serial=f"{certificate.serial:x}")
        self._metrics.enrolments.labels("renewed").inc()
        return self._admit(device, admission, certificate)

    async def revoke(self, device: DeviceId, *, by: str, reason: str, scope: Scope = EVERYTHING) -> Revoked:
        """Refuse all that the device could prove itself with so far, and end its session at the embedded broker.

        Doing it again does the broker's part again.

        Raises:
            NotFoundError: no such device, or none within ``scope``.
            InvalidInputError: a reason that is too long, or none.
            BrokerUnavailableError: the database has it; the broker does not answer. Do it again.
        """
        if not reason.strip() or len(reason) > _REASON_MOST or not reason.isprintable():
            raise InvalidInputError(f"A reason is 1 to {_REASON_MOST} printable characters.", pointer="/reason")
        record = await self._repository.revoke(device, actor=by, reason=reason, now=self._now(), scope=scope)
        self._crl = None
        self._fleet.shut_out(device, record.at)
        if not record.again:
            log.warning("device_revoked", device=device, by=by, reason=reason, certificates=record.certificates)
            self._metrics.enrolments.labels("revoked").inc()
        if self._issuer is not None:
            await self._issuer.revoke({device: record.at})
        return Revoked(record.at, at_broker=self._issuer is not None)

    async def repeat_revocations(self) -> None:
        """Tell the broker what the database knows: the server may have died between the two."""
        if self._issuer is not None:
            await self._issuer.revoke(await self._repository.revoked_since(self._now() - CREDENTIAL_LIFE))

    async def certificate_authority(self) -> bytes:
        """Return the device CA's certificate in PEM."""
        return (await self._ca.open()).certificate_pem

    async def revocation_list(self) -> bytes:
        """Return the signed list of revoked certificates in PEM (RFC 5280 section 5)."""
        now = self._clock()
        if self._crl is not None and 0 <= now - self._crl[0] < CRL_FRESH_S:
            return self._crl[1]
        ca = await self._ca.open()
        # One that expires stays for a list or two, so that no list in use ever lacks it too early.
        revoked = await self._repository.revoked_certificates(expiring_after=self._now() - CRL_LIFE)
        entries = [(int.from_bytes(serial, "big"), at) for serial, at in revoked]
        self._crl = now, ca.revocation_list(entries, now=self._now())
        return self._crl[1]

    async def _check_claim(self, device: DeviceId, token: str, secret: bytes, now: datetime) -> None:
        """Say to whoever holds the token why it is not good, and to others nothing."""
        claim = await self._repository.get_claim(secret) if _CLAIM.match(token) else None
        if claim is None or claim.device_id != device:
            raise self._refused(device, "This claim token is not known.")
        if claim.used_at is not None:
            raise self._refused(
                device,
                f"This claim token was used at {claim.used_at:%Y-%m-%d %H:%M} UTC. If this device has the key it"
                " enrolled with, it can renew; if it was somebody else, revoke the device.",
            )
        if claim.withdrawn_at is not None:
            raise self._refused(device, "This claim token was withdrawn.")
        if claim.expires_at <= now:
            raise self._refused(device, "This claim token has expired.")

    async def _certify(
        self, device: DeviceId, public: PublicKey, now: datetime
    ) -> tuple[IssuedCertificate, NewCertificate]:
        ca = await self._ca.open()
        issued = ca.issue(device, public, now=now)
        serial = issued.serial.to_bytes((issued.serial.bit_length() + 7) // 8, "big")
        return issued, NewCertificate(serial, device, public, issued_at=now, expires_at=issued.expires)

    def _admit(self, device: DeviceId, admission: Admission, certificate: IssuedCertificate) -> Enrolled:
        self._fleet.admit(device, admission.at)
        return Enrolled(
            device=device,
            region=admission.region,
            cohort=admission.cohort,
            certificate=certificate,
            renew=renewal_time(certificate.issued, certificate.expires),
            credential=None if self._issuer is None else self._issuer.issue(device, issued=admission.at),
            root=self._authority.root_bytes,
        )

    def _refused(self, device: DeviceId, why: str) -> AuthenticationError:
        log.warning("enrolment_refused", device=device, why=why)
        self._metrics.enrolments.labels("refused").inc()
        return AuthenticationError(why)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
