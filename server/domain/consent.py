"""Whose word a wave's gate waits for when all numbers are met, and what a webhook's answer means (pure).

Numbers open a gate by themselves. A gate may want more. A person's word, given by ``advance``, is good for the open
wave of one run. When it is there, too, a webhook is asked: its ``go`` has to be fresh, for it speaks of the moment.
Neither opens anything by itself: all that else must hold has to hold at that moment, too.
"""

import ipaddress
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from firmware_store.errors import InvalidInputError

REASON_CHARACTERS_MOST: Final = 300
URL_CHARACTERS_MOST: Final = 500


class Awaited(StrEnum):
    """Whose word is missing; values are what is stored and shown. ``DEVICES``: the numbers are not met yet."""

    NOBODY = ""
    ADVANCE = "advance"
    WEBHOOK = "webhook"
    DEVICES = "devices"


class Word(StrEnum):
    """What a webhook says, or that it says nothing; values are what is stored, and what it sends."""

    GO = "go"
    WAIT = "wait"
    STOP = "stop"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of asking the webhook of a wave, counted from 0, at ``at`` (Unix seconds)."""

    wave: int
    word: Word
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Consent:
    """What a wave, counted from 0, wants beyond numbers, and what of it is there.

    ``again_s``: a webhook's answer is good for so long, and is then asked for again; None where there is no webhook.
    """

    wave: int
    manual: bool
    again_s: float | None
    advanced: int | None
    answer: Answer | None

    def missing(self, now: float) -> tuple[Awaited, str]:
        """Return whose word is missing, and the sentence that says so."""
        number = self.wave + 1
        if self.manual and self.advanced != self.wave:
            return (
                Awaited.ADVANCE,
                f"Wave {number} waits for a person: all else that its gate wants is met; `advance` lets it through.",
            )
        if self.again_s is None:
            return Awaited.NOBODY, ""
        answer = self.answer
        if answer is not None and answer.wave != self.wave:
            answer = None
        if answer is not None and answer.word is Word.GO and now - answer.at < self.again_s:
            return Awaited.NOBODY, ""
        if answer is None or answer.word is Word.GO:
            return Awaited.WEBHOOK, f"Wave {number} waits for its webhook, which is being asked."
        if answer.word is Word.NOTHING:
            return Awaited.WEBHOOK, f"Wave {number} waits for its webhook, which cannot be asked: {answer.reason}"
        return Awaited.WEBHOOK, f"Wave {number} waits for its webhook: {answer.reason or 'it says no more'}"

    @property
    def objection(self) -> str:
        """Say why the webhook wants the campaign stopped, or nothing."""
        answer = self.answer
        if self.again_s is None or answer is None or answer.wave != self.wave or answer.word is not Word.STOP:
            return ""
        return f"Paused by the webhook of wave {self.wave + 1}: {answer.reason or 'it gives no reason'}"


def check_webhook(url: str) -> str:
    """Return ``url`` if the server may ask there: over https, or over http on this very machine.

    Raises:
        InvalidInputError: it may not.
    """
    wrong = InvalidInputError(
        "A webhook is an https URL, or an http one of this machine (127.0.0.1, ::1, localhost), without a password."
    )
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.port == 0 or not url.isascii() or not url.isprintable() or " " in url or not host:
            raise wrong
    except ValueError as exc:
        raise wrong from exc
    is_open = parts.scheme == "https" or (parts.scheme == "http" and _is_here(host))
    if not is_open or "@" in parts.netloc or parts.fragment:
        raise wrong
    return url


def read_answer(body: bytes) -> tuple[Word, str]:
    """Return what a webhook has answered: ``{"verdict": "go" | "wait" | "stop", "reason": ...}``.

    The reason is for people: it is cut, and shown without what would move their cursor.

    Raises:
        InvalidInputError: that is none.
    """
    try:
        members = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError("its answer is not JSON.") from exc
    verdict = members.get("verdict") if isinstance(members, dict) else None
    if not isinstance(verdict, str) or verdict not in _SAID:
        raise InvalidInputError('its answer has no "verdict" of go, wait or stop.')
    reason = members.get("reason")
    shown = "".join(one if one.isprintable() else " " for one in reason) if isinstance(reason, str) else ""
    return Word(verdict), " ".join(shown.split())[:REASON_CHARACTERS_MOST]


_SAID: Final = frozenset({Word.GO, Word.WAIT, Word.STOP})


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
