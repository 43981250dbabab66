"""Releases for tests: keys that are the same in every run, and an author who signs whatever is asked of them."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from firmware_store.codec import Tag, decode, encode
from firmware_store.cose import sign1
from firmware_store.keys import Algorithm, SigningKey
from firmware_store.root import Role, RoleName, Root
from firmware_store.suit import Component, Fetch, OpenEnvelope, build_manifest, class_id, suit_digest, vendor_id

VECTORS = Path(__file__).parent / "vectors"


def named_key(name: str, algorithm: Algorithm = Algorithm.ED25519) -> SigningKey:
    """A key that anybody can compute from its name: never for anything but tests."""
    seed = sha256(b"tidegate test key " + name.encode()).digest()
    if algorithm is Algorithm.ED25519:
        return SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    return SigningKey(ec.derive_private_key(int.from_bytes(seed, "big") >> 1, ec.SECP256R1()))


SIGNERS: dict[RoleName, tuple[SigningKey, ...]] = {
    RoleName.ROOT: (named_key("root-1"), named_key("root-2", Algorithm.ESP256)),
    RoleName.RELEASE: (named_key("release-1"), named_key("release-2", Algorithm.ESP256)),
    RoleName.STATUS: (named_key("status-1"),),
    RoleName.DIRECTIVE: (named_key("directive-1"),),
    RoleName.SESSION: (named_key("session-1"),),
}
RELEASE = SIGNERS[RoleName.RELEASE]
STRANGER = named_key("stranger")

ROOT = Root(
    version=1,
    issued=1_800_000_000,
    expires=1_831_536_000,
    fleet=b"fleet of vectors",
    keys={key.public.kid: key.public for keys in SIGNERS.values() for key in keys},
    roles={role: Role(len(keys), tuple(sorted(key.public.kid for key in keys))) for role, keys in SIGNERS.items()},
    dev=True,
)

VENDOR = vendor_id("example.com")
CLASS_1 = class_id(VENDOR, "tide-gauge|r1")
CLASS_2 = class_id(VENDOR, "tide-gauge|r2")
APP = Component("app", sha256(b"app").digest(), 40_000, Fetch(sha256(b"app index").digest(), 42, 3))
ROOTFS = Component("rootfs", sha256(b"rootfs").digest(), 16_384, Fetch(sha256(b"rootfs index").digest(), 41, 1))


def manifest(
    components: Sequence[Component] = (APP,),
    classes: Sequence[bytes] = (CLASS_1,),
    sequence_number: int = 7,
    *,
    vendor: bytes = VENDOR,
) -> bytes:
    return build_manifest(
        sequence_number=sequence_number,
        version=(1, 2, 0),
        vendor_id=vendor,
        class_ids=classes,
        components=components,
    )


def envelope(content: bytes, signers: Sequence[SigningKey] = RELEASE, **further: Any) -> bytes:
    """Sign any bytes as a manifest; ``further`` members go beside it, as ``member_23=bytes``."""
    signed = encode([-16, suit_digest(content)])
    blocks = [sign1(signer, signed, typ=None) for signer in signers]
    members = {int(name.removeprefix("member_")): value for name, value in further.items()}
    return encode(Tag(107, {2: encode([signed, *blocks]), 3: content, **members}))


# draft-ietf-suit-manifest-37: the key of its examples.
DRAFT_KEY = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEhJaBGq4LqqvSYVcYnuzaJr6qi/Eb
bz/m4rVlnIXbwK07HypLbAmBMcCjbazR14vTgdzfsJwFLbM5kdtzOLSolg==
-----END PUBLIC KEY-----
"""


def check_draft_signature(opened: OpenEnvelope) -> None:
    """Verify an example of the draft: ES256 (-7) and no key id, which the product does not accept."""
    (block,) = opened.blocks
    protected, unprotected, payload, signature = decode(block).value
    assert (decode(protected), unprotected, payload) == ({1: -7}, {}, None)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key = serialization.load_pem_public_key(DRAFT_KEY)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    message = encode(["Signature1", protected, b"", opened.signed])
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


def unpack_manifest(content: bytes) -> dict[Any, Any]:
    """Decode a manifest and the byte strings in it, so that a test can change anything."""
    members: dict[Any, Any] = dict(decode(content))
    for label in (3, 6, 7, 9, 20):
        members[label] = decode(members[label])
    members[3][4] = decode(members[3][4])
    return members


def pack_manifest(members: dict[Any, Any]) -> bytes:
    """Encode what ``unpack_manifest`` decoded; what is bytes already stays as it is."""
    packed = dict(members)
    common = packed.get(3)
    if isinstance(common, dict) and not isinstance(common.get(4), bytes):
        packed[3] = {**common, 4: encode(common[4])} if 4 in common else common
    return encode(
        {
            label: encode(value) if label in (3, 6, 7, 9, 20) and not isinstance(value, bytes) else value
            for label, value in packed.items()
        }
    )


def read_vector(name: str) -> bytes:
    """Return the bytes of a file of hexadecimal digits; lines that begin with # tell where they come from."""
    lines = (VECTORS / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))
