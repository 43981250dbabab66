"""The release record: what belongs to a release and is not installed, bound to it by the release keys.

Notes, a bill of materials (CycloneDX) and provenance (in-toto) say what a release is. They are files of their own,
since no device needs them; the record names the manifest's digest and the digest of each file, so that a file cannot be
put beside another release than its own.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Final, Self

from firmware_store.codec import Encodable, Value
from firmware_store.documents import Kind, decode_payload, split
from firmware_store.errors import CodecError, DigestError, InvalidInputError, TooLargeError
from firmware_store.root import Root
from firmware_store.shapes import as_bytes, as_int, as_list, as_map, as_text
from firmware_store.status import Status
from firmware_store.suit_values import DIGEST_BYTES

FORMAT: Final = 1
MAX_ATTACHMENTS: Final = 16
MAX_ATTACHMENT_BYTES: Final = 1 << 26

# Labels of the payload, and of an attachment in it.
_FORMAT, _MANIFEST, _ATTACHMENTS = range(3)
_KIND, _MEDIA_TYPE, _SIZE, _DIGEST = 1, 2, 3, 4

# RFC 6838 section 4.2, without parameters and in lower case: it becomes the header of a response.
_MEDIA_TYPE_FORM: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}")


class AttachmentKind(StrEnum):
    NOTES = "notes"
    SBOM = "sbom"
    PROVENANCE = "provenance"


_KIND_NUMBERS: Final = MappingProxyType({kind: number for number, kind in enumerate(AttachmentKind, start=1)})
_KINDS: Final = MappingProxyType({number: kind for kind, number in _KIND_NUMBERS.items()})


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file: its kind, its media type, its ``size`` in bytes and its SHA-256.

    Raises:
        InvalidInputError: on creation, for what no attachment can be.
    """

    kind: AttachmentKind
    media_type: str
    size: int
    digest: bytes

    def __post_init__(self) -> None:
        if _MEDIA_TYPE_FORM.fullmatch(self.media_type) is None:
            raise InvalidInputError(f"{self.media_type!r} is not a media type such as text/markdown")
        if not 0 < self.size <= MAX_ATTACHMENT_BYTES or len(self.digest) != DIGEST_BYTES:
            raise InvalidInputError(f"an attachment has 1 to {MAX_ATTACHMENT_BYTES} bytes and a SHA-256")

    @classmethod
    def of(cls, kind: AttachmentKind, media_type: str, pieces: Iterable[bytes]) -> Self:
        """Return the attachment whose bytes are ``pieces``.

        Raises:
            InvalidInputError, TooLargeError: no attachment can be like that.
        """
        size, digest = _measure(pieces, MAX_ATTACHMENT_BYTES)
        return cls(kind, media_type, size, digest)

    def check(self, pieces: Iterable[bytes]) -> None:
        """Check that ``pieces`` are the bytes that were signed for; what goes on for too long is not read to its end.

        Raises:
            DigestError: they are not.
            TooLargeError: they are more.
        """
        if _measure(pieces, self.size) != (self.size, self.digest):
            raise DigestError(f"these are not the {self.kind} that were signed")


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """What belongs to the release with this manifest.

    Raises:
        InvalidInputError: on creation, for what no record can be.
    """

    manifest_digest: bytes
    attachments: tuple[Attachment, ...]

    def __post_init__(self) -> None:
        if len(self.manifest_digest) != DIGEST_BYTES:
            raise InvalidInputError("a release record names a manifest by its digest of 32 bytes")
        if not 0 < len(self.attachments) <= MAX_ATTACHMENTS:
            raise InvalidInputError(f"a release record has 1 to {MAX_ATTACHMENTS} attachments")
        if len({attachment.digest for attachment in self.attachments}) != len(self.attachments):
            raise InvalidInputError("a release record names each file once")

    def payload(self) -> dict[int, Encodable]:
        """Return the map that the release role signs."""
        return {
            _FORMAT: FORMAT,
            _MANIFEST: self.manifest_digest,
            _ATTACHMENTS: [
                {
                    _KIND: _KIND_NUMBERS[attachment.kind],
                    _MEDIA_TYPE: attachment.media_type,
                    _SIZE: attachment.size,
                    _DIGEST: attachment.digest,
                }
                for attachment in self.attachments
            ],
        }


def open_release_record(
    root: Root, data: bytes, *, manifest_digest: bytes, status: Status | None = None
) -> ReleaseRecord:
    """Return the record of the release with this manifest, once enough release keys have signed it.

    The scope of the keys is that of the release itself, which was checked with its envelope.

    Raises:
        CodecError, SignatureError: not a record that the release role signed; revoked keys do not count.
        DigestError: the record of another release.
        RevokedError: the release has been taken back.
    """
    root.unseal(Kind.RELEASE_RECORD, data, revoked=frozenset() if status is None else status.revoked_kids)
    record = read_release_record(data)
    if record.manifest_digest != manifest_digest:
        raise DigestError("the record of another release")
    if status is not None:
        status.check_digest(manifest_digest)
    return record


def read_release_record(data: bytes) -> ReleaseRecord:
    """Return what a record says, with nothing verified: for whoever is to sign it.

    Raises:
        CodecError: not a release record.
    """
    payload, _ = split(data, least=0)
    members = as_map(decode_payload(payload), "release record", labels=range(_ATTACHMENTS + 1))
    as_int(members[_FORMAT], "release record format", least=FORMAT, most=FORMAT)
    manifest_digest = as_bytes(members[_MANIFEST], "manifest digest")
    attachments = as_list(members[_ATTACHMENTS], "attachments")
    try:
        return ReleaseRecord(manifest_digest, tuple(_read_attachment(attachment) for attachment in attachments))
    except CodecError:
        raise
    except InvalidInputError as exc:
        raise CodecError(f"a release record that cannot be: {exc}") from exc


def _read_attachment(value: Value) -> Attachment:
    members = as_map(value, "attachment", labels=(_KIND, _MEDIA_TYPE, _SIZE, _DIGEST))
    return Attachment(
        kind=_KINDS[as_int(members[_KIND], "attachment kind", least=min(_KINDS), most=max(_KINDS))],
        media_type=as_text(members[_MEDIA_TYPE], "attachment media type"),
        size=as_int(members[_SIZE], "attachment size"),
        digest=as_bytes(members[_DIGEST], "attachment digest"),
    )


def _measure(pieces: Iterable[bytes], limit: int) -> tuple[int, bytes]:
    size, digest = 0, sha256()
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise TooLargeError(f"more than the {limit} bytes that an attachment may have here", limit_bytes=limit)
        digest.update(piece)
    return size, digest.digest()
