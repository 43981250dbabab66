"""Whatever is sent for a signing request, our own errors are all that comes of it."""

import contextlib
from base64 import b64encode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firmware_store.errors import InvalidInputError, TrustError
from firmware_store.keys import Algorithm, SigningKey
from server.services.csr import read_request
from tests.enrolment_world import request_builder, sign_request


def good(algorithm: Algorithm) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    key = SigningKey.generate(algorithm)
    return sign_request(request_builder("pump-1"), key).public_bytes(Encoding.DER)


GOOD = [good(algorithm) for algorithm in Algorithm]


@pytest.mark.parametrize("der", GOOD, ids=list(Algorithm))
def test_no_flipped_bit_makes_another_request(der: bytes) -> None:
    ours = read_request(b64encode(der).decode()).public
    for place in range(len(der) * 8):
        flipped = bytearray(der)
        flipped[place // 8] ^= 1 << place % 8
        # One bit changes nothing: how many bits at the signature's end do not count, where the last is 0 anyway.
        with contextlib.suppress(InvalidInputError, TrustError):
            assert read_request(b64encode(bytes(flipped)).decode()).public == ours


@pytest.mark.parametrize("der", GOOD, ids=list(Algorithm))
def test_no_cut_goes_through(der: bytes) -> None:
    for size in range(len(der)):
        with pytest.raises((InvalidInputError, TrustError)):
            read_request(b64encode(der[:size]).decode())


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda data: b64encode(data).decode())))
@example("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----")
@example("\ud800")
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises((InvalidInputError, TrustError)):
        read_request(text)
