"""Hostile bytes at every door of the trust layer: each is refused by a typed error, however good its signatures are."""

import hmac
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from firmware_store.codec import Encodable, Tag, decode, encode
from firmware_store.documents import Kind
from firmware_store.errors import InvalidInputError, SignatureError, TrustError
from firmware_store.keys import Algorithm, SigningKey
from firmware_store.release_record import open_release_record
from firmware_store.root import RoleName, open_root
from firmware_store.root_walk import verify_successor
from firmware_store.status import open_status
from firmware_store.suit import suit_digest, verify_envelope
from server.protocol.orders import directive_map, read_directive, read_welcome, welcome_map
from tests.releases import ROOT, SIGNERS, manifest, named_key
from tests.signed_documents import DIRECTIVE, NEXT_ROOT, RECORD, RELEASED, STATUS, WELCOME

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MANIFEST = manifest()


@dataclass(frozen=True)
class Door:
    """A kind of signed bytes: a good payload, who signs it, and how it is opened."""

    payload: bytes
    signers: tuple[SigningKey, ...]
    kind: Kind | None
    enter: Callable[[bytes], object]

    @property
    def typ(self) -> str | None:
        return None if self.kind is None else self.kind.media_type

    def signed(self, payload: bytes) -> bytes:
        """What the signatures are of: the payload, or in an envelope the digest of the manifest."""
        return payload if self.kind is not None else encode([-16, suit_digest(payload)])

    def seal(self, payload: bytes, blocks: Sequence[bytes]) -> bytes:
        """Put any payload and any blocks together, as whoever owns the server can."""
        if self.kind is not None:
            return encode([payload, [decode(block) for block in blocks]])
        return encode(Tag(107, {2: encode([self.signed(payload), *blocks]), 3: payload}))

    def seal_well(self, payload: bytes) -> bytes:
        return self.seal(payload, [forge(key, self.signed(payload), self.typ) for key in self.signers])


def forge(
    key: SigningKey,
    message: bytes,
    typ: str | None,
    *,
    header: dict[int, Encodable] | None = None,
    unprotected: dict[int, Encodable] | None = None,
    attached: bytes | None = None,
    signature: bytes | None = None,
    tag: int = 18,
    context: str = "Signature1",
) -> bytes:
    """A signature as a hostile holder of ``key`` makes it: whatever is wrong in it is signed, unless given."""
    protected = {1: int(key.public.algorithm), 4: bytes(key.public.kid)} if header is None else header
    if typ is not None and header is None:
        protected = {**protected, 16: typ}
    encoded = encode(protected)
    if signature is None:
        signature = key.sign(encode([context, encoded, b"", message]))
    return encode(Tag(tag, [encoded, unprotected or {}, attached, signature]))


DOORS = {
    "root": Door(encode(ROOT.payload()), SIGNERS[RoleName.ROOT], Kind.ROOT, lambda data: open_root(data, now=None)),
    "next root": Door(
        encode(NEXT_ROOT.payload()), SIGNERS[RoleName.ROOT], Kind.ROOT, lambda data: verify_successor(ROOT, data)
    ),
    "status": Door(
        encode(STATUS.payload()), SIGNERS[RoleName.STATUS], Kind.STATUS, lambda data: open_status(ROOT, data)
    ),
    "directive": Door(
        encode(directive_map(DIRECTIVE)),
        SIGNERS[RoleName.DIRECTIVE],
        Kind.DIRECTIVE,
        lambda data: read_directive(ROOT.unseal(Kind.DIRECTIVE, data).value),
    ),
    "welcome": Door(
        encode(welcome_map(WELCOME)),
        SIGNERS[RoleName.SESSION],
        Kind.WELCOME,
        lambda data: read_welcome(ROOT.unseal(Kind.WELCOME, data).value),
    ),
    "release record": Door(
        encode(RECORD.payload()),
        SIGNERS[RoleName.RELEASE],
        Kind.RELEASE_RECORD,
        lambda data: open_release_record(ROOT, data, manifest_digest=RELEASED.digest),
    ),
    "envelope": Door(MANIFEST, SIGNERS[RoleName.RELEASE], None, lambda data: verify_envelope(data, ROOT)),
}
doors = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())


@doors
def test_the_good_document_enters(door: Door) -> None:
    door.enter(door.seal_well(door.payload))


# --- bytes that carry good signatures -----------------------------------------------------------------------------


def pairs(payload: bytes) -> list[bytes]:
    """The encoded pairs of a map, in their order."""
    members: Any = decode(payload)
    return [encode(label) + encode(value) for label, value in members.items()]


def raw_map(parts: Sequence[bytes]) -> bytes:
    assert len(parts) < 24
    return bytes([0xA0 | len(parts)]) + b"".join(parts)


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "depth bomb": lambda _: b"\x81" * 5000 + b"\x01",
    "depth bomb of tags": lambda _: b"\xd2" * 5000 + b"\x01",
    "duplicate key": lambda payload: raw_map([pairs(payload)[0], *pairs(payload)]),
    "duplicate key at the end": lambda payload: raw_map([*pairs(payload), pairs(payload)[-1]]),
    "indefinite length": lambda payload: b"\xbf" + b"".join(pairs(payload)) + b"\xff",
    "non-minimal integer": lambda payload: payload[:1] + b"\x18" + payload[1:],
    "non-minimal length": lambda payload: bytes([0xB8, payload[0] & 0x1F]) + payload[1:],
    "keys out of order": lambda payload: raw_map(pairs(payload)[::-1]),
    "trailing bytes": lambda payload: payload + b"\x00",
    "a second document behind it": lambda payload: payload + payload,
    "one byte short": lambda payload: payload[:-1],
    "nothing": lambda _: b"",
    "2^64 items": lambda _: b"\x9b" + b"\xff" * 8,
    "2^64 pairs": lambda _: b"\xbb" + b"\xff" * 8,
    "2^64 bytes": lambda _: b"\x5b" + b"\xff" * 8,
    "4 GiB of text": lambda _: b"\x7a" + b"\xff" * 4,
    "a float": lambda payload: raw_map([*pairs(payload)[:-1], pairs(payload)[-1][:1] + b"\xf9\x3c\x00"]),
    "a list": lambda payload: encode([decode(payload)]),
    "an unknown member": lambda payload: raw_map([*pairs(payload), b"\x17\x00"]),
    "an unknown member beyond 23": lambda payload: raw_map([*pairs(payload), b"\x18\x18\x00"]),
    "a text key": lambda payload: raw_map([*pairs(payload), b"\x61x\x00"]),
}


@doors
@pytest.mark.parametrize("damage", MALFORMED.values(), ids=MALFORMED.keys())
def test_good_signatures_do_not_excuse_malformed_bytes(door: Door, damage: Callable[[bytes], bytes]) -> None:
    malformed = damage(door.payload)

    with pytest.raises((InvalidInputError, TrustError)):
        door.enter(door.seal_well(malformed))
    assert malformed != door.payload


@doors
@pytest.mark.parametrize(
    "data",
    [
        b"\x81" * 5000 + b"\x01",
        b"\x9b" + b"\xff" * 8,
        b"\x5b" + b"\xff" * 8,
        b"\x82\x5a\xff\xff\xff\xff",
        bytes(1 << 20),
    ],
    ids=["depth bomb", "2^64 items", "2^64 bytes", "a payload of 4 GiB", "a mebibyte"],
)
def test_a_bomb_costs_neither_time_nor_memory(door: Door, data: bytes) -> None:
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises((InvalidInputError, TrustError)):
        door.enter(data)
    took = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert took < 0.5
    assert peak < 1 << 20


# --- signatures that are none -------------------------------------------------------------------------------------


def signing(**changes: Any) -> Callable[[Door, SigningKey, bytes], bytes]:
    return lambda door, key, message: forge(key, message, door.typ, **changes)


def heading(change: Callable[[Door, SigningKey], dict[int, Any]], **further: Any) -> Callable[..., bytes]:
    return lambda door, key, message: forge(key, message, door.typ, header=change(door, key), **further)


def good_header(door: Door, key: SigningKey) -> dict[int, Any]:
    header: dict[int, Any] = {1: int(key.public.algorithm), 4: bytes(key.public.kid)}
    return header if door.typ is None else {**header, 16: door.typ}


def without(label: int) -> Callable[[Door, SigningKey], dict[int, Any]]:
    return lambda door, key: {name: value for name, value in good_header(door, key).items() if name != label}


def with_member(label: int, value: Any) -> Callable[[Door, SigningKey], dict[int, Any]]:
    return lambda door, key: {**good_header(door, key), label: value}


def other_algorithm(door: Door, key: SigningKey) -> dict[int, Any]:
    other = Algorithm.ESP256 if key.public.algorithm is Algorithm.ED25519 else Algorithm.ED25519
    return {**good_header(door, key), 1: int(other)}


def hmac_with_the_public_key(tag: int) -> Callable[[Door, SigningKey, bytes], bytes]:
    def build(door: Door, key: SigningKey, message: bytes) -> bytes:
        header = {**good_header(door, key), 1: 5}
        context = "MAC0" if tag == 17 else "Signature1"
        tagged = encode([context, encode(header), b"", message])
        return encode(Tag(tag, [encode(header), {}, None, hmac.digest(key.public.material, tagged, "sha256")]))

    return build


def in_der(door: Door, key: SigningKey, message: bytes) -> bytes:
    whole = decode(forge(key, message, door.typ))
    raw = whole.value[3]
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    return encode(Tag(18, [*whole.value[:3], der]))


def cut(size: int) -> Callable[[Door, SigningKey, bytes], bytes]:
    def build(door: Door, key: SigningKey, message: bytes) -> bytes:
        whole = decode(forge(key, message, door.typ))
        return encode(Tag(18, [*whole.value[:3], (whole.value[3] + b"\x00")[:size]]))

    return build


NO_SIGNATURES: dict[str, Callable[[Door, SigningKey, bytes], bytes]] = {
    "wrong alg": heading(other_algorithm),
    "ES256, -7": heading(with_member(1, -7)),
    "EdDSA, -8": heading(with_member(1, -8)),
    "alg as text": heading(with_member(1, "ESP256")),
    "missing alg": heading(without(1)),
    "alg only unprotected": lambda door, key, message: forge(
        key, message, door.typ, header=without(1)(door, key), unprotected={1: int(key.public.algorithm)}
    ),
    "kid only unprotected": lambda door, key, message: forge(
        key, message, door.typ, header=without(4)(door, key), unprotected={4: bytes(key.public.kid)}
    ),
    "an unprotected member": signing(unprotected={33: b"certificate"}),
    "HMAC confusion, tag 17": hmac_with_the_public_key(17),
    "HMAC confusion, tag 18": hmac_with_the_public_key(18),
    "0 bytes": cut(0),
    "63 bytes": cut(63),
    "65 bytes": cut(65),
    "DER": in_der,
    "all zero": signing(signature=bytes(64)),
    "r = s = n": signing(signature=P256_ORDER.to_bytes(32, "big") * 2),
    "unknown crit": heading(with_member(2, [99])),
    "a content type": heading(with_member(3, 0)),
    "wrong typ": heading(with_member(16, "application/tidegate-other+cbor")),
    "typ as a number": heading(with_member(16, 0)),
    "tag 98": signing(tag=98),
    "tag 17": signing(tag=17),
    "an attached payload": lambda door, key, message: forge(key, message, door.typ, attached=message),
    "an empty attached payload": signing(attached=b""),
    "for another context": signing(context="Signature"),
    "another key's kid": heading(with_member(4, bytes(named_key("stranger").public.kid))),
    "a second kid for the key": heading(with_member(4, b"another-id-of-it")),
    "a kid of 17 bytes": lambda door, key, message: forge(
        key, message, door.typ, header={**good_header(door, key), 4: bytes(key.public.kid) + b"\x00"}
    ),
}


@doors
@pytest.mark.parametrize("build", NO_SIGNATURES.values(), ids=NO_SIGNATURES.keys())
def test_what_is_no_signature_is_refused(door: Door, build: Callable[[Door, SigningKey, bytes], bytes]) -> None:
    message = door.signed(door.payload)

    with pytest.raises((SignatureError, InvalidInputError)):
        door.enter(door.seal(door.payload, [build(door, key, message) for key in door.signers]))


@doors
def test_no_signature_at_all_is_not_enough(door: Door) -> None:
    with pytest.raises((SignatureError, InvalidInputError)):
        door.enter(door.seal(door.payload, []))


@doors
def test_a_signature_of_other_bytes_is_refused(door: Door) -> None:
    blocks = [forge(key, b"other bytes", door.typ) for key in door.signers]

    with pytest.raises(SignatureError):
        door.enter(door.seal(door.payload, blocks))


@doors
def test_the_same_key_twice_is_one_signature(door: Door) -> None:
    needed = len(door.signers)
    blocks = [forge(door.signers[0], door.signed(door.payload), door.typ)] * 2

    if needed == 1:
        door.enter(door.seal(door.payload, blocks))
    else:
        with pytest.raises(SignatureError, match="signed by 1 of our keys where 2"):
            door.enter(door.seal(door.payload, blocks))


@doors
@pytest.mark.parametrize("role", list(RoleName))
def test_a_key_of_another_role_does_not_count(door: Door, role: RoleName) -> None:
    if SIGNERS[role] == door.signers:
        door.enter(door.seal_well(door.payload))
        return

    with pytest.raises(SignatureError):
        door.enter(replace(door, signers=SIGNERS[role]).seal_well(door.payload))


@doors
@pytest.mark.parametrize("kind", [*Kind, None], ids=str)
def test_a_signature_is_for_one_kind_of_document(door: Door, kind: Kind | None) -> None:
    if kind is door.kind:
        door.enter(door.seal_well(door.payload))
        return
    typ = None if kind is None else kind.media_type
    blocks = [forge(key, door.signed(door.payload), typ) for key in door.signers]

    with pytest.raises(SignatureError):
        door.enter(door.seal(door.payload, blocks))


@doors
def test_seventeen_signatures_are_too_many(door: Door) -> None:
    blocks = [forge(named_key("stranger"), door.signed(door.payload), door.typ)] * 16
    blocks += [forge(key, door.signed(door.payload), door.typ) for key in door.signers]

    with pytest.raises((InvalidInputError, SignatureError)):
        door.enter(door.seal(door.payload, blocks))
