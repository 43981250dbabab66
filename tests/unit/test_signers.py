"""Signers behind a command: real programs that sign, lie, stall and babble."""

import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from firmware_store.documents import Kind, seal
from firmware_store.errors import ConfigurationError, SignerUnavailableError, WeakKeyError
from firmware_store.keys import Algorithm, PublicKey, SigningKey, load_public_key, save_key
from firmware_store.root import RoleName
from firmware_store.signers import CommandSigner, load_signer
from tests.releases import ROOT, SIGNERS, STRANGER, named_key

KEY = SIGNERS[RoleName.DIRECTIVE][0]
ELLIPTIC = named_key("elliptic", Algorithm.ESP256)

# What somebody would put around the tool of their token.
SIGN = """
import sys
from firmware_store.keys import SigningKey
key = SigningKey.from_pem(open(sys.argv[1], "rb").read())
sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read()))
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def signer(tmp_path: Path, key: SigningKey, *, says: SigningKey | None = None) -> CommandSigner:
    save_key(tmp_path / "key.pem", key, None, dev=True)
    return CommandSigner((says or key).public, [sys.executable, "-c", SIGN, str(tmp_path / "key.pem")])


def python(program: str, *, timeout_s: float = 30) -> CommandSigner:
    return CommandSigner(KEY.public, [sys.executable, "-S", "-c", program], timeout_s=timeout_s)


@pytest.mark.parametrize("key", [KEY, ELLIPTIC], ids=["ed25519", "esp256"])
def test_a_command_signs_as_its_key_does(tmp_path: Path, key: SigningKey) -> None:
    message = b"m" * 100_000  # more than a pipe holds

    signature = signer(tmp_path, key).sign(message)

    assert key.public.verify(signature, message)


def test_a_command_signs_documents(tmp_path: Path) -> None:
    document = seal(Kind.DIRECTIVE, {0: 1}, [signer(tmp_path, KEY)])

    assert ROOT.unseal(Kind.DIRECTIVE, document).value == {0: 1}


def test_a_signature_by_another_key_than_promised_is_noticed_at_once(tmp_path: Path) -> None:
    with pytest.raises(SignerUnavailableError, match="no signature by key"):
        signer(tmp_path, STRANGER, says=KEY).sign(b"message")


BROKEN = {
    "nothing": ("", "no signature"),
    "too little": ("print(end='x' * 63)", "no signature"),
    "one byte more": ("print(end='x' * 65)", "more than a signature"),
    "no end": ("while True: print('x' * 999)", "more than a signature"),
    "zeros": ("import sys; sys.stdout.buffer.write(bytes(64))", "no signature"),
    "a failure": ("import sys; sys.stdin.read(); sys.exit(3)", "failed with code 3"),
}


@pytest.mark.parametrize(("program", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_command_that_returns_anything_else_signs_nothing(program: str, said: str) -> None:
    with pytest.raises(SignerUnavailableError, match=said):
        python(program).sign(b"message")


@pytest.mark.parametrize(
    "program",
    ["import time; time.sleep(60)", "import os, time; os.close(1); time.sleep(60)"],
    ids=["silent", "without an exit"],
)
def test_a_command_that_stalls_is_stopped(program: str) -> None:
    start = time.monotonic()

    with pytest.raises(SignerUnavailableError, match=r"took more than 0\.3 s"):
        python(program, timeout_s=0.3).sign(b"message")

    assert time.monotonic() - start < 10


def test_a_program_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SignerUnavailableError, match="cannot run"):
        CommandSigner(KEY.public, [str(tmp_path / "absent")]).sign(b"message")
    with pytest.raises(ConfigurationError, match="needs a program"):
        CommandSigner(KEY.public, [])


def test_a_setting_names_a_file_or_a_command(tmp_path: Path) -> None:
    key, public = tmp_path / "the key.pem", tmp_path / "the key.pub.pem"
    save_key(key, KEY, b"ebb")
    public.write_bytes(KEY.public.to_pem())
    save_key(tmp_path / "plain.pem", KEY, None, dev=True)
    command = shlex.join([str(public), sys.executable, "-c", SIGN, str(tmp_path / "plain.pem")])

    for spec in (str(key), f"file:{key}", f"command:{command}"):
        loaded = load_signer(spec, passphrase=b"ebb")

        assert loaded.public == KEY.public
        assert KEY.public.verify(loaded.sign(b"message"), b"message")


@pytest.mark.parametrize(
    "spec", ["", "command:", "command:'", "command:/absent", "file:", "/absent", "command:/absent x"]
)
def test_a_setting_that_names_nothing_is_refused(spec: str) -> None:
    with pytest.raises(ConfigurationError):
        load_signer(spec)


def test_a_command_without_a_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_bytes(KEY.public.to_pem())

    with pytest.raises(ConfigurationError, match="needs a program"):
        load_signer(f"command:{tmp_path / 'public.pem'}")


def test_a_shells_syntax_is_only_text_to_a_command(tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_bytes(KEY.public.to_pem())

    with pytest.raises(SignerUnavailableError):
        load_signer(f"command:{tmp_path / 'public.pem'} echo x; touch {tmp_path / 'made'}").sign(b"message")

    assert not (tmp_path / "made").exists()


# --- public keys as files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, ELLIPTIC], ids=["ed25519", "esp256"])
def test_a_public_key_survives_its_file(tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / "public.pem").write_bytes(key.public.to_pem())

    assert load_public_key(tmp_path / "public.pem") == key.public


def test_a_private_key_is_no_public_one(tmp_path: Path) -> None:
    for data in (KEY.to_pem(None), b"", b"-----BEGIN PUBLIC KEY-----\n", os.urandom(100)):
        (tmp_path / "key.pem").write_bytes(data)
        with pytest.raises(ConfigurationError):
            load_public_key(tmp_path / "key.pem")


def test_keys_of_other_kinds_are_not_taken() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    others = [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        x25519.X25519PrivateKey.generate(),
    ]

    for other in others:
        with pytest.raises(ConfigurationError):
            PublicKey.from_pem(other.public_key().public_bytes(*form))


def test_a_weak_point_in_a_file_is_refused() -> None:
    import base64

    # RFC 8410: the header of an Ed25519 SubjectPublicKeyInfo, and the point of order 4.
    spki = bytes.fromhex("302a300506032b6570032100") + bytes(32)
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(spki) + b"\n-----END PUBLIC KEY-----\n"

    with pytest.raises(WeakKeyError):
        PublicKey.from_pem(pem)
