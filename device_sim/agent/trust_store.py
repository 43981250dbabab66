"""What a device goes by: its root, walked to from the pinned one, and the newest status document it has seen.

Both live in the agent's state, so that whatever follows from a new one happens after it has been saved. A document
that does not hold is not kept, over a restart least of all. Retained roots arrive in any order: those further ahead
wait in memory, unverified, until the one before them has come.
"""

import hashlib
from functools import lru_cache
from typing import Final

from device_sim.agent.journal import Journal
from device_sim.agent.trust import Trust
from firmware_store.documents import MAX_DOCUMENT_BYTES
from firmware_store.errors import ReplayError, SignatureError, TidegateError, TooLargeError
from firmware_store.root import Root, open_root
from firmware_store.root_walk import verify_successor
from firmware_store.status import Status, open_status, read_status
from server.protocol.orders import StatusRef

AHEAD_MOST: Final = 16
"""Roots that wait for the ones before them; of more, those furthest ahead are asked for again later."""


class TrustStore:
    """``trust`` is a new value whenever anything about it has changed."""

    def __init__(self, journal: Journal, pinned: Root) -> None:
        self._journal = journal
        self._ahead: dict[int, bytes] = {}
        self._early = b""  # a status that does not hold yet: the root that makes it hold may be on its way
        self._newest = _kept_status(journal.state.status)
        self.trust = self._under(_kept_root(journal.state.root, pinned))

    @property
    def is_status_missing(self) -> bool:
        """There has been a status, and none holds now: its key or its epoch is over, and the next has not come."""
        return self._newest is not None and self.trust.status is None

    def take_root(self, version: int, data: bytes) -> None:
        """Take a document from the topic of a root's ``version``, and follow as far as those at hand lead.

        Raises:
            TooLargeError: more than a document may have.
            TidegateError: see ``verify_successor``; that one is dropped, and the steps before it have been taken.
        """
        if version <= self.trust.root.version:
            return  # every session brings them all
        if len(data) > MAX_DOCUMENT_BYTES:
            raise TooLargeError(f"a root has at most {MAX_DOCUMENT_BYTES} bytes", limit_bytes=MAX_DOCUMENT_BYTES)
        self._ahead[version] = data
        for too_far in sorted(self._ahead)[AHEAD_MOST:]:
            del self._ahead[too_far]
        while (step := self._ahead.pop(self.trust.root.version + 1, None)) is not None:
            root = verify_successor(self.trust.root, step)
            self._journal.update(root=step)
            self.trust = self._under(root)
            self._retry_early_status()

    def take_status(self, data: bytes) -> None:
        """Take a status document; an older one, or another one under a version that was seen, changes nothing.

        Raises:
            TidegateError: see ``open_status``.
        """
        try:
            status = open_status(self.trust.root, data, newest=self._newest)
        except (SignatureError, ReplayError):
            self._early = data[:MAX_DOCUMENT_BYTES]
            raise
        if data == self._journal.state.status:
            return
        if status == self._newest and self.trust.status is not None:
            self._journal.remember(status=data)  # signed anew, and says nothing new: not worth the flash
            return
        self._journal.update(status=data)
        self._newest = status
        self.trust = Trust(self.trust.root, status)

    def has_status(self, named: StatusRef) -> bool:
        """Tell whether the status that holds is the one ``named``, or a newer one."""
        status = self.trust.status
        if status is None or status.version < named.version:
            return False
        return status.version > named.version or _digest(self._journal.state.status) == named.digest

    def _under(self, root: Root) -> Trust:
        """Whether the status that was kept still holds under ``root``; if not, it only says what came before."""
        if self._newest is None:
            return Trust(root)
        try:
            return Trust(root, open_status(root, self._journal.state.status))
        except TidegateError:
            return Trust(root)

    def _retry_early_status(self) -> None:
        early, self._early = self._early, b""
        if early:
            try:
                self.take_status(early)
            except TidegateError:
                return  # noted when it came


@lru_cache(maxsize=4)
def _digest(document: bytes) -> bytes:
    return hashlib.sha256(document).digest()


def _kept_root(data: bytes, pinned: Root) -> Root:
    """The root that was walked to, unless the factory has pinned a newer one since."""
    if not data:
        return pinned
    try:
        root = open_root(data, now=None)
    except TidegateError:
        return pinned  # a damaged file: the way is walked again
    is_ours = root.fleet == pinned.fleet and root.dev == pinned.dev
    return root if is_ours and root.version > pinned.version else pinned


def _kept_status(data: bytes) -> Status | None:
    try:
        return read_status(data) if data else None
    except TidegateError:
        return None
