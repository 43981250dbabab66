"""How a gate webhook is asked over HTTP: with a time limit, a few tries, a bound on its answer, and no detours."""

from typing import Final

import aiohttp
import stamina

from server.outgoing.guard import Guard, RefusedAddressError
from server.services.gate_webhooks import UnreachableError

TRY_S: Final = 5.0
TRIES: Final = 3
WAIT_MOST_S: Final = 1.0
ANSWER_MOST_BYTES: Final = 16_384


class _BusyError(Exception):
    """It may answer soon: 429, or 500 and above."""


class HttpAsking:
    """POSTs JSON. Redirects are not followed, proxies and cookies not used: the URL is the one that was checked.

    ``try_s``: how long one try may take.
    """

    def __init__(self, guard: Guard, *, try_s: float = TRY_S) -> None:
        self._guard = guard
        self._try_s = try_s

    async def ask(self, url: str, question: bytes) -> bytes:
        """See ``Asking``; it takes at most ``TRIES`` times ``try_s``, and the waits between."""
        again = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, _BusyError)
        try:
            async for attempt in stamina.retry_context(
                on=again,
                attempts=TRIES,
                timeout=TRIES * (self._try_s + WAIT_MOST_S),
                wait_initial=0.1,
                wait_max=WAIT_MOST_S,
            ):
                with attempt:
                    return await self._once(url, question)
        except TimeoutError as exc:
            raise UnreachableError(f"it does not answer within {self._try_s:g} s.") from exc
        except aiohttp.ClientSSLError as exc:
            raise UnreachableError("its certificate is not trusted.") from exc
        except aiohttp.ClientConnectorError as exc:
            if isinstance(exc.os_error, RefusedAddressError):
                raise UnreachableError(f"it may not be reached: {exc.os_error}.") from exc
            raise UnreachableError("there is no connection to it.") from exc
        except aiohttp.ClientConnectionError as exc:
            raise UnreachableError("there is no connection to it.") from exc
        except (aiohttp.ClientError, ValueError) as exc:
            raise UnreachableError(f"it does not speak HTTP as it should ({type(exc).__name__}).") from exc
        except _BusyError as exc:
            raise UnreachableError(str(exc)) from exc
        raise AssertionError("a try either returns or raises")

    async def _once(self, url: str, question: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            self._guard.session(timeout_s=self._try_s) as session,
            session.post(url, data=question, headers=headers, allow_redirects=False) as response,
        ):
            if response.status == 429 or response.status >= 500:
                raise _BusyError(f"it answers {response.status}.")
            if response.status != 200:
                raise UnreachableError(f"it answers {response.status}.")
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > ANSWER_MOST_BYTES:
                    raise UnreachableError(f"its answer has more than {ANSWER_MOST_BYTES} bytes.")
            return bytes(body)
