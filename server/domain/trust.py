"""What the server believes: one root, and the newest status document under it. Pure: bytes in, a new belief out.

A status that was accepted keeps forbidding for as long as no newer one has come, even where a new root no longer knows
the key that signed it: whoever takes a key away must not thereby give back what it had revoked. Such a status is no
longer named in orders, since no device could open it.
"""

import hashlib
from dataclasses import dataclass, field, replace

from firmware_store.errors import CodecError, ExpiredError, RollbackError, TrustError
from firmware_store.roles import RoleName
from firmware_store.root import Root, open_root
from firmware_store.root_walk import verify_successor
from firmware_store.status import Status, open_status, read_status
from firmware_store.suit import VerifiedEnvelope, verify_envelope


@dataclass(frozen=True, slots=True)
class StatusDocument:
    """A status that was verified when it came; ``is_current``: the root of today would let it in again."""

    status: Status
    body: bytes = field(repr=False)
    is_current: bool = True

    @property
    def digest(self) -> bytes:
        """SHA-256 of the document's bytes."""
        return hashlib.sha256(self.body).digest()


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count, and what has been taken back."""

    root: Root
    root_body: bytes = field(repr=False)
    document: StatusDocument | None = None

    @property
    def status(self) -> Status | None:
        """Return what is forbidden, whether or not orders may name the document that says so."""
        return None if self.document is None else self.document.status

    @property
    def current(self) -> StatusDocument | None:
        """Return the document that orders name and devices are shown."""
        return self.document if self.document is not None and self.document.is_current else None

    @property
    def bodies(self) -> tuple[bytes, bytes]:
        """Return the two documents' bytes, which say exactly what a release was found good under."""
        return self.root_body, b"" if self.document is None else self.document.body

    def next_root(self, data: bytes) -> "Trust":
        """Return what is believed under the root that follows.

        It may have expired already: the one after it is on its way (TUF 5.3.10), and offers wait for that.

        Raises:
            CodecError, TrustError: see ``verify_successor``.
        """
        root = verify_successor(self.root, data)
        document = self.document
        if document is not None:
            document = replace(document, is_current=_opens(root, document.body))
        return Trust(root, data, document)

    def next_status(self, data: bytes, *, now: int) -> "Trust":
        """Return what is believed under a newer status; the one that is known already changes nothing.

        Raises:
            CodecError, TrustError: see ``open_status``.
        """
        status = open_status(self.root, data, now=now, newest=self.status)
        if self.document is not None and self.document.is_current and status == self.document.status:
            return self
        return replace(self, document=StatusDocument(status, data))

    def check_time(self, now: int) -> None:
        """Whoever makes a device start something asks this first; halting never does.

        Raises:
            ExpiredError: the root or the status is no longer valid, or not yet.
        """
        self.root.check_time(now)
        if self.document is None:
            return
        if not self.document.is_current:
            raise ExpiredError("the status document is that of an earlier root: sign and publish a new one")
        self.document.status.check_time(now)

    def check_release(self, envelope: bytes) -> VerifiedEnvelope:
        """Return the release that may be offered as far as signatures, revocations and floors are concerned.

        Raises:
            CodecError, TrustError: it may not; see ``verify_envelope`` and ``Status.check``.
        """
        verified = verify_envelope(envelope, self.root, status=self.status)
        manifest = verified.manifest
        if self.status is not None:
            self.status.check(manifest, verified.kids, threshold=self.root.roles[RoleName.RELEASE].threshold)
        for target in manifest.class_ids:
            floor = self.root.floors.get(target, 0)
            if manifest.sequence_number < floor:
                raise RollbackError(f"release {manifest.sequence_number} is below the root's floor, which is {floor}")
        return verified


def begin(root_body: bytes) -> Trust:
    """Return the trust in a root whose bytes are pinned; expiry is not looked at, see ``Trust.check_time``.

    Raises:
        CodecError, TrustError: see ``open_root``.
    """
    return Trust(open_root(root_body, now=None), root_body)


def recall_status(trust: Trust, earlier: tuple[Root, ...], body: bytes) -> Trust:
    """Return ``trust`` with a status that was accepted before, under it or one of the ``earlier`` roots.

    Raises:
        CodecError, TrustError: none of them has signed for it: it was never accepted here.
    """
    if _opens(trust.root, body):
        return replace(trust, document=StatusDocument(read_status(body), body))
    if any(_opens(root, body) for root in earlier):
        return replace(trust, document=StatusDocument(read_status(body), body, is_current=False))
    raise TrustError("a stored status that no root of this fleet has a key for")


def _opens(root: Root, body: bytes) -> bool:
    try:
        open_status(root, body)
    except (CodecError, TrustError):
        return False
    return True
