"""How often strangers may knock, and what a nonce of the server is good for."""

import pytest

from firmware_store.errors import AuthenticationError, RateLimitedError
from server.services.admission import ADDRESSES_MOST, Admission, Rate
from server.services.nonces import NONCE_LIFE_S, Nonces

FEW, MANY = Rate(per_s=1, burst=3), Rate(per_s=1000, burst=1000)


def admitted(admission: Admission, address: str | None, *, times: int, now: float) -> int:
    count = 0
    for _ in range(times):
        try:
            admission.admit(address, now=now)
            count += 1
        except RateLimitedError:
            pass
    return count


def test_a_burst_then_the_rate() -> None:
    admission = Admission(together=MANY, each=FEW)

    assert admitted(admission, "192.0.2.1", times=10, now=100.0) == 3
    assert admitted(admission, "192.0.2.1", times=10, now=102.0) == 2
    assert admitted(admission, "192.0.2.1", times=10, now=1000.0) == 3


def test_one_address_does_not_use_up_what_is_anothers() -> None:
    admission = Admission(together=MANY, each=FEW)
    admitted(admission, "192.0.2.1", times=10, now=100.0)

    assert admitted(admission, "192.0.2.2", times=10, now=100.0) == 3


def test_all_together_have_a_limit_too_and_who_is_refused_takes_nothing() -> None:
    admission = Admission(together=FEW, each=Rate(per_s=1, burst=2))

    assert admitted(admission, "192.0.2.1", times=5, now=100.0) == 2
    assert admitted(admission, "192.0.2.2", times=5, now=100.0) == 1


def test_the_refusal_says_when_to_come_again() -> None:
    admission = Admission(together=MANY, each=FEW)
    admitted(admission, "192.0.2.1", times=3, now=100.0)
    with pytest.raises(RateLimitedError) as refusal:
        admission.admit("192.0.2.1", now=100.25)

    assert refusal.value.retry_after_s == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("192.0.2.1", "192.0.2.2", False),
        (None, "nonsense", True),
    ],
)
def test_an_ipv6_network_counts_as_one(one: str | None, other: str, same: bool) -> None:
    admission = Admission(together=MANY, each=FEW)
    admitted(admission, one, times=3, now=100.0)

    assert admitted(admission, other, times=3, now=100.0) == (0 if same else 3)


def test_the_memory_for_addresses_is_bounded() -> None:
    admission = Admission(together=Rate(per_s=1, burst=1e9), each=FEW)
    for number in range(ADDRESSES_MOST + 100):
        admission.admit(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", now=100.0)

    assert len(admission._addresses) == ADDRESSES_MOST


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    admission = Admission(together=MANY, each=FEW)
    admitted(admission, "192.0.2.1", times=3, now=100.0)

    assert admitted(admission, "192.0.2.1", times=3, now=50.0) == 0


def test_nonces_differ_and_are_good_once() -> None:
    nonces = Nonces()
    one, other = nonces.make(now=1000.0), nonces.make(now=1000.0)
    nonces.spend(one, now=1001.0)

    assert one != other
    with pytest.raises(AuthenticationError):
        nonces.check(one, now=1001.0)
    nonces.check(other, now=1001.0)


def test_a_nonce_is_good_for_minutes() -> None:
    nonces = Nonces()
    nonce = nonces.make(now=1000.0)
    nonces.check(nonce, now=1000.0 + NONCE_LIFE_S)

    with pytest.raises(AuthenticationError):
        nonces.check(nonce, now=1001.0 + NONCE_LIFE_S)


def test_a_spent_nonce_is_remembered_for_as_long_as_it_would_be_good() -> None:
    nonces = Nonces()
    early, late = nonces.make(now=1000.0), nonces.make(now=1000.0 + NONCE_LIFE_S)
    nonces.spend(early, now=1000.0)
    nonces.spend(late, now=1000.0 + NONCE_LIFE_S)

    with pytest.raises(AuthenticationError):
        nonces.check(early, now=1000.0 + NONCE_LIFE_S)
    nonces.spend(nonces.make(now=2000.0), now=2000.0)
    assert len(nonces._spent) == 1


@pytest.mark.parametrize("nonce", [b"", b"x", bytes(16), bytes(32), bytes(33), bytes(1000)])
def test_what_the_server_has_not_made_is_no_nonce(nonce: bytes) -> None:
    with pytest.raises(AuthenticationError):
        Nonces().check(nonce, now=0.0)


def test_the_nonces_of_another_process_are_not_ours() -> None:
    with pytest.raises(AuthenticationError):
        Nonces().check(Nonces().make(now=1000.0), now=1000.0)
