"""cwt, an implementation of COSE that shares no code with ours, verifies our signatures, and we verify its."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from firmware_store.codec import decode, encode
from firmware_store.cose import sign1, verify1
from firmware_store.documents import Kind, split
from firmware_store.errors import SignatureError
from firmware_store.keys import Algorithm, Kid, PublicKey, SigningKey
from firmware_store.root import RoleName
from firmware_store.suit import attach_signature, build_envelope, open_envelope, verify_envelope
from tests.releases import DRAFT_KEY, RELEASE, ROOT, manifest, named_key, read_vector
from tests.signed_documents import SEALED

pytestmark = pytest.mark.interop

PEER = Path(__file__).with_name("cwt_peer.py")
PAYLOAD = b"the digest of a manifest"
KEYS = [named_key("interop ed25519"), named_key("interop esp256", Algorithm.ESP256)]
NAMES = {Algorithm.ED25519: "Ed25519", Algorithm.ESP256: "ESP256"}
TYPES = [None, Kind.DIRECTIVE.media_type]


class Peer:
    def __init__(self, python: Path) -> None:
        self._python = python

    def verify(self, *signatures: tuple[PublicKey, bytes, bytes]) -> list[bool]:
        """What cwt says of (key, block, payload); it gets the COSE_Key of our root documents, with a kid to find it."""
        orders = []
        for key, block, payload in signatures:
            cose_key = encode({**key.to_cose(), 2: bytes(key.kid)})
            orders.append({"do": "verify", "key": cose_key.hex(), "block": block.hex(), "payload": payload.hex()})
        return [answer["ok"] for answer in self.ask(orders)]

    def sign(self, key: SigningKey, payload: bytes, *, typ: str | None) -> bytes:
        order = {
            "do": "sign",
            "pem": key.to_pem(None).decode(),
            "alg": NAMES[key.public.algorithm],
            "kid": key.public.kid.hex(),
            "typ": typ,
            "payload": payload.hex(),
        }
        return bytes.fromhex(self.ask([order])[0]["block"])

    def ask(self, orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
        run = subprocess.run(
            [self._python, "-I", PEER],
            input=json.dumps(orders),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        answers: list[dict[str, Any]] = json.loads(run.stdout)
        return answers


@pytest.fixture(scope="module")
def peer(cwt_python: Path) -> Peer:
    return Peer(cwt_python)


def keys_of(*keys: SigningKey) -> dict[Kid, PublicKey]:
    return {key.public.kid: key.public for key in keys}


@pytest.mark.parametrize("key", KEYS, ids=NAMES.values())
@pytest.mark.parametrize("typ", TYPES, ids=["without typ", "with typ"])
def test_cwt_verifies_our_signatures_and_no_others(peer: Peer, key: SigningKey, typ: str | None) -> None:
    block = sign1(key, PAYLOAD, typ=typ)
    other = named_key("somebody else", key.public.algorithm)

    verdicts = peer.verify(
        (key.public, block, PAYLOAD),
        (key.public, block, PAYLOAD + b"!"),
        (key.public, block[:-1] + bytes([block[-1] ^ 1]), PAYLOAD),
        (other.public, block, PAYLOAD),
    )

    assert verdicts == [True, False, False, False]


@pytest.mark.parametrize("key", KEYS, ids=NAMES.values())
@pytest.mark.parametrize("typ", TYPES, ids=["without typ", "with typ"])
def test_we_verify_the_signatures_of_cwt_and_no_others(peer: Peer, key: SigningKey, typ: str | None) -> None:
    block = peer.sign(key, PAYLOAD, typ=typ)

    assert verify1(block, PAYLOAD, keys_of(key), typ=typ) == key.public.kid
    assert verify1(block, PAYLOAD, {}, typ=typ) is None
    with pytest.raises(SignatureError):
        verify1(block, PAYLOAD + b"!", keys_of(key), typ=typ)
    with pytest.raises(SignatureError):
        verify1(block, PAYLOAD, keys_of(key), typ="application/tidegate-root+cbor")


@pytest.mark.parametrize("name", ["envelope_one_component", "envelope_two_components", "envelope_slots"])
def test_cwt_verifies_the_authentication_blocks_of_our_envelopes(peer: Peer, name: str) -> None:
    opened = open_envelope(read_vector(name))

    verdicts = peer.verify(
        *((key.public, block, opened.signed) for key, block in zip(RELEASE, opened.blocks, strict=True))
    )

    assert verdicts == [True, True]


@pytest.mark.parametrize("kind", SEALED)
def test_cwt_verifies_the_signatures_of_our_documents(peer: Peer, kind: Kind) -> None:
    payload, blocks = split(SEALED[kind])
    kids = [decode(decode(block).value[0])[4] for block in blocks]

    assert all(peer.verify(*((ROOT.keys[kid], block, payload) for kid, block in zip(kids, blocks, strict=True))))


def test_a_release_that_cwt_signed_is_complete(peer: Peer) -> None:
    envelope = build_envelope(manifest(), description="signed elsewhere")
    keys = ROOT.keys_for(RoleName.RELEASE)

    for key in RELEASE:
        block = peer.sign(key, open_envelope(envelope).signed, typ=None)
        envelope = attach_signature(envelope, block, keys=keys)

    assert verify_envelope(envelope, ROOT).kids == set(keys)


@pytest.mark.parametrize("number", [0, 3, 5])
def test_cwt_reads_the_examples_of_the_draft_as_we_do(peer: Peer, number: int) -> None:
    """What is signed is the content of the digest's byte string: the second of the draft's two traps."""
    opened = open_envelope(read_vector(f"draft_example_{number}"))
    order = {"do": "verify", "pem": DRAFT_KEY.decode(), "alg": "ES256", "block": opened.blocks[0].hex()}

    answers = peer.ask([{**order, "payload": payload.hex()} for payload in (opened.signed, opened.manifest)])

    assert [answer["ok"] for answer in answers] == [True, False]
