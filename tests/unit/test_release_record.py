"""The release record: files that belong to one release, and to no other."""

from dataclasses import replace
from hashlib import sha256
from itertools import repeat
from typing import Any

import pytest

from firmware_store.codec import Encodable
from firmware_store.documents import Kind, seal
from firmware_store.errors import (
    CodecError,
    DigestError,
    InvalidInputError,
    RevokedError,
    SignatureError,
    TooLargeError,
)
from firmware_store.release_record import (
    MAX_ATTACHMENT_BYTES,
    Attachment,
    AttachmentKind,
    ReleaseRecord,
    open_release_record,
    read_release_record,
)
from firmware_store.root import RoleName
from firmware_store.status import Status
from firmware_store.suit import read_manifest
from tests import signed_documents
from tests.releases import RELEASE, ROOT, SIGNERS, manifest, read_vector

DIGEST = read_manifest(manifest()).digest
NOTES = b"# Quieter at slack water\n"
SBOM = [b'{"bomFormat":', b'"CycloneDX"}']
RECORD = ReleaseRecord(
    DIGEST,
    (
        Attachment.of(AttachmentKind.NOTES, "text/markdown", [NOTES]),
        Attachment.of(AttachmentKind.SBOM, "application/vnd.cyclonedx+json", SBOM),
        Attachment.of(AttachmentKind.PROVENANCE, "application/vnd.in-toto+json", [b"{}"]),
    ),
)
SEALED = seal(Kind.RELEASE_RECORD, RECORD.payload(), RELEASE)
STATUS = Status(version=1, issued=ROOT.issued, expires=ROOT.expires, fleet=ROOT.fleet)


def test_a_record_survives_its_document() -> None:
    assert open_release_record(ROOT, SEALED, manifest_digest=DIGEST) == RECORD
    assert open_release_record(ROOT, SEALED, manifest_digest=DIGEST, status=STATUS) == RECORD
    assert read_release_record(seal(Kind.RELEASE_RECORD, RECORD.payload(), [])) == RECORD


def test_the_golden_record_opens() -> None:
    assert open_release_record(ROOT, read_vector("release_record"), manifest_digest=DIGEST) == signed_documents.RECORD


def test_a_file_is_known_by_its_bytes() -> None:
    notes, sbom, _ = RECORD.attachments

    assert (notes.size, notes.digest) == (len(NOTES), sha256(NOTES).digest())
    notes.check([NOTES[:5], b"", NOTES[5:]])
    sbom.check(SBOM)
    for pieces in ([], [NOTES[:-1]], [b"x" * len(NOTES)]):
        with pytest.raises(DigestError):
            notes.check(pieces)


def test_a_file_that_never_ends_is_not_read_to_its_end() -> None:
    with pytest.raises(TooLargeError):
        RECORD.attachments[0].check(repeat(b"more"))
    with pytest.raises(TooLargeError):
        Attachment.of(AttachmentKind.NOTES, "text/plain", repeat(bytes(1 << 20)))


@pytest.mark.parametrize(
    "signers",
    [RELEASE[:1], RELEASE[:1] * 2, SIGNERS[RoleName.ROOT], SIGNERS[RoleName.DIRECTIVE]],
    ids=["one of two", "one of two, twice", "the root keys", "the directive key"],
)
def test_only_the_threshold_of_the_release_keys_signs_it(signers: Any) -> None:
    with pytest.raises(SignatureError):
        open_release_record(ROOT, seal(Kind.RELEASE_RECORD, RECORD.payload(), signers), manifest_digest=DIGEST)


def test_a_signature_for_another_kind_of_document_is_none_for_a_record() -> None:
    with pytest.raises(SignatureError):
        open_release_record(ROOT, seal(Kind.STATUS, RECORD.payload(), RELEASE), manifest_digest=DIGEST)


def test_the_record_of_another_release_is_not_this_ones() -> None:
    with pytest.raises(DigestError, match="another release"):
        open_release_record(ROOT, SEALED, manifest_digest=bytes(32))


def test_what_was_taken_back_takes_its_record_along() -> None:
    revoked = replace(STATUS, revoked_digests=frozenset({DIGEST}))
    thief = replace(STATUS, revoked_kids=frozenset({RELEASE[0].public.kid}))

    with pytest.raises(RevokedError):
        open_release_record(ROOT, SEALED, manifest_digest=DIGEST, status=revoked)
    with pytest.raises(SignatureError):
        open_release_record(ROOT, SEALED, manifest_digest=DIGEST, status=thief)


GOOD: dict[int, Any] = dict(RECORD.payload())
FILE = GOOD[2][0]
MALFORMED: dict[str, dict[int, Encodable]] = {
    "another format": {**GOOD, 0: 2},
    "an unknown member": {**GOOD, 3: 0},
    "no attachments": {0: 1, 1: DIGEST},
    "an empty list of attachments": {**GOOD, 2: []},
    "17 attachments": {**GOOD, 2: [{**FILE, 4: bytes([n]) * 32} for n in range(17)]},
    "one file twice": {**GOOD, 2: [FILE, FILE]},
    "a manifest digest of 31 bytes": {**GOOD, 1: bytes(31)},
    "a manifest digest as text": {**GOOD, 1: "x" * 32},
    "an attachment that is no map": {**GOOD, 2: [1]},
    "an attachment of kind 0": {**GOOD, 2: [{**FILE, 1: 0}]},
    "an attachment of kind 4": {**GOOD, 2: [{**FILE, 1: 4}]},
    "an attachment without a size": {**GOOD, 2: [{1: 1, 2: "text/plain", 4: bytes(32)}]},
    "an attachment of no bytes": {**GOOD, 2: [{**FILE, 3: 0}]},
    "an attachment that is too large": {**GOOD, 2: [{**FILE, 3: MAX_ATTACHMENT_BYTES + 1}]},
    "an attachment with a short digest": {**GOOD, 2: [{**FILE, 4: bytes(31)}]},
    "a media type that ends a header": {**GOOD, 2: [{**FILE, 2: "text/plain\r\nX: y"}]},
    "a media type with a parameter": {**GOOD, 2: [{**FILE, 2: "text/plain; charset=utf-8"}]},
    "no media type": {**GOOD, 2: [{**FILE, 2: "text"}]},
    "a media type as bytes": {**GOOD, 2: [{**FILE, 2: b"text/plain"}]},
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_record_of_another_shape_is_refused_whoever_signed_it(payload: dict[int, Encodable]) -> None:
    with pytest.raises(CodecError):
        open_release_record(ROOT, seal(Kind.RELEASE_RECORD, payload, RELEASE), manifest_digest=DIGEST)


def test_a_record_that_would_not_be_accepted_is_not_made() -> None:
    for changes in ({"attachments": ()}, {"manifest_digest": b""}, {"attachments": RECORD.attachments * 2}):
        with pytest.raises(InvalidInputError):
            replace(RECORD, **changes)
