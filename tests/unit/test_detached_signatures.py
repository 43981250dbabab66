"""Signatures that are made on a machine that the bundle does not get to."""

import pytest

from firmware_store.cose import claimed_kid
from firmware_store.errors import ConflictError, DigestError, InvalidInputError, ManifestError, SignatureError
from firmware_store.keys import SigningKey
from firmware_store.root import RoleName
from firmware_store.suit import (
    attach_signature,
    build_envelope,
    open_envelope,
    sign_digest,
    sign_envelope,
    verify_envelope,
)
from tests.releases import RELEASE, ROOT, SIGNERS, STRANGER, envelope, manifest

KEYS = ROOT.keys_for(RoleName.RELEASE)
UNSIGNED = build_envelope(manifest(), description="spring tide")
DIGEST = open_envelope(UNSIGNED).digest


@pytest.mark.parametrize("keys", [KEYS, None], ids=["with a root", "without"])
def test_a_release_is_complete_once_both_signatures_are_back(keys: dict | None) -> None:
    signed = UNSIGNED
    for key in RELEASE:
        signed = attach_signature(signed, sign_digest(DIGEST, key), keys=keys)

    assert verify_envelope(signed, ROOT).kids == set(KEYS)


def test_a_signature_of_the_digest_is_the_one_of_the_envelope() -> None:
    assert open_envelope(sign_envelope(UNSIGNED, RELEASE[0])).blocks == (sign_digest(DIGEST, RELEASE[0]),)
    assert claimed_kid(sign_digest(DIGEST, RELEASE[1])) == RELEASE[1].public.kid


@pytest.mark.parametrize("signer", [STRANGER, *SIGNERS[RoleName.ROOT]], ids=["a stranger", "root-1", "root-2"])
def test_with_a_root_nobody_elses_signature_gets_in(signer: SigningKey) -> None:
    with pytest.raises(SignatureError, match="none of those"):
        attach_signature(UNSIGNED, sign_digest(DIGEST, signer), keys=KEYS)


def test_with_a_root_the_signature_of_another_release_does_not_get_in() -> None:
    with pytest.raises(SignatureError, match="does not hold"):
        attach_signature(UNSIGNED, sign_digest(bytes(32), RELEASE[0]), keys=KEYS)


def test_a_signature_is_attached_once() -> None:
    block = sign_digest(DIGEST, RELEASE[0])

    with pytest.raises(ConflictError, match="already"):
        attach_signature(attach_signature(UNSIGNED, block), block)
    with pytest.raises(ConflictError, match="already"):
        attach_signature(sign_envelope(UNSIGNED, RELEASE[0]), block, keys=KEYS)


def test_there_is_room_for_sixteen() -> None:
    with pytest.raises(ConflictError, match="at most 16"):
        attach_signature(envelope(manifest(), [STRANGER] * 16), sign_digest(DIGEST, RELEASE[0]))


@pytest.mark.parametrize("block", [b"", b"\xd2\x80", sign_digest(DIGEST, RELEASE[0])[:-1]], ids=["no", "tag", "short"])
def test_what_is_no_signature_is_not_attached(block: bytes) -> None:
    for keys in (KEYS, None):
        with pytest.raises(SignatureError):
            attach_signature(UNSIGNED, block, keys=keys)


def test_only_a_release_gets_signatures() -> None:
    with pytest.raises(ManifestError):
        attach_signature(envelope(b"\x80", ()), sign_digest(DIGEST, RELEASE[0]))


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)], ids=len)
def test_only_a_digest_is_signed(digest: bytes) -> None:
    with pytest.raises(InvalidInputError):
        sign_digest(digest, RELEASE[0])


def test_a_signature_does_not_make_another_release_of_the_same_envelope() -> None:
    signed = attach_signature(UNSIGNED, sign_digest(DIGEST, RELEASE[0]))
    forged = signed.replace(b"spring", b"winter")

    with pytest.raises(DigestError):
        attach_signature(forged, sign_digest(DIGEST, RELEASE[1]))
