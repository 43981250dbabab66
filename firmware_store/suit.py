"""The SUIT envelope (draft-ietf-suit-manifest-37 section 8.2): a manifest, its signatures, a severable description.

Two traps of the draft: the manifest's digest covers the header of its byte string too, and what is signed is the
content of the digest's byte string, detached. The signatures are checked before the manifest is parsed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from firmware_store.codec import Encodable, Key, Tag, Value, decode, encode
from firmware_store.cose import claimed_kid, sign1, verify1
from firmware_store.errors import (
    CodecError,
    ConflictError,
    DigestError,
    InvalidInputError,
    ManifestError,
    SignatureError,
)
from firmware_store.keys import Kid, PublicKey, Signer
from firmware_store.root import RoleName, Root
from firmware_store.shapes import as_bytes, as_list, as_map, as_text
from firmware_store.status import Status
from firmware_store.suit_build import bind_text, build_manifest
from firmware_store.suit_labels import SHA256_ID, TEXT_LANGUAGE, Envelope, Text
from firmware_store.suit_read import read_digest, read_manifest, suit_digest
from firmware_store.suit_values import (
    DIGEST_BYTES,
    ChunkProfile,
    Component,
    Fetch,
    Manifest,
    SlotImage,
    class_id,
    format_version,
    parse_version,
    vendor_id,
)

__all__ = [
    "MAX_ENVELOPE_BYTES",
    "ChunkProfile",
    "Component",
    "Fetch",
    "Manifest",
    "OpenEnvelope",
    "SlotImage",
    "VerifiedEnvelope",
    "attach_signature",
    "build_envelope",
    "build_manifest",
    "class_id",
    "format_version",
    "open_envelope",
    "parse_version",
    "read_manifest",
    "sever_text",
    "sign_digest",
    "sign_envelope",
    "suit_digest",
    "vendor_id",
    "verify_envelope",
]

MAX_ENVELOPE_BYTES: Final = 65536
MAX_TEXT_BYTES: Final = 32768  # leaves room for the largest manifest and all signatures
MAX_SIGNATURES: Final = 16
SIGNATURE_BLOCK_BYTES: Final = 128  # a COSE_Sign1 of ours has about 100


@dataclass(frozen=True, slots=True)
class OpenEnvelope:
    """An envelope taken apart; nothing in it is trusted but that ``signed`` is the digest of ``manifest``."""

    manifest: bytes
    digest: bytes
    signed: bytes
    blocks: tuple[bytes, ...]
    text: bytes | None

    def kids(self, root: Root) -> frozenset[Kid]:
        """Return the distinct release keys of ``root`` that have signed, however few.

        Raises:
            SignatureError: a malformed signature, or one of those keys' does not hold.
        """
        keys = root.keys_for(RoleName.RELEASE)
        signed_by = {verify1(block, self.signed, keys, typ=None) for block in self.blocks}
        return frozenset(kid for kid in signed_by if kid is not None)

    def read(self) -> tuple[Manifest, str | None]:
        """Return what the manifest and the description say; call it on verified bytes, or to show them.

        Raises:
            ManifestError: a manifest outside of our profile, or a description it does not bind.
            DigestError: the description is not the one that was signed.
        """
        manifest = read_manifest(self.manifest)
        if self.text is None:
            return manifest, None
        if manifest.text_digest is None:
            raise ManifestError("the envelope has a description that its manifest does not bind")
        if suit_digest(self.text) != manifest.text_digest:
            raise DigestError("the description is not the one that was signed")
        return manifest, _read_text(self.text)


@dataclass(frozen=True, slots=True)
class VerifiedEnvelope:
    """A release that enough of the release keys have signed for everything it touches."""

    manifest: Manifest
    digest: bytes
    kids: frozenset[Kid]
    description: str | None


def build_envelope(manifest: bytes, *, description: str | None = None) -> bytes:
    """Return an unsigned envelope; the description can be severed later without harm to the signatures.

    Raises:
        ManifestError: no manifest of ours, too long a description, or too large an envelope with all its signatures.
        CodecError: a description with lone surrogates.
    """
    text: bytes | None = None
    if description is not None:
        language: dict[int, Encodable] = {Text.UPDATE_DESCRIPTION: description}
        text = encode({TEXT_LANGUAGE: language})
        if len(text) > MAX_TEXT_BYTES:
            raise ManifestError(f"a description has less than {MAX_TEXT_BYTES} bytes")
        manifest = bind_text(manifest, text)
    digest = suit_digest(manifest)
    opened = OpenEnvelope(manifest, digest, encode([SHA256_ID, digest]), (), text)
    opened.read()
    unsigned = _join(opened)
    if len(unsigned) + MAX_SIGNATURES * SIGNATURE_BLOCK_BYTES > MAX_ENVELOPE_BYTES:
        raise ManifestError(f"a signed envelope has at most {MAX_ENVELOPE_BYTES} bytes: fewer components, or slots")
    return unsigned


def open_envelope(data: bytes) -> OpenEnvelope:
    """Take an envelope apart.

    Raises:
        CodecError: too large, not strict CBOR, or with members other than ours.
        DigestError: the manifest is not the one that the signatures are for.
    """
    tagged = decode(data, max_bytes=MAX_ENVELOPE_BYTES)
    if not isinstance(tagged, Tag) or tagged.number != Envelope.TAG:
        raise CodecError("a SUIT envelope has tag 107")
    members = as_map(
        tagged.value, "envelope", labels=(Envelope.AUTHENTICATION, Envelope.MANIFEST), optional=(Envelope.TEXT,)
    )
    manifest = as_bytes(members[Envelope.MANIFEST], "manifest")
    wrapper = decode(as_bytes(members[Envelope.AUTHENTICATION], "authentication wrapper"))
    digest_block, *blocks = as_list(wrapper, "authentication wrapper", least=1, most=1 + MAX_SIGNATURES)
    signed = as_bytes(digest_block, "manifest digest")
    digest = read_digest(decode(signed), "manifest digest")
    if digest != suit_digest(manifest):
        raise DigestError("the manifest is not the one that the envelope's digest names")
    text = as_bytes(members[Envelope.TEXT], "text") if Envelope.TEXT in members else None
    return OpenEnvelope(manifest, digest, signed, tuple(as_bytes(block, "signature") for block in blocks), text)


def sign_envelope(data: bytes, signer: Signer) -> bytes:
    """Return the envelope with one more signature.

    Raises:
        ConflictError: this key has signed already, or there is no room for more.
        CodecError, ManifestError, DigestError, SignatureError: nothing that deserves a signature.
    """
    opened = open_envelope(data)
    opened.read()
    own = {signer.public.kid: signer.public}
    if any(verify1(block, opened.signed, own, typ=None) for block in opened.blocks):
        raise ConflictError(f"key {signer.public.kid.hex()} has signed this envelope already")
    _check_room(opened)
    return _add(opened, sign1(signer, opened.signed, typ=None))


def sign_digest(digest: bytes, signer: Signer) -> bytes:
    """Return the signature of the manifest with this digest, for ``attach_signature``: made where the bundle is not.

    Raises:
        InvalidInputError: no digest of a manifest.
    """
    if len(digest) != DIGEST_BYTES:
        raise InvalidInputError("a manifest's digest has 32 bytes")
    return sign1(signer, encode([SHA256_ID, digest]), typ=None)


def attach_signature(data: bytes, block: bytes, *, keys: Mapping[Kid, PublicKey] | None = None) -> bytes:
    """Return the envelope with a signature that was made elsewhere.

    With ``keys`` it must be by one of them, and hold; without, only its form is looked at.

    Raises:
        ConflictError: that key has signed already, or there is no room for more.
        SignatureError: not a signature, not by one of ``keys``, or not of this envelope.
        CodecError, ManifestError, DigestError: nothing that deserves a signature.
    """
    opened = open_envelope(data)
    opened.read()
    kid = claimed_kid(block)
    if keys is not None and verify1(block, opened.signed, keys, typ=None) is None:
        raise SignatureError(f"key {kid.hex()} is none of those that may sign this")
    if kid in map(claimed_kid, opened.blocks):
        raise ConflictError(f"key {kid.hex()} has signed this envelope already")
    _check_room(opened)
    return _add(opened, block)


def verify_envelope(data: bytes, root: Root, *, status: Status | None = None) -> VerifiedEnvelope:
    """Return the release once enough distinct release keys of ``root`` have signed it, within their scope.

    With a ``status``, revoked keys do not count and revoked releases are refused. Floors are another question
    (``Status.check``): they depend on whose class is asked for.

    Raises:
        CodecError, DigestError: see ``open_envelope``.
        SignatureError: too few release keys, a signature that does not hold, or a component out of their scope.
        RevokedError: this release has been taken back.
        ManifestError: well signed, and outside of our profile all the same.
    """
    opened = open_envelope(data)
    release = root.roles[RoleName.RELEASE]
    kids = opened.kids(root) - (frozenset() if status is None else status.revoked_kids)
    if len(kids) < release.threshold:
        raise SignatureError(f"a release signed by {len(kids)} of our keys where {release.threshold} are needed")
    if status is not None:
        status.check_digest(opened.digest)
    manifest, description = opened.read()
    for component in manifest.components:
        for target in manifest.class_ids:
            if not release.covers(component.name, target):
                raise SignatureError(
                    f"the release keys may not sign component {component.name} for class {target.hex()}"
                )
    return VerifiedEnvelope(manifest, opened.digest, kids, description)


def sever_text(data: bytes) -> bytes:
    """Return the envelope without its description: what devices get.

    Raises:
        CodecError, DigestError: see ``open_envelope``.
    """
    return _join(replace(open_envelope(data), text=None))


def _check_room(opened: OpenEnvelope) -> None:
    if len(opened.blocks) == MAX_SIGNATURES:
        raise ConflictError(f"an envelope has at most {MAX_SIGNATURES} signatures")


def _add(opened: OpenEnvelope, block: bytes) -> bytes:
    return _join(replace(opened, blocks=(*opened.blocks, block)))


def _join(opened: OpenEnvelope) -> bytes:
    members: dict[Key, Value] = {
        Envelope.AUTHENTICATION: encode([opened.signed, *opened.blocks]),
        Envelope.MANIFEST: opened.manifest,
    }
    if opened.text is not None:
        members[Envelope.TEXT] = opened.text
    return encode(Tag(Envelope.TAG, members))


def _read_text(text: bytes) -> str:
    try:
        languages = as_map(decode(text), "text", labels=(TEXT_LANGUAGE,))
        descriptions = as_map(languages[TEXT_LANGUAGE], "text", labels=(Text.UPDATE_DESCRIPTION,))
        return as_text(descriptions[Text.UPDATE_DESCRIPTION], "description")
    except CodecError as exc:
        raise ManifestError(f"a description outside of our profile: {exc}") from exc
