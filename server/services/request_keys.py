"""``Idempotency-Key``: a request that is sent again, because nobody knows whether the first one arrived, is done once.

The key is stored in the transaction of the first change that the request makes (``server.db.audit.write`` is where
every change passes), and its answer afterwards. So a key is there if and only if the change is; what may be missing,
after a crash between the two, is the answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from firmware_store.errors import ConflictError, KeyReusedError
from server.db.request_keys import SERVED, KeptAnswer, NamedRequest, RequestKeyRepository

SHOWN_ONCE: Final = "This was done before, and its answer, which held a secret, is shown once: make another."
UNKNOWN: Final = "This was done before, but its answer is not known any more: look at what there is."


class RequestKeys:
    """Serves each request that has a key once."""

    def __init__(self, repository: RequestKeyRepository) -> None:
        self._repository = repository
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def once(
        self, request: NamedRequest, serve: Callable[[], Awaitable[KeptAnswer]], *, is_secret: bool
    ) -> tuple[KeptAnswer, bool]:
        """Return what ``serve`` answers, or what it has answered to this request before; and whether it was before.

        What it refuses is not kept: sent again, the request is looked at anew. A secret is not kept either.

        Raises:
            KeyReusedError: the key was another request's.
            ConflictError: it was done before, and the answer is not there.
        """
        name = (request.caller, request.key)
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:  # a twin waits for the answer, which it is then given
            found = await self._repository.find(request)
            if found is not None:
                return _known(request, *found), True
            mark = SERVED.set(request)
            try:
                answer = await serve()
            finally:
                SERVED.reset(mark)
                request.is_open = False  # for whatever this request has begun and that goes on after it
            kept = KeptAnswer(answer.status, None, None) if is_secret else answer
            await self._repository.keep(request, kept)
            return answer, False


def _known(request: NamedRequest, fingerprint: bytes, answer: KeptAnswer) -> KeptAnswer:
    if fingerprint != request.fingerprint:
        raise KeyReusedError("This Idempotency-Key was another request's: use a new one for each.")
    if answer.body is None:
        raise ConflictError(UNKNOWN if answer.status is None else SHOWN_ONCE)
    return answer
