"""COSE_Sign1: what we write, and every near miss that other libraries have accepted."""

import hmac
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from firmware_store.codec import Encodable, Tag, decode, encode
from firmware_store.cose import sign1, verify1
from firmware_store.errors import SignatureError
from firmware_store.keys import Algorithm, Kid, PublicKey, SigningKey

PAYLOAD = b"the digest of a manifest"
TYP = "application/tidegate-directive+cbor"
GOLDEN_BLOCK = (
    "d284583ba301320450866eefbd6718c8846cd7ddfe43fc74ab1078236170706c69636174696f6e2f74696465676174652d64"
    "69726563746976652b63626f72a0f65840c300f8b20984047432072795a71d224a200d4840a053a535ec329b5d8a9109da33"
    "2d681ccb69d25432edbeb92e81a3f4f3aa3099d1fe119a5731d3513bbf9208"
)


@pytest.fixture(params=list(Algorithm), ids=lambda algorithm: algorithm.name)
def key(request: pytest.FixtureRequest) -> SigningKey:
    return SigningKey.generate(request.param)


def keys_of(*keys: SigningKey) -> dict[Kid, PublicKey]:
    return {key.public.kid: key.public for key in keys}


def block(
    key: SigningKey,
    *,
    header: dict[int, Encodable] | bytes | None = None,
    unprotected: Encodable = None,
    payload: Encodable = None,
    signature: bytes | None = None,
    tag: int = 18,
    context: str = "Signature1",
) -> bytes:
    """A block as a hostile holder of ``key`` would make it: everything wrong in it is signed."""
    if header is None:
        header = {1: int(key.public.algorithm), 4: bytes(key.public.kid)}
    protected = header if isinstance(header, bytes) else encode(header)
    if signature is None:
        signature = key.sign(encode([context, protected, b"", PAYLOAD]))
    return encode(Tag(tag, [protected, {} if unprotected is None else unprotected, payload, signature]))


@pytest.mark.parametrize("typ", [None, TYP])
def test_a_signature_names_its_key(key: SigningKey, typ: str | None) -> None:
    signed = sign1(key, PAYLOAD, typ=typ)

    assert key.public.kid == verify1(signed, PAYLOAD, keys_of(key), typ=typ)


def test_the_block_is_the_one_of_rfc_9052_section_4_2(key: SigningKey) -> None:
    signed = decode(sign1(key, PAYLOAD, typ=TYP))

    assert isinstance(signed, Tag)
    protected, unprotected, payload, signature = signed.value
    assert (signed.number, unprotected, payload, len(signature)) == (18, {}, None, 64)
    assert {1: int(key.public.algorithm), 4: key.public.kid, 16: TYP} == decode(protected)


def test_an_ed25519_block_never_changes() -> None:
    """A golden vector: the key of RFC 8032 section 7.1, test 1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(seed))

    signed = sign1(key, PAYLOAD, typ=TYP)

    assert signed.hex() == GOLDEN_BLOCK


def test_the_builder_of_hostile_blocks_can_make_a_good_one(key: SigningKey) -> None:
    assert key.public.kid == verify1(block(key), PAYLOAD, keys_of(key), typ=None)


def test_an_unknown_key_is_no_error_and_no_signature(key: SigningKey) -> None:
    other = SigningKey.generate(Algorithm.ED25519)

    assert verify1(sign1(key, PAYLOAD, typ=None), PAYLOAD, keys_of(other), typ=None) is None


def test_another_payload_is_refused(key: SigningKey) -> None:
    with pytest.raises(SignatureError, match="does not hold"):
        verify1(sign1(key, PAYLOAD, typ=None), PAYLOAD + b".", keys_of(key), typ=None)


@pytest.mark.parametrize(("signed_as", "expected"), [(None, TYP), (TYP, None), ("application/tidegate-root+cbor", TYP)])
def test_a_signature_for_another_kind_of_document_is_refused(
    key: SigningKey, signed_as: str | None, expected: str | None
) -> None:
    with pytest.raises(SignatureError):
        verify1(sign1(key, PAYLOAD, typ=signed_as), PAYLOAD, keys_of(key), typ=expected)


HOSTILE: dict[str, Callable[[SigningKey], bytes]] = {
    "no alg": lambda key: block(key, header={4: key.public.kid}),
    "no kid": lambda key: block(key, header={1: int(key.public.algorithm)}),
    "an empty header": lambda key: block(key, header=b""),
    "alg -7, registered as -9": lambda key: block(key, header={1: -7, 4: key.public.kid}),
    "alg -8, registered as -19": lambda key: block(key, header={1: -8, 4: key.public.kid}),
    "the other algorithm": lambda key: block(key, header={1: -28 - key.public.algorithm, 4: key.public.kid}),
    "alg HMAC": lambda key: block(key, header={1: 5, 4: key.public.kid}),
    "alg as text": lambda key: block(key, header={1: "ESP256", 4: key.public.kid}),
    "alg only unprotected": lambda key: block(
        key, header={4: key.public.kid}, unprotected={1: int(key.public.algorithm)}
    ),
    "alg also unprotected": lambda key: block(key, unprotected={1: int(key.public.algorithm)}),
    "kid unprotected": lambda key: block(
        key, header={1: int(key.public.algorithm)}, unprotected={4: bytes(key.public.kid)}
    ),
    "a critical header nobody knows": lambda key: block(
        key, header={1: int(key.public.algorithm), 2: [99], 4: key.public.kid}
    ),
    "any further header": lambda key: block(key, header={1: int(key.public.algorithm), 4: key.public.kid, 3: 0}),
    "a typ that is not text": lambda key: block(key, header={1: int(key.public.algorithm), 4: key.public.kid, 16: 1}),
    "a short kid": lambda key: block(key, header={1: int(key.public.algorithm), 4: key.public.kid[:8]}),
    "a kid as text": lambda key: block(key, header={1: int(key.public.algorithm), 4: key.public.kid.hex()}),
    "a header with a key twice": lambda key: block(
        key, header=b"\xa3" + 2 * (b"\x01" + encode(int(key.public.algorithm))) + b"\x04" + encode(key.public.kid)
    ),
    "a header of indefinite length": lambda key: block(
        key, header=b"\xbf" + encode({1: int(key.public.algorithm), 4: key.public.kid})[1:] + b"\xff"
    ),
    "a byte after the header": lambda key: block(
        key, header=encode({1: int(key.public.algorithm), 4: key.public.kid}) + b"\x00"
    ),
    "a header that is a list": lambda key: block(key, header=encode([1, int(key.public.algorithm)])),
    "an attached payload": lambda key: block(key, payload=PAYLOAD),
    "unprotected as null": lambda key: block(key, unprotected=[]),
    "tag 98 (COSE_Sign)": lambda key: block(key, tag=98, context="Signature"),
    "tag 17 (COSE_Mac0)": lambda key: block(key, tag=17, context="MAC0"),
    "no tag": lambda key: block(key)[1:],
    "a tag around the tag": lambda key: encode(Tag(18, decode(block(key)))),
    "three elements": lambda key: encode(Tag(18, [b"", {}, None])),
    "five elements": lambda key: encode(Tag(18, [*_elements(key), 0])),
    "a trailing byte": lambda key: block(key) + b"\x00",
    "the context of another structure": lambda key: block(key, context="Signature"),
    "no bytes at all": lambda key: b"",
    "a signature of no bytes": lambda key: block(key, signature=b""),
    "a signature of 63 bytes": lambda key: block(key, signature=bytes(63)),
    "a signature of 65 bytes": lambda key: block(key, signature=bytes(65)),
    "a signature of zeros": lambda key: block(key, signature=bytes(64)),
    "a signature as text": lambda key: encode(Tag(18, [*_elements(key)[:3], "x" * 64])),
    "a block larger than any of ours": lambda key: block(
        key, header={1: int(key.public.algorithm), 4: key.public.kid, 16: "x" * 500}
    ),
    "an HMAC with the public key as its secret": lambda key: block(
        key,
        header={1: 5, 4: key.public.kid},
        signature=hmac.digest(key.public.material, PAYLOAD, "sha256") * 2,
    ),
}


def _elements(key: SigningKey) -> list[Encodable]:
    tagged = decode(block(key))
    assert isinstance(tagged, Tag)
    return tagged.value


@pytest.mark.parametrize("build", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_known_key_does_not_excuse(build: Callable[[SigningKey], bytes], key: SigningKey) -> None:
    with pytest.raises(SignatureError):
        verify1(build(key), PAYLOAD, keys_of(key), typ=None)


def test_a_key_is_only_used_with_its_own_algorithm() -> None:
    """The same P-256 point cannot be talked into another algorithm: there is no key object for it."""
    private = ec.generate_private_key(ec.SECP256R1())
    key = SigningKey(private)
    relabelled = block(key, header={1: int(Algorithm.ED25519), 4: key.public.kid})

    with pytest.raises(SignatureError, match="algorithm -19 with a key for ESP256"):
        verify1(relabelled, PAYLOAD, keys_of(key), typ=None)
