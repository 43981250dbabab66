"""How an event is delivered to a webhook: one POST, whose answer's status is all that is looked at."""

import time
from collections.abc import Mapping
from typing import Final

import aiohttp

from server.outgoing.guard import Guard, RefusedAddressError
from server.services.deliveries import Outcome

TRY_S: Final = 10.0
WAIT_MOST_S: Final = 3600.0


class HttpDelivery:
    """``try_s``: how long one try may take."""

    def __init__(self, guard: Guard, *, try_s: float = TRY_S) -> None:
        self._guard = guard
        self._try_s = try_s

    async def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Send it once; what goes wrong is in the outcome, and nothing of what was answered but the status."""
        began = time.monotonic()
        status: int | None = None
        why, wait_s = "", None
        try:
            async with (
                self._guard.session(timeout_s=self._try_s) as session,
                session.post(url, data=body, headers=dict(headers), allow_redirects=False) as response,
            ):
                status = response.status
                wait_s = _seconds(response.headers.get("Retry-After", ""))
        except TimeoutError:
            why = f"It does not answer within {self._try_s:g} s."
        except aiohttp.ClientSSLError:
            why = "Its certificate is not trusted."
        except aiohttp.ClientConnectorError as exc:
            is_refused = isinstance(exc.os_error, RefusedAddressError)
            why = f"It may not be reached: {exc.os_error}." if is_refused else "There is no connection to it."
        except RefusedAddressError as exc:
            why = f"It may not be reached: {exc}."
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            why = f"It does not speak HTTP as it should ({type(exc).__name__})."
        return Outcome(status, why, round((time.monotonic() - began) * 1000), wait_s)


def _seconds(text: str) -> float | None:
    return min(float(text), WAIT_MOST_S) if text.isascii() and text.isdigit() and len(text) <= 9 else None
