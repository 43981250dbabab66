"""Roots and status documents: which ones hold, and what follows when another one comes.

A document is believed for its signatures alone, whoever brings it: a person by REST, or the broker, which may retain
one that a restored database no longer knows. It takes effect in one transaction, with the campaigns it halts and the
directives it makes void; then devices are told.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog

from firmware_store.documents import Kind
from firmware_store.errors import (
    BrokerUnavailableError,
    CodecError,
    ConflictError,
    NotFoundError,
    SignerUnavailableError,
    StoreUnavailableError,
    TidegateError,
    TooLargeError,
    TrustError,
)
from server.db.bundles import BundleRecord
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.trust import Change, DocumentRecord, EventRecord, Halting, TrustRepository
from server.domain.campaign import TRANSITIONS, Event, State
from server.protocol.orders import Action, Directive
from server.protocol.topics import Topics
from server.services.authority import Authority, Mandate
from server.services.changes import TRUST_ACTOR, Changes
from server.services.directives import Directives, envelope_of
from server.services.transitions import halted
from server.services.wire import Retained, Wire

log = structlog.get_logger(__name__)

BROKER_ACTOR: Final = "broker"
"""Who brought a document that the broker retained and the database did not know."""

STRANGERS_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a document has changed: nothing, if it was known; else the campaigns it has halted."""

    is_new: bool
    halted: tuple[CampaignRecord, ...] = ()


class TrustDocuments:
    """Takes documents in, and sees to it that the broker retains them."""

    def __init__(
        self,
        *,
        repository: TrustRepository,
        roots: Mapping[int, bytes],
        authority: Authority,
        changes: Changes,
        directives: Directives,
        wire: Wire,
        topics: Topics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._roots = dict(roots)
        self._authority = authority
        self._changes = changes
        self._directives = directives
        self._wire = wire
        self._topics = topics
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._waiting: dict[str, bytes] = {}
        self._strangers: set[bytes] = set()

    def root(self, version: int) -> bytes:
        """Return a root document. Raises: NotFoundError."""
        if version not in self._roots:
            raise NotFoundError(f"There is no root {version} here.")
        return self._roots[version]

    def roots(self) -> Mapping[int, bytes]:
        """Return all root documents, by their version."""
        return self._roots

    def status(self) -> bytes:
        """Return the status document that was accepted last. Raises: NotFoundError."""
        document = self._authority.trust.document
        if document is None:
            raise NotFoundError("No status document has been published yet.")
        return document.body

    async def events(self, limit: int, *, before: int | None = None) -> list[EventRecord]:
        """Return what became of the documents that came, newest first, of those with numbers below ``before``."""
        return await self._repository.events(limit, before=before)

    # --- taking in ---

    async def accept_root(self, data: bytes, *, actor: str) -> Accepted:
        """Take in the root that follows; what was signed by keys that no longer count is signed anew.

        Raises:
            TrustError, CodecError: it does not follow the present one; nothing has changed.
            ConflictError: the server has no key that this root names; the text says what to do.
        """
        async with self._one_at_a_time, self._noting(Kind.ROOT, actor):
            trust = self._authority.trust
            if data == trust.root_body:
                return Accepted(is_new=False)
            following = trust.next_root(data)
            mandate = await self._authority.under_with_keys(following)
            record = DocumentRecord(Kind.ROOT, 0, following.root.version, data, self._now(), actor)
            return await self._take_effect(record, mandate)

    async def accept_status(self, data: bytes, *, actor: str) -> Accepted:
        """Take in a newer status, and halt what it takes back.

        Raises:
            TrustError, CodecError: not signed by the status role, expired, or not newer; nothing has changed.
        """
        async with self._one_at_a_time, self._noting(Kind.STATUS, actor):
            trust = self._authority.trust
            following = trust.next_status(data, now=int(self._clock()))
            if following is trust:
                return Accepted(is_new=False)
            mandate = self._authority.under(following)
            assert following.status is not None
            record = DocumentRecord(
                Kind.STATUS, following.status.epoch, following.status.version, data, self._now(), actor
            )
            return await self._take_effect(record, mandate)

    async def _take_effect(self, record: DocumentRecord, mandate: Mandate) -> Accepted:
        name = f"{record.kind} {record.version}"
        now = self._clock()
        status = mandate.trust.status
        change = Change(
            document=record,
            event=EventRecord(record.accepted_at, record.accepted_by, record.kind, True, f"{name} was accepted"),
            judge=partial(self._judge, mandate=mandate, name=name, now=now),
            decide=partial(self._once_more, mandate=mandate, now=now),
            sign=self._authority.signing_under(mandate),
            floor=self._directives.floor_of(mandate.epoch),
            revoked=frozenset() if status is None else status.revoked_digests,
        )
        stopped = await self._store(change)
        self._authority.adopt(mandate)
        if record.kind is Kind.ROOT:
            self._roots[record.version] = record.body
            self._waiting[self._topics.trust_root(record.version)] = record.body
        else:
            self._waiting[self._topics.trust_status] = record.body
        log.info("trust_changed", document=name, actor=record.accepted_by, halted=len(stopped))
        if not (mandate.directive and mandate.session):
            log.error("keys_revoked", document=name, remedy="publish a root that names a key of this server")
        await self._directives.flush()
        for campaign, decision in stopped:
            self._changes.announce(campaign, decision)
        return Accepted(is_new=True, halted=tuple(campaign for campaign, _ in stopped))

    async def _store(self, change: Change) -> list[tuple[CampaignRecord, DecisionRecord]]:
        """Whether a commit that broke off took effect is not known: what is there is there.

        A status takes effect though nobody signs at the moment: it forbids by itself, and what is owed is signed later.
        """
        try:
            return await self._repository.accept(change)
        except SignerUnavailableError as exc:
            if change.document.kind is not Kind.STATUS:
                raise
            log.warning("halt_not_signed_yet", document="status", reason=str(exc))
            self._directives.owe()
            return await self._repository.accept(replace(change, sign=None))
        except (StoreUnavailableError, ConflictError):
            if not await self._repository.holds(change.document):
                raise
            return []

    async def _judge(
        self, campaign: CampaignRecord, bundle: BundleRecord, *, mandate: Mandate, name: str, now: float
    ) -> Halting | None:
        if Event.HALT not in TRANSITIONS[campaign.state]:
            return None
        try:
            await self._authority.check_release(
                envelope_of(bundle), bundle.manifest_digest, bundle.sequence_number, trust=mandate.trust
            )
        except SignerUnavailableError as exc:
            log.warning("release_not_judged", campaign=campaign.id.hex, reason=str(exc))
            return None
        except (TrustError, CodecError) as exc:
            return self._halting(campaign, bundle, f"Halted, since with {name}: {exc}.", mandate=mandate, now=now)
        return None

    def _halting(
        self, campaign: CampaignRecord, bundle: BundleRecord, sentence: str, *, mandate: Mandate, now: float
    ) -> Halting:
        at = datetime.fromtimestamp(now, UTC)
        orders = [
            self._directives.order(campaign, bundle, region, Action.HALT, now=now, mandate=mandate)
            for region in (campaign.regions if mandate.directive else ())
        ]
        decision = DecisionRecord(
            at, Event.HALT.value, TRUST_ACTOR, sentence, {"release": bundle.manifest_digest.hex()}
        )
        return Halting(replace(halted(campaign, now=at), sentence=sentence), decision, orders)

    async def _once_more(self, body: bytes, state: State | None, *, mandate: Mandate, now: float) -> Directive | None:
        """Replace what devices will no longer take."""
        try:
            mandate.read_directive(body)
        except (TrustError, CodecError):
            return await self._directives.once_more(body, state, now=now, mandate=mandate)
        return None

    @asynccontextmanager
    async def _noting(self, document: Kind, actor: str) -> AsyncIterator[None]:
        """Leave a row of what is refused; that it was refused does not depend on the row."""
        try:
            yield
        except (TrustError, CodecError, TooLargeError, ConflictError) as exc:
            log.warning("trust_refused", document=document.value, actor=actor, reason=str(exc))
            try:
                await self._repository.note(EventRecord(self._now(), actor, document, False, str(exc)))
            except StoreUnavailableError as lost:
                log.warning("trust_event_lost", reason=str(lost))
            raise

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    # --- giving out ---

    async def flush(self) -> None:
        """Publish what the broker has not acknowledged yet; what fails stays for the next call."""
        for topic, body in list(self._waiting.items()):
            try:
                await self._wire.publish_retained(topic, body)
            except BrokerUnavailableError as exc:
                log.warning("trust_not_published", topic=topic, reason=str(exc))
                return
            if self._waiting.get(topic) == body:
                del self._waiting[topic]

    async def repair(self, retained: Retained) -> None:
        """Learn what the broker knows and we do not, then publish whatever it does not retain as it should.

        The oldest root is not published: nobody can trust a root by itself, and it leads nowhere from an older one.
        """
        await self._learn(retained)
        oldest = min(self._roots)
        for version, body in self._roots.items():
            if version > oldest and retained.roots.get(version) != body:
                self._waiting[self._topics.trust_root(version)] = body
        current = self._authority.trust.current
        if current is not None and retained.status != current.body:
            self._waiting[self._topics.trust_status] = current.body
        await self.flush()

    async def _learn(self, retained: Retained) -> None:
        """A restored database may be behind its own broker. What comes from there is believed for its signatures."""
        while body := retained.roots.get(self._authority.root.version + 1):
            if not await self._take(Kind.ROOT, body):
                break
        for version in sorted(retained.roots.keys() - self._roots.keys()):
            self._warn_of(Kind.ROOT, retained.roots[version], f"no root {version} is known here")
        if retained.status and retained.status != self._body_of_status():
            await self._take(Kind.STATUS, retained.status)

    def _body_of_status(self) -> bytes | None:
        document = self._authority.trust.document
        return None if document is None else document.body

    async def _take(self, kind: Kind, body: bytes) -> bool:
        if body in self._strangers:
            return False
        trust = self._authority.trust
        try:
            if kind is Kind.ROOT:
                trust.next_root(body)
                return (await self.accept_root(body, actor=BROKER_ACTOR)).is_new
            if trust.next_status(body, now=int(self._clock())) is trust:
                return False
            return (await self.accept_status(body, actor=BROKER_ACTOR)).is_new
        except (TrustError, CodecError, ConflictError) as exc:
            self._warn_of(kind, body, str(exc))
        except TidegateError as exc:
            log.warning("retained_document_not_taken", document=kind.value, reason=str(exc))
        return False

    def _warn_of(self, kind: Kind, body: bytes, reason: str) -> None:
        """Say once that the broker retains something foreign."""
        if body not in self._strangers:
            if len(self._strangers) >= STRANGERS_REMEMBERED:
                self._strangers.clear()
            self._strangers.add(body)
            log.warning("foreign_document_retained", document=kind.value, reason=reason)
