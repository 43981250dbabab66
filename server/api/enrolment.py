"""Claims, enrolment, renewal and revocation. Devices come here without an API token: ``docs/enrolment.md``."""

from base64 import b64decode, b64encode
from datetime import datetime, timedelta
from typing import Final

from aiohttp import web
from pydantic import BaseModel, Field

from firmware_store.errors import InvalidInputError
from server.api.devices import Credential, named_device, view_credential
from server.api.parameters import PATH, PRINTABLE, DeviceName
from server.api.routing import Call, Empty, Example, Media, Model, bearer, route
from server.domain.enrolment import CLAIM_LIFE, CLAIM_LIFE_MOST
from server.protocol.renewal import NONCE_BYTES
from server.services.enrolment import Enrolled
from server.services.nonces import NONCE_LIFE_S
from server.services.tokens import Right

BODY_MOST_BYTES: Final = 16_384

PEM: Final = "application/x-pem-file"

EXAMPLE_REQUEST: Final = {
    "device": PATH["device"].example,
    "csr": "MH8wMwIBADAAMCowBQYDK2VwAyEAhMljs1o73o5vAaDkyQWppbNsPXDC9wYdnKdI2LXmUvagADAFBgMrZXAD"
    "QQCO8JtyFFzVxsGkTH+BKDhKFA40Hv4LdVO00iw/Kwx7h5Ex8KLxWFN1aNW7OQTCwvgb8pX4UNAAIKjA4MHbBjwG",
}
PROVEN: Final = {"nonce": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "proof": "0oRDoQEmoED2WEA="}


class ClaimCreate(Model):
    """How long there is to use it."""

    valid_seconds: int = Field(int(CLAIM_LIFE.total_seconds()), ge=60, le=int(CLAIM_LIFE_MOST.total_seconds()))


class ClaimCreated(BaseModel):
    """``claim`` is shown this once."""

    device: str
    claim: str
    expires_at: datetime


class Enrol(Model):
    """``csr``: PKCS#10 in PEM, or its DER in base64. Its subject and extensions are not looked at."""

    device: DeviceName
    csr: str = Field(min_length=1, max_length=8192)


class Renew(Enrol):
    """``nonce``: as it was given out. ``proof``: a COSE_Sign1 by a key that the device is known by, in base64."""

    nonce: str = Field(min_length=1, max_length=64)
    proof: str = Field(min_length=1, max_length=1024)


class Nonce(BaseModel):
    """In base64; good for one renewal, for so many seconds."""

    nonce: str
    valid_seconds: int


class Identity(BaseModel):
    """``certificate``: the device's and the CA's, in PEM. ``broker`` is null where the broker is not the embedded one.

    ``root`` is the trust root in base64, for a device that has none from the factory.
    """

    device: str
    region: str
    cohort: str
    certificate: str
    serial: str
    issued_at: datetime
    renew_at: datetime
    expires_at: datetime
    broker: Credential | None
    root: str


class Revoke(Model):
    """Why; it is kept."""

    reason: str = Field(min_length=1, max_length=200, pattern=PRINTABLE)


class Revocation(BaseModel):
    """``session_ended``: false where the broker learns of it from the revocation list (``/v1/enrol/crl``)."""

    device: str
    revoked_at: datetime
    session_ended: bool


@route(
    "POST",
    "/v1/devices/{device}/claim",
    right=Right.OPERATE,
    body=ClaimCreate,
    status=201,
    problems=(409,),
    secret=True,
)
async def make_claim(call: Call[ClaimCreate]) -> ClaimCreated:
    """Make a claim, with which a device enrols once."""
    device = named_device(call)
    valid = timedelta(seconds=call.body.valid_seconds)
    claim = await call.context.enrolment.make_claim(device, valid=valid, by=call.caller.name)
    return ClaimCreated(device=device, claim=claim.token, expires_at=claim.expires)


@route(
    "POST",
    "/v1/devices/{device}/revoke",
    right=Right.OPERATE,
    body=Revoke,
    example=Example(body={"reason": "stolen from the van"}),
)
async def revoke_device(call: Call[Revoke]) -> Revocation:
    """Let a device in no more; its sessions end."""
    device = named_device(call)
    revoked = await call.context.enrolment.revoke(device, by=call.caller.name, reason=call.body.reason)
    return Revocation(device=device, revoked_at=revoked.at, session_ended=revoked.at_broker)


@route(
    "POST",
    "/v1/enrol",
    right=None,
    body=Enrol,
    status=201,
    problems=(403, 409),
    example=Example(body=EXAMPLE_REQUEST),
    limited=True,
    most_bytes=BODY_MOST_BYTES,
    claimed=True,
)
async def enrol(call: Call[Enrol]) -> Identity:
    """Give a device that shows its claim a certificate, and a credential for the embedded broker."""
    token = bearer(call.request, "tgc_<secret>")
    device = call.body.device
    return _identity(call, await call.context.enrolment.enrol(device, token=token, csr=call.body.csr))


@route("POST", "/v1/enrol/nonce", right=None, body=Empty, limited=True, most_bytes=BODY_MOST_BYTES)
async def make_nonce(call: Call[Empty]) -> Nonce:
    """Get a nonce for a renewal."""
    nonce = call.context.enrolment.make_nonce()
    return Nonce(nonce=b64encode(nonce).decode(), valid_seconds=NONCE_LIFE_S)


@route(
    "POST",
    "/v1/enrol/renew",
    right=None,
    body=Renew,
    status=201,
    problems=(401, 403, 409),
    example=Example(body={**EXAMPLE_REQUEST, **PROVEN}),
    limited=True,
    most_bytes=BODY_MOST_BYTES,
)
async def renew_identity(call: Call[Renew]) -> Identity:
    """Give a device that proves its key a new certificate."""
    body = call.body
    nonce = _binary(body.nonce, "/nonce")
    if len(nonce) != NONCE_BYTES:
        raise InvalidInputError(f"A nonce has {NONCE_BYTES} bytes.", pointer="/nonce")
    renewed = await call.context.enrolment.renew(
        body.device, csr=body.csr, nonce=nonce, proof=_binary(body.proof, "/proof")
    )
    return _identity(call, renewed)


AUTHORITY: Final = Media(
    PEM, "the certificate of the devices' CA", shown="-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n"
)
REVOKED: Final = Media(
    PEM, "the CA's revocation list", shown="-----BEGIN X509 CRL-----\nMIHf...\n-----END X509 CRL-----\n"
)


@route("GET", "/v1/enrol/ca", right=None, limited=True, gives=AUTHORITY)
async def get_ca(call: Call[None]) -> web.StreamResponse:
    """Get the CA by which devices are known."""
    return web.Response(body=await call.context.enrolment.certificate_authority(), content_type=PEM)


@route("GET", "/v1/enrol/crl", right=None, limited=True, gives=REVOKED)
async def get_revocation_list(call: Call[None]) -> web.StreamResponse:
    """Get the devices whose certificates count no more."""
    return web.Response(body=await call.context.enrolment.revocation_list(), content_type=PEM)


def _identity(call: Call[Enrol], enrolled: Enrolled) -> Identity:
    certificate = enrolled.certificate
    return Identity(
        device=enrolled.device,
        region=enrolled.region,
        cohort=enrolled.cohort,
        certificate=certificate.chain.decode(),
        serial=f"{certificate.serial:x}",
        issued_at=certificate.issued,
        renew_at=enrolled.renew,
        expires_at=certificate.expires,
        broker=None if enrolled.credential is None else view_credential(call, enrolled.credential),
        root=b64encode(enrolled.root).decode(),
    )


def _binary(text: str, pointer: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as exc:
        raise InvalidInputError("Not base64.", pointer=pointer) from exc
