"""Which webhooks may be asked, and what their answers mean."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from firmware_store.errors import InvalidInputError
from server.domain.consent import REASON_CHARACTERS_MOST, Answer, Awaited, Consent, Word, check_webhook, read_answer
from server.domain.plan import Gate


@pytest.mark.parametrize(
    "url",
    [
        "https://gates.example.com/v1?team=a",
        "https://10.0.0.1:8443",
        "http://127.0.0.1:8000/gate",
        "http://[::1]/",
        "http://localhost",
    ],
)
def test_a_webhook_is_asked_over_https_or_on_this_machine(url: str) -> None:
    assert check_webhook(url) == url
    assert Gate(webhook=url).webhook == url


@pytest.mark.parametrize(
    "url",
    [
        "http://gates.example.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "https://user:secret@example.com",
        "http://127.0.0.1@example.com",
        "https://example.com/#part",
        "https://example.com/a b",
        "https://example.com/\n",
        "https://ex\u00e4mple.com",
        "https:///gate",
        "https://[::1",
        "https://example.com:99999",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "gate",
        "",
    ],
)
def test_nothing_else_is_a_webhook(url: str) -> None:
    with pytest.raises(InvalidInputError):
        check_webhook(url)
    with pytest.raises(ValidationError):
        Gate(webhook=url)


@given(st.sampled_from([Word.GO, Word.WAIT, Word.STOP]), st.text())
def test_an_answer_is_its_verdict_with_a_reason_that_can_be_shown(word: Word, reason: str) -> None:
    read, shown = read_answer(json.dumps({"verdict": word, "reason": reason}).encode())

    assert read is word
    assert shown.isprintable()
    assert len(shown) <= REASON_CHARACTERS_MOST


@pytest.mark.parametrize("body", [b"", b"go", b'"go"', b'["go"]', b"{}", b"null", b"\xff", b"[" * 10_000])
def test_whatever_else_comes_is_no_answer(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        read_answer(body)


@pytest.mark.parametrize("verdict", ["nothing", "GO", "", None, 1, ["go"]])
def test_no_other_verdict_is_one(verdict: object) -> None:
    with pytest.raises(InvalidInputError):
        read_answer(json.dumps({"verdict": verdict}).encode())


def test_a_go_is_good_for_so_long_and_for_its_own_wave() -> None:
    for wave, age_s, awaits in ((1, 9.9, Awaited.NOBODY), (1, 10, Awaited.WEBHOOK), (0, 0, Awaited.WEBHOOK)):
        consent = Consent(1, manual=False, again_s=10, advanced=None, answer=Answer(wave, Word.GO, "", 1000))

        assert consent.missing(1000 + age_s)[0] is awaits
