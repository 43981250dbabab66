"""What is believed after a start: the root that the server was given, and what was accepted since, verified anew."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from firmware_store.documents import Kind
from firmware_store.errors import CodecError, ConfigurationError, ExpiredError, TrustError
from firmware_store.roles import RoleName
from firmware_store.root import ROOT_FILE, Root
from server.db.trust import DocumentRecord, TrustRepository
from server.domain.trust import Trust, begin, recall_status
from server.services.authority import Authority, Envelopes
from server.services.keyring import Keyring

log = structlog.get_logger(__name__)

PINNED_ACTOR: Final = "keys directory"


@dataclass(frozen=True, slots=True)
class Grounds:
    """What the server was given: its keys, and the root that everything begins with."""

    keyring: Keyring
    pinned: bytes


def read_grounds(
    folder: Path, *, directive: str | None = None, session: str | None = None, passphrase: bytes | None = None
) -> Grounds:
    """Read the root document and the online keys; ``directive`` and ``session`` are signers for ``Keyring.open``.

    Raises:
        ConfigurationError: one is missing or unreadable.
    """
    path = folder / ROOT_FILE
    if not path.exists():
        raise ConfigurationError(
            f"There is no trust root at {path}; make one for development with `tidegate keys init --dev {folder}`."
        )
    keyring = Keyring.open(folder, directive=directive, session=session, passphrase=passphrase)
    return Grounds(keyring, path.read_bytes())


async def open_authority(
    grounds: Grounds, repository: TrustRepository, envelopes: Envelopes, *, now: int, production: bool
) -> tuple[Authority, Mapping[int, bytes]]:
    """Return who signs, and all known roots.

    A root that has expired does not keep a server from starting: halts are obeyed whatever has expired, and the next
    root must come in somewhere.

    Raises:
        ConfigurationError: see ``recall``; or no key of the server's is one that the root names.
    """
    trust, roots = await recall(repository, grounds.pinned, production=production)
    authority = Authority(grounds.keyring, trust, envelopes)
    unrevoked = authority.under(Trust(trust.root, trust.root_body))
    for role, pen in ((RoleName.DIRECTIVE, unrevoked.directive), (RoleName.SESSION, unrevoked.session)):
        if not pen:
            raise ConfigurationError(
                f"The {role} key is not one that root {trust.root.version} names for this role: "
                f"{grounds.keyring.where(role)}."
            )
    if not (authority.mandate.directive and authority.mandate.session):
        log.error("keys_revoked", remedy="publish a root that names a key of this server")
    try:
        trust.check_time(now)
    except ExpiredError as exc:
        log.warning("nothing_may_be_offered", reason=str(exc))
    return authority, roots


async def recall(repository: TrustRepository, pinned: bytes, *, production: bool) -> tuple[Trust, Mapping[int, bytes]]:
    """Return what is believed after a start, and all known roots: the pinned one, and the walk from it.

    The database is not believed: every step is verified again.

    Raises:
        ConfigurationError: the pinned root is not to be used, or the stored ones do not follow from it.
        StoreUnavailableError: no answer.
    """
    first = _begin(pinned).root
    if production and first.dev:
        raise ConfigurationError("The trust root is marked for development; production needs keys of its own.")
    await repository.pin(DocumentRecord(Kind.ROOT, 0, first.version, pinned, datetime.now(UTC), PINNED_ACTOR))
    trust, roots, earlier = walk(pinned, await repository.roots())
    status = await repository.status()
    if status is not None:
        try:
            trust = recall_status(trust, earlier, status.body)
        except (TrustError, CodecError) as exc:
            log.warning("stored_status_not_ours", version=status.version, reason=str(exc))
    return trust, roots


def walk(pinned: bytes, stored: Iterable[DocumentRecord]) -> tuple[Trust, Mapping[int, bytes], tuple[Root, ...]]:
    """Return what is believed after the stored roots, all known roots, and those before the last of them.

    Raises:
        ConfigurationError: the pinned root is not to be used, or the stored ones do not follow from it.
    """
    trust = _begin(pinned)
    first = trust.root.version
    roots, earlier = {first: pinned}, []
    for record in stored:
        if record.version < first:
            continue
        if record.version == first and record.body != pinned:
            raise ConfigurationError(
                f"The database knows another root {first} than the keys directory: one is not ours."
            )
        if record.version > first:
            earlier.append(trust.root)
            trust = _step(trust, record)
            roots[record.version] = record.body
    return trust, roots, tuple(earlier)


def _begin(pinned: bytes) -> Trust:
    try:
        return begin(pinned)
    except (TrustError, CodecError) as exc:
        raise ConfigurationError(f"The trust root in the keys directory is not to be used: {exc}.") from exc


def _step(trust: Trust, record: DocumentRecord) -> Trust:
    try:
        return trust.next_root(record.body)
    except (TrustError, CodecError) as exc:
        raise ConfigurationError(
            f"Root {record.version} in the database does not follow root {trust.root.version}: {exc}. "
            "Restore the database, or delete that row of trust_root and publish the right document."
        ) from exc
