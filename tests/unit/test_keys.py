"""Keys: names that are computed, weak points that are refused, files that only their owner can read."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from firmware_store.errors import ConfigurationError, ConflictError, WeakKeyError
from firmware_store.keys import Algorithm, PublicKey, SigningKey, key_is_encrypted, load_key, save_key
from firmware_store.private_files import replace_file, write_new_file

P = 2**255 - 19
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493

# The eight points of small order, and every other encoding of them that a lenient library takes.
WEAK_ED25519 = {
    "order 1": (1).to_bytes(32, "little").hex(),
    "order 2": (P - 1).to_bytes(32, "little").hex(),
    "order 4": "00" * 32,
    "order 4, the other sign": "00" * 31 + "80",
    "order 8": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "order 8, the other sign": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "order 8, the other one": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "order 8, the other one's other sign": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "order 1 with a sign it cannot have": (1 | 1 << 255).to_bytes(32, "little").hex(),
    "order 2 with a sign it cannot have": (P - 1 | 1 << 255).to_bytes(32, "little").hex(),
    "y = p": P.to_bytes(32, "little").hex(),
    "y = p + 1": (P + 1).to_bytes(32, "little").hex(),
    "y = p + 3, a good point badly written": (P + 3).to_bytes(32, "little").hex(),
    "y = 2, on no point": (2).to_bytes(32, "little").hex(),
    "31 bytes": "01" * 31,
    "33 bytes": "01" * 33,
    "nothing": "",
}

WEAK_P256 = {
    "off the curve": bytes(63) + b"\x01",
    "infinity": bytes(64),
    "short": bytes(63),
    "long": bytes(65),
    "nothing": b"",
    "x = p": bytes.fromhex("ffffffff00000001000000000000000000000000ffffffffffffffffffffffff") + bytes(32),
}


@pytest.fixture(params=list(Algorithm), ids=lambda algorithm: algorithm.name)
def key(request: pytest.FixtureRequest) -> SigningKey:
    return SigningKey.generate(request.param)


def test_the_kid_is_the_thumbprint_of_rfc_9679_section_6() -> None:
    x = "65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d"
    y = "1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c"

    kid = PublicKey(Algorithm.ESP256, bytes.fromhex(x + y)).kid

    assert bytes.fromhex("496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec")[:16] == kid


def test_ed25519_signs_as_rfc_8032_section_7_1_test_2_says() -> None:
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(seed))

    signature = key.sign(b"\x72")

    expected = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert bytes.fromhex(expected) == signature
    assert key.public.verify(signature, b"\x72")


@pytest.mark.parametrize("encoded", WEAK_ED25519.values(), ids=WEAK_ED25519.keys())
def test_a_weak_ed25519_point_is_no_key(encoded: str) -> None:
    with pytest.raises(WeakKeyError):
        PublicKey(Algorithm.ED25519, bytes.fromhex(encoded))


def test_the_point_of_order_four_would_have_verified_everything() -> None:
    """Why the check exists: OpenSSL takes the key, and one signature fits about every fourth message."""
    weak = ed25519.Ed25519PublicKey.from_public_bytes(bytes(32))
    forged = bytes.fromhex("0100000000000000000000000000000000000000000000000000000000000000") + bytes(32)

    accepted = 0
    for number in range(64):
        try:
            weak.verify(forged, b"message %d" % number)
        except Exception:
            continue
        accepted += 1

    assert accepted > 0


@pytest.mark.parametrize("material", WEAK_P256.values(), ids=WEAK_P256.keys())
def test_a_point_off_p256_is_no_key(material: bytes) -> None:
    with pytest.raises(WeakKeyError):
        PublicKey(Algorithm.ESP256, material)


def test_every_generated_ed25519_key_is_a_sound_point() -> None:
    keys = [SigningKey.generate(Algorithm.ED25519).public for _ in range(20)]

    assert len({key.kid for key in keys}) == 20


def test_a_key_survives_cose(key: SigningKey) -> None:
    assert key.public == PublicKey.from_cose(key.public.to_cose())


@pytest.mark.parametrize(
    "change",
    [{1: 3}, {1: None}, {3: -8}, {3: -7}, {3: -9.5}, {-1: 2}, {-2: "text"}, {-2: b""}, {2: b"kid"}, {-4: b"private"}],
    ids=repr,
)
def test_any_other_cose_key_is_refused(key: SigningKey, change: dict[int, object]) -> None:
    with pytest.raises(WeakKeyError):
        PublicKey.from_cose({**key.public.to_cose(), **change})


@pytest.mark.parametrize("value", [None, 1, [], {}, {1: 1}])
def test_what_is_no_cose_key_at_all_is_refused(value: object) -> None:
    with pytest.raises(WeakKeyError):
        PublicKey.from_cose(value)


def test_x_and_y_of_unequal_length_are_refused() -> None:
    key = SigningKey.generate(Algorithm.ESP256).public
    shifted = {**key.to_cose(), -2: key.material[:31], -3: key.material[31:]}

    with pytest.raises(WeakKeyError):
        PublicKey.from_cose(shifted)


def test_a_signature_holds_for_its_message_and_no_other(key: SigningKey) -> None:
    signature = key.sign(b"raise the gate")

    assert key.public.verify(signature, b"raise the gate")
    assert not key.public.verify(signature, b"shut the gate")
    assert not SigningKey.generate(key.public.algorithm).public.verify(signature, b"raise the gate")


@pytest.mark.parametrize("size", [0, 63, 65, 128])
def test_a_signature_of_another_length_is_none(key: SigningKey, size: int) -> None:
    signature = (key.sign(b"m") * 2)[:size]

    assert not key.public.verify(signature, b"m")


def _pair(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@pytest.mark.parametrize(
    "signature",
    [_pair(0, 0), _pair(0, 1), _pair(1, 0), _pair(P256_ORDER, P256_ORDER), _pair(1, P256_ORDER), _pair(P256_ORDER, 1)],
    ids=["all zero", "r = 0", "s = 0", "r = s = n", "s = n", "r = n"],
)
def test_numbers_out_of_range_are_no_signature(key: SigningKey, signature: bytes) -> None:
    assert not key.public.verify(signature, b"m")


def test_an_ed25519_signature_is_not_accepted_in_a_second_form() -> None:
    key = SigningKey.generate(Algorithm.ED25519)
    signature = key.sign(b"m")
    s = int.from_bytes(signature[32:], "little") + ED25519_ORDER

    assert not key.public.verify(signature[:32] + s.to_bytes(32, "little"), b"m")


def test_a_der_signature_is_none() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    key = SigningKey(private)
    der = private.sign(b"m", ec.ECDSA(hashes.SHA256()))

    assert not key.public.verify(der, b"m")
    assert not key.public.verify(der[:64], b"m")


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_key_survives_its_file(key: SigningKey, tmp_path: Path, passphrase: bytes | None) -> None:
    path = tmp_path / "key.pem"

    save_key(path, key, passphrase, dev=passphrase is None)

    assert key.public == load_key(path, passphrase).public
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert list(tmp_path.iterdir()) == [path]
    assert key_is_encrypted(path) == (passphrase is not None)


@pytest.mark.parametrize("passphrase", [None, b""])
def test_a_key_that_is_not_for_development_needs_a_passphrase(
    key: SigningKey, tmp_path: Path, passphrase: bytes | None
) -> None:
    with pytest.raises(ConfigurationError, match="passphrase"):
        save_key(tmp_path / "key.pem", key, passphrase)
    assert list(tmp_path.iterdir()) == []


def test_a_key_file_is_never_overwritten(key: SigningKey, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    save_key(path, key, b"p")

    with pytest.raises(ConflictError):
        save_key(path, SigningKey.generate(Algorithm.ED25519), b"p")
    assert key.public == load_key(path, b"p").public
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_cannot_be_written_where_there_is_no_folder(key: SigningKey, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write"):
        save_key(tmp_path / "absent" / "key.pem", key, b"p")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622, 0o610])
def test_a_key_file_that_others_can_reach_is_refused(key: SigningKey, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    save_key(path, key, b"p")
    path.chmod(mode)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_key(path, b"p")


def test_what_is_not_a_regular_file_is_no_key_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)

    for path in (tmp_path, tmp_path / "fifo", tmp_path / "absent"):
        with pytest.raises(ConfigurationError):
            load_key(path, None)


def test_wrong_passphrases_and_damaged_files_say_what_is_wrong(key: SigningKey) -> None:
    encrypted, plain = key.to_pem(b"right"), key.to_pem(None)

    with pytest.raises(ConfigurationError, match="damaged, or its passphrase is wrong"):
        SigningKey.from_pem(encrypted, b"wrong")
    with pytest.raises(ConfigurationError, match="needs a passphrase"):
        SigningKey.from_pem(encrypted)
    with pytest.raises(ConfigurationError, match="not encrypted"):
        SigningKey.from_pem(plain, b"right")
    with pytest.raises(ConfigurationError, match="damaged"):
        SigningKey.from_pem(plain[:-60])


@pytest.mark.parametrize(
    "private",
    [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "RSA"],
)
def test_a_private_key_of_another_kind_is_refused(private: ec.EllipticCurvePrivateKey) -> None:
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    with pytest.raises(ConfigurationError):
        SigningKey.from_pem(pem)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "root.cbor"
    write_new_file(path, b"old", mode=0o644)

    replace_file(path, b"new", mode=0o640)

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(ConfigurationError, match="cannot write"):
        replace_file(tmp_path / "folder", b"new")
    with pytest.raises(ConfigurationError, match="cannot write"):
        replace_file(tmp_path / "absent" / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
