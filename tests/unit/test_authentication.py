"""How often somebody may call with one credential, and how often with none that is good."""

import asyncio
import time
from collections.abc import Iterable

import pytest
from structlog.testing import capture_logs

from firmware_store.errors import AuthenticationError, RateLimitedError, StoreUnavailableError, TidegateError
from server.services.authentication import KNOWN_MOST, Authentication
from server.services.metrics import Metrics
from server.services.tickets import Tickets
from server.services.tokens import Caller, Role

ANN = Caller("ann", Role.VIEWER)
TICKETS = Tickets(b"fleet", b"s" * 32)
HERE, THERE = "192.0.2.1", "192.0.2.2"


class Door:
    """An authentication whose provider lets in whom the test names, at the test's time."""

    def __init__(self, *, requests_per_s: float = 1000, failures_per_s: float = 1) -> None:
        self.good = {"ann", "bob"}
        self.is_away = False
        self.asked = 0
        self.now = 100.0
        self.metrics = Metrics()
        self.authentication = Authentication(
            tokens=None,  # type: ignore[arg-type]
            tickets=TICKETS,
            metrics=self.metrics,
            requests_per_s=requests_per_s,
            failures_per_s=failures_per_s,
            foreign=self,
            clock=lambda: self.now,
        )

    async def authenticate(self, text: str) -> Caller:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailableError("away")
        if text not in self.good:
            raise AuthenticationError("not good")
        return ANN

    async def knock(self, texts: Iterable[str], address: str = HERE, *, is_device: bool = False) -> list[str]:
        """Show these all at once; returns how each was answered."""

        async def one(text: str) -> str:
            try:
                await self.authentication.let_in(text, address=address, is_device=is_device)
            except TidegateError as exc:
                return type(exc).__name__
            return "in"

        return await asyncio.gather(*map(one, texts))


def guesses(number: int) -> list[str]:
    return [f"guess-{index}" for index in range(number)]


async def test_a_guesser_gets_a_bounded_number_of_looks_however_many_come_at_once() -> None:
    door = Door()

    answers = await door.knock(guesses(100))

    assert (answers.count("AuthenticationError"), answers.count("RateLimitedError")) == (10, 90)
    assert door.asked == 10
    door.now += 3
    assert (await door.knock(guesses(10))).count("AuthenticationError") == 3
    assert "AuthenticationError" in await door.knock(["guess"], THERE)


async def test_the_refusal_says_when_to_come_again() -> None:
    door = Door()
    await door.knock(guesses(10))

    with pytest.raises(RateLimitedError) as refusal:
        await door.authentication.let_in("guess", address=HERE, is_device=False)

    assert refusal.value.retry_after_s == pytest.approx(1.0)


async def test_who_was_let_in_goes_on_beside_a_guesser_at_the_same_address() -> None:
    door = Door()
    await door.knock(["ann"])
    await door.knock(guesses(100))

    assert await door.knock(["ann"] * 50) == ["in"] * 50
    assert await door.knock(["bob"]) == ["RateLimitedError"]
    assert await door.knock(["bob"], THERE) == ["in"]


async def test_what_is_good_costs_nothing_of_what_an_address_may_get_wrong() -> None:
    door = Door()
    door.good |= set(guesses(1000))

    for guess in guesses(1000):
        assert await door.knock([guess]) == ["in"]


async def test_a_database_that_is_away_is_nobodys_failure() -> None:
    door = Door()
    door.is_away = True
    for _ in range(100):
        assert await door.knock(["ann"]) == ["StoreUnavailableError"]

    door.is_away = False
    assert await door.knock(["ann"]) == ["in"]


async def test_a_credential_that_was_good_and_is_not_any_more_is_a_guess_like_any_other() -> None:
    door = Door()
    await door.knock(["ann"])
    door.good.clear()

    answers = [*await door.knock(["ann"]), *await door.knock(["ann"] * 100)]

    assert (answers.count("AuthenticationError"), answers.count("RateLimitedError")) == (10, 91)


async def test_one_credential_does_not_take_the_server_from_the_others() -> None:
    door = Door(requests_per_s=2)

    answers = [(await door.knock(["ann"]))[0] for _ in range(30)]

    assert answers == ["in"] * 20 + ["RateLimitedError"] * 10
    assert door.asked == 20
    assert await door.knock(["bob"]) == ["in"]
    door.now += 0.5
    assert await door.knock(["ann"] * 2) == ["in", "RateLimitedError"]


async def test_devices_fetch_as_fast_as_they_can() -> None:
    door = Door(requests_per_s=2)
    await door.knock(["ann"])

    assert await door.knock(["ann"] * 100, is_device=True) == ["in"] * 100


async def test_a_fleet_behind_one_address_fetches_with_one_ticket() -> None:
    door = Door()
    ticket = TICKETS.issue(time.time())

    assert await door.knock([ticket] * 100, is_device=True) == ["in"] * 100
    assert await door.knock([ticket]) == ["AuthenticationError"]
    forged = await door.knock([f"{ticket[:-2]}{number:02}" for number in range(100)], is_device=True)
    assert forged.count("RateLimitedError") >= 90
    assert await door.knock([ticket], is_device=True) == ["in"]


async def test_failures_are_logged_without_secrets_and_counted() -> None:
    door = Door()
    door.authentication._foreign = None
    door.authentication._tokens = door  # type: ignore[assignment]
    with capture_logs() as logs:
        await door.knock(["tg_5f0c1a2b_secret", "tg_no-id-at-all", "other"])
        await door.knock(guesses(20))

    assert [(line["kind"], line["token"], line["address"]) for line in logs[:3]] == [
        ("token", "5f0c1a2b", HERE),
        ("token", None, HERE),
        ("other", None, HERE),
    ]
    assert "secret" not in str(logs)
    assert len(logs) == 10

    def count(name: str, **labels: str) -> float | None:
        return door.metrics.registry.get_sample_value(name, labels)

    assert count("tidegate_credentials_refused_total", kind="token") == 2
    assert count("tidegate_credentials_refused_total", kind="other") == 8
    assert count("tidegate_requests_limited_total", by="address") == 13


async def test_the_memory_for_credentials_is_bounded() -> None:
    door = Door()
    many = guesses(KNOWN_MOST + 100)
    door.good |= set(many)
    for guess in many:
        await door.authentication.let_in(guess, address=HERE, is_device=False)

    assert len(door.authentication._known) == KNOWN_MOST
    assert len(door.authentication._requests) == KNOWN_MOST
