"""API tokens ``tg_<id>_<secret>`` and what each role may do."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import structlog

from firmware_store.errors import AuthenticationError, ForbiddenError, InvalidInputError
from server.db.tokens import USE_NOTED_EVERY, TokenRecord, TokenRepository
from server.domain.scope import EVERYTHING, Scope

log = structlog.get_logger(__name__)

PREFIX: Final = "tg_"
NAME_MOST: Final = 64


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
    """Who is asking, by the token they showed, and what part of the fleet they may see and change.

    ``token``: its id, None where it is not one of ours. ``expires_at``: until when they are let in.
    """

    name: str
    role: Role
    scope: Scope = EVERYTHING
    token: str | None = None
    expires_at: datetime | None = None

    def require(self, right: Right) -> None:
        """Raises: ForbiddenError."""
        if right not in RIGHTS[self.role]:
            raise ForbiddenError(f"The role {self.role} may not {right}.")


class Tokens:
    """Makes and checks them; only the SHA-256 of a secret is kept (256 random bits need no slow hash)."""

    def __init__(self, repository: TokenRepository) -> None:
        self._repository = repository

    async def create(
        self,
        *,
        name: str,
        role: Role,
        valid: timedelta | None = None,
        limits: Scope = EVERYTHING,
        by: Caller | None = None,
        scope: Scope = EVERYTHING,
    ) -> tuple[str, TokenRecord]:
        """Return the token's text, which is shown once and never again, and what is kept of it.

        ``by``: who makes it, None for the server itself; ``scope``: what they may see, and the token's limits where it
        has none of its own. It ends with its maker's unless it ends before.

        Raises:
            ForbiddenError: it would have more rights, wider limits or a longer life than whoever makes it.
            InvalidInputError: nobody could read the name.
        """
        text, record = _mint(name, role, valid, limits.limited_to(scope), None if by is None else by.name)
        if by is not None:
            record = _checked(record, by, scope)
        await self._repository.add(record)
        return text, record

    async def create_first(self) -> str | None:
        """Return an admin's token if there is no token at all yet."""
        text, record = _mint("first-admin", Role.ADMIN, None, EVERYTHING, None)
        return text if await self._repository.add_first(record) else None

    async def newest(self, limit: int, *, before: str | None = None, scope: Scope = EVERYTHING) -> list[TokenRecord]:
        """Return the newest of those whose limits are within ``scope``; ``before``: those that follow this one."""
        return await self._repository.newest(limit, before=before, scope=scope)

    async def revoke(self, token_id: str, *, caller: str, scope: Scope = EVERYTHING) -> TokenRecord:
        """End a token, from the next request on.

        Raises:
            NotFoundError: there is none, or none within ``scope``.
            ConflictError: nobody could make tokens any more.
        """
        record = await self._repository.revoke(token_id, by=caller, now=datetime.now(UTC), scope=scope)
        log.info("token_revoked", token=record.id, name=record.name, actor=caller)
        return record

    async def authenticate(self, text: str) -> Caller:
        """Raises: AuthenticationError."""
        parts = text.split("_", 2)
        if len(parts) != 3 or parts[0] != "tg" or not text.isascii():
            raise AuthenticationError("Not a token: it would look like tg_<id>_<secret>.")
        record = await self._repository.get(parts[1])
        secret = hashlib.sha256(parts[2].encode()).digest()
        if record is None or not hmac.compare_digest(record.secret, secret):
            raise AuthenticationError("This token is not known.")
        now = datetime.now(UTC)
        if not record.is_good(now):
            raise AuthenticationError("This token is no longer valid.")
        if record.last_used_at is None or now - record.last_used_at >= USE_NOTED_EVERY:
            await self._repository.note_use(record.id, now)
        return Caller(record.name, Role(record.role), record.scope, record.id, record.expires_at)


def _mint(
    name: str, role: Role, valid: timedelta | None, limits: Scope, created_by: str | None
) -> tuple[str, TokenRecord]:
    if not name or len(name) > NAME_MOST or not name.isprintable():
        raise InvalidInputError(f"A token's name is 1 to {NAME_MOST} printable characters.", pointer="/name")
    token_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    record = TokenRecord(
        id=token_id,
        name=name,
        role=role.value,
        secret=hashlib.sha256(secret.encode()).digest(),
        created_at=now,
        expires_at=None if valid is None else now + valid,
        scope=limits,
        created_by=created_by,
    )
    return f"{PREFIX}{token_id}_{secret}", record


def _checked(record: TokenRecord, by: Caller, scope: Scope) -> TokenRecord:
    """Return a new token that gives nobody more than its maker has."""
    if not RIGHTS[Role(record.role)] <= RIGHTS[by.role]:
        raise ForbiddenError(f"The role {by.role} makes no token of the role {record.role}: it has more rights.")
    if not record.scope.is_within(scope):
        raise ForbiddenError(f"Your access is limited to {scope}, and so are the tokens that you make.")
    if by.expires_at is None:
        return record
    if record.expires_at is not None and record.expires_at > by.expires_at:
        raise ForbiddenError(f"Your access ends at {by.expires_at:%Y-%m-%d %H:%M} UTC, and a token's not after it.")
    return replace(record, expires_at=record.expires_at or by.expires_at)
