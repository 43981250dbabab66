"""Claims, keys, certificates and revocations of devices.

Whatever changes what a device may prove itself with takes the device's row first, so that an enrolment, a renewal and
a revocation of one device happen one after the other. Times of admission and revocation are whole seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from firmware_store.codec import decode, encode
from firmware_store.errors import AuthenticationError, ConflictError, RateLimitedError
from firmware_store.keys import Kid, PublicKey
from server.db import audit, outbox
from server.db.audit import Entry
from server.db.database import Connection, Database
from server.db.devices import check_place, whole_second
from server.db.filters import IS_REVOKED
from server.domain.events import Event, EventType
from server.domain.identity import Cohort, DeviceId, Region
from server.domain.scope import EVERYTHING, Scope

RENEWALS_MOST: Final = 10
RENEWALS_WINDOW: Final = timedelta(days=1)
"""A device renews every two months; one that cannot keep its certificate must not fill the table."""


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """One claim; ``secret`` is SHA-256 of the token."""

    secret: bytes
    device_id: DeviceId
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    withdrawn_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewCertificate:
    """A certificate as it is recorded; ``serial`` in as many bytes as it needs."""

    serial: bytes
    device_id: DeviceId
    public: PublicKey
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Admission:
    """A device that may come in. A broker credential that says ``at`` is newer than every revocation."""

    region: Region
    cohort: Cohort
    at: datetime


@dataclass(frozen=True, slots=True)
class RevocationRecord:
    """``again``: the device was revoked already, and nothing has changed."""

    at: datetime
    certificates: int
    again: bool


LOCK_DEVICE: Final = f"""
    SELECT region, cohort, admitted_at, revoked_at, {IS_REVOKED} AS is_revoked FROM device WHERE id = $1 FOR UPDATE
"""

WITHDRAW_CLAIMS: Final = """
    UPDATE device_claim SET withdrawn_at = $2 WHERE device_id = $1 AND used_at IS NULL AND withdrawn_at IS NULL
"""

ADD_CLAIM: Final = """
    INSERT INTO device_claim (secret, device_id, created_by, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
"""

GET_CLAIM: Final = """
    SELECT secret, device_id, created_by, created_at, expires_at, used_at, withdrawn_at
      FROM device_claim WHERE secret = $1
"""

USE_CLAIM: Final = """
    UPDATE device_claim SET used_at = $3
     WHERE secret = $1 AND device_id = $2 AND used_at IS NULL AND withdrawn_at IS NULL AND expires_at > $3
    RETURNING secret
"""

BIND_KEY: Final = """
    INSERT INTO device_key (kid, device_id, cose_key, created_at) VALUES ($1, $2, $3, $4)
    ON CONFLICT (kid) DO UPDATE SET device_id = excluded.device_id
     WHERE device_key.device_id = excluded.device_id AND device_key.revoked_at IS NULL
    RETURNING kid
"""

ADD_CERTIFICATE: Final = """
    INSERT INTO device_certificate (serial, device_id, kid, issued_at, expires_at) VALUES ($1, $2, $3, $4, $5)
"""

ADMIT: Final = """
    UPDATE device SET admitted_at = greatest($2, admitted_at, revoked_at + interval '1 second')
     WHERE id = $1 RETURNING admitted_at
"""

VALID_KEYS: Final = """
    SELECT DISTINCT device_key.kid, cose_key
      FROM device_key JOIN device_certificate USING (kid, device_id)
     WHERE device_id = $1 AND device_key.revoked_at IS NULL
       AND device_certificate.revoked_at IS NULL AND expires_at > $2
"""

COUNT_CERTIFICATES: Final = "SELECT count(*) FROM device_certificate WHERE device_id = $1 AND issued_at > $2"

REVOKE: Final = "UPDATE device SET revoked_at = $2 WHERE id = $1"

REVOKE_KEYS: Final = "UPDATE device_key SET revoked_at = $2 WHERE device_id = $1 AND revoked_at IS NULL"

REVOKE_CERTIFICATES: Final = """
    UPDATE device_certificate SET revoked_at = $2 WHERE device_id = $1 AND revoked_at IS NULL RETURNING serial
"""

ADD_REVOCATION: Final = "INSERT INTO device_revocation (device_id, revoked_at, actor, reason) VALUES ($1, $2, $3, $4)"

REVOKED_SINCE: Final = "SELECT id, revoked_at FROM device WHERE revoked_at > $1"

REVOKED_CERTIFICATES: Final = """
    SELECT serial, revoked_at FROM device_certificate WHERE revoked_at IS NOT NULL AND expires_at > $1 ORDER BY serial
"""


class EnrolmentRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_claim(self, claim: ClaimRecord, *, scope: Scope = EVERYTHING) -> None:
        """Add a claim; those of the same device that are still open are withdrawn. Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            await _lock(connection, claim.device_id, scope)
            await connection.execute(WITHDRAW_CLAIMS, claim.device_id, claim.created_at)
            await connection.execute(
                ADD_CLAIM, claim.secret, claim.device_id, claim.created_by, claim.created_at, claim.expires_at
            )
            after = {"expires": claim.expires_at.isoformat()}
            entry = Entry("device.claim", claim.device_id, claim.created_at, who=claim.created_by, after=after)
            await audit.write(connection, entry)

    async def get_claim(self, secret: bytes) -> ClaimRecord | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(GET_CLAIM, secret)
        return None if row is None else ClaimRecord(**dict(row))

    async def enrol(self, secret: bytes, certificate: NewCertificate) -> Admission:
        """Use up the claim and record what was issued for it: all or nothing.

        Raises:
            AuthenticationError: the claim is not open any more; of those who race, one wins.
            ConflictError: the key is another device's, or was revoked.
        """
        async with self._database.transaction() as connection:
            row = await _lock(connection, certificate.device_id)
            if not await connection.fetchval(USE_CLAIM, secret, certificate.device_id, certificate.issued_at):
                raise AuthenticationError("This claim token is not open any more.")
            admission = await _admit(connection, row, certificate)
            after = {"key": certificate.public.kid.hex(), "serial": certificate.serial.hex()}
            device, at = certificate.device_id, certificate.issued_at
            await audit.write(connection, Entry("device.enrol", device, at, who=device, after=after))
            await outbox.put(connection, _event(EventType.DEVICE_ENROLLED, device, row, at, after))
            return admission

    async def renew(self, old: Kid, certificate: NewCertificate) -> Admission:
        """Record a certificate that the holder of the key ``old`` has asked for.

        Raises:
            AuthenticationError: that key may not ask any more.
            ConflictError: the new key is another device's, or was revoked.
            RateLimitedError: too many of late.
        """
        async with self._database.transaction() as connection:
            row = await _lock(connection, certificate.device_id)
            if old not in await _valid_keys(connection, certificate.device_id, certificate.issued_at):
                raise AuthenticationError("This key is not one that the device may renew with.")
            since = certificate.issued_at - RENEWALS_WINDOW
            if await connection.fetchval(COUNT_CERTIFICATES, certificate.device_id, since) >= RENEWALS_MOST:
                raise RateLimitedError(
                    f"A device gets at most {RENEWALS_MOST} certificates a day.",
                    retry_after_s=RENEWALS_WINDOW.total_seconds() / RENEWALS_MOST,
                )
            return await _admit(connection, row, certificate)

    async def valid_keys(self, device: DeviceId, *, now: datetime) -> dict[Kid, PublicKey]:
        """Return the keys of a device that have a certificate which is good; none for an unknown device."""
        async with self._database.transaction() as connection:
            return await _valid_keys(connection, device, now)

    async def revoke(
        self, device: DeviceId, *, actor: str, reason: str, now: datetime, scope: Scope = EVERYTHING
    ) -> RevocationRecord:
        """Revoke the device, its keys and certificates, and withdraw its open claim. Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            row = await _lock(connection, device, scope)
            await connection.execute(WITHDRAW_CLAIMS, device, now)
            if row["is_revoked"]:
                return RevocationRecord(row["revoked_at"], 0, again=True)
            # a credential may say a later second than our clock: the device was revoked and let in again just now
            at = max(whole_second(now), row["admitted_at"] or whole_second(now))
            await connection.execute(REVOKE, device, at)
            await connection.execute(REVOKE_KEYS, device, at)
            serials = await connection.fetch(REVOKE_CERTIFICATES, device, at)
            await connection.execute(ADD_REVOCATION, device, at, actor, reason)
            after = {"revoked_at": at.isoformat(), "certificates": [row["serial"].hex() for row in serials]}
            await audit.write(connection, Entry("device.revoke", device, now, who=actor, after=after, reason=reason))
            told = {"who": actor, "sentence": reason}
            await outbox.put(connection, _event(EventType.DEVICE_REVOKED, device, row, now, told))
            return RevocationRecord(at, len(serials), again=False)

    async def revoked_since(self, since: datetime) -> dict[DeviceId, datetime]:
        """Return from when on each device's credentials are good, where that is after ``since``."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(REVOKED_SINCE, since)
        return {row["id"]: row["revoked_at"] for row in rows}

    async def revoked_certificates(self, *, expiring_after: datetime) -> list[tuple[bytes, datetime]]:
        """Return serial and time of each revoked certificate that expires after an instant."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(REVOKED_CERTIFICATES, expiring_after)
        return [(row["serial"], row["revoked_at"]) for row in rows]


def _event(
    kind: EventType, device: DeviceId, row: Mapping[str, Any], at: datetime, told: Mapping[str, object]
) -> Event:
    region, cohort = row["region"], row["cohort"]
    return Event(kind, device, at, {"region": region, "cohort": cohort, **told}, regions=(region,), cohort=cohort)


async def _lock(connection: Connection, device: DeviceId, scope: Scope = EVERYTHING) -> Any:
    row = await connection.fetchrow(LOCK_DEVICE, device)
    check_place(row, device, scope)
    return row


async def _valid_keys(connection: Connection, device: DeviceId, now: datetime) -> dict[Kid, PublicKey]:
    rows = await connection.fetch(VALID_KEYS, device, now)
    return {Kid(row["kid"]): PublicKey.from_cose(decode(row["cose_key"])) for row in rows}


async def _admit(connection: Connection, row: Mapping[str, Any], certificate: NewCertificate) -> Admission:
    public, device, issued = certificate.public, certificate.device_id, certificate.issued_at
    if not await connection.fetchval(BIND_KEY, public.kid, device, encode(public.to_cose()), issued):
        raise ConflictError("This key is bound to another device, or was revoked: make a new one.")
    await connection.execute(ADD_CERTIFICATE, certificate.serial, device, public.kid, issued, certificate.expires_at)
    at = await connection.fetchval(ADMIT, device, whole_second(issued))
    return Admission(row["region"], row["cohort"], at)
