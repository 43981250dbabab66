"""API tokens ``tg_<id>_<secret>`` and what each role may do."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from firmware_store.errors import AuthenticationError, ForbiddenError, InvalidInputError
from server.db.tokens import TokenRecord, TokenRepository


class Role(StrEnum):
    """Who somebody is."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    RELEASER = "releaser"
    ADMIN = "admin"


class Right(StrEnum):
    """What a route needs."""

    READ = "read"
    OPERATE = "operate"
    APPROVE = "approve"
    RELEASE = "release"
    ADMINISTER = "administer"


RIGHTS: Final = MappingProxyType(
    {
        Role.VIEWER: frozenset({Right.READ}),
        Role.OPERATOR: frozenset({Right.READ, Right.OPERATE}),
        Role.APPROVER: frozenset({Right.READ, Right.APPROVE}),
        Role.RELEASER: frozenset({Right.READ, Right.RELEASE}),
        Role.ADMIN: frozenset(Right),
    }
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, by the token they showed."""

    name: str
    role: Role

    def require(self, right: Right) -> None:
        """Raises: ForbiddenError."""
        if right not in RIGHTS[self.role]:
            raise ForbiddenError(f"The role {self.role} may not {right}.")


class Tokens:
    """Makes and checks them; only the SHA-256 of a secret is kept (256 random bits need no slow hash)."""

    def __init__(self, repository: TokenRepository) -> None:
        self._repository = repository

    async def create(self, *, name: str, role: Role, valid: timedelta | None = None) -> str:
        """Return the token's text, which is shown once and never again."""
        text, record = _mint(name, role, valid)
        await self._repository.add(record)
        return text

    async def create_first(self) -> str | None:
        """Return an admin's token if there is no token at all yet."""
        text, record = _mint("first-admin", Role.ADMIN, None)
        return text if await self._repository.add_first(record) else None

    async def authenticate(self, text: str) -> Caller:
        """Raises: AuthenticationError."""
        parts = text.split("_", 2)
        if len(parts) != 3 or parts[0] != "tg" or not text.isascii():
            raise AuthenticationError("Not a token: it would look like tg_<id>_<secret>.")
        record = await self._repository.get(parts[1])
        secret = hashlib.sha256(parts[2].encode()).digest()
        if record is None or not hmac.compare_digest(record.secret, secret):
            raise AuthenticationError("This token is not known.")
        if record.revoked_at is not None or (record.expires_at is not None and record.expires_at <= datetime.now(UTC)):
            raise AuthenticationError("This token is no longer valid.")
        return Caller(record.name, Role(record.role))


def _mint(name: str, role: Role, valid: timedelta | None) -> tuple[str, TokenRecord]:
    if not name or len(name) > 64 or not name.isprintable():
        raise InvalidInputError("A token's name is 1 to 64 printable characters.", pointer="/name")
    token_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    record = TokenRecord(
        id=token_id,
        name=name,
        role=role.value,
        secret=hashlib.sha256(secret.encode()).digest(),
        created_at=now,
        expires_at=None if valid is None else now + valid,
    )
    return f"tg_{token_id}_{secret}", record
