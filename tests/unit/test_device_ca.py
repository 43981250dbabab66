"""The device CA: what it signs, what it refuses to be, and its files."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from firmware_store.errors import ConfigurationError, ConflictError
from firmware_store.keys import Algorithm, SigningKey
from server.domain.enrolment import CREDENTIAL_LIFE, renewal_time
from server.domain.identity import DeviceId
from server.services.device_ca import (
    CA_LIFE,
    CERTIFICATE_FILE,
    CRL_LIFE,
    KEY_FILE,
    DeviceCa,
    DeviceCaFolder,
    create_device_ca,
    load_device_ca,
)

PUMP = DeviceId("pump-1")
NOW = datetime.now(UTC)


@pytest.fixture
def ca(tmp_path: Path) -> DeviceCa:
    return create_device_ca(tmp_path, passphrase=None, name="Tidegate devices", dev=True)


def leaf(ca: DeviceCa, now: datetime = NOW) -> x509.Certificate:
    issued = ca.issue(PUMP, SigningKey.generate(Algorithm.ESP256).public, now=now)
    return x509.load_pem_x509_certificates(issued.chain)[0]


def test_the_authority_can_sign_devices_and_no_other_authority(ca: DeviceCa) -> None:
    certificate = x509.load_pem_x509_certificate(ca.certificate_pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value

    assert (constraints.value, constraints.critical) == (x509.BasicConstraints(ca=True, path_length=0), True)
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    certificate.verify_directly_issued_by(certificate)


def test_a_certificate_is_good_a_little_earlier_and_for_90_days(ca: DeviceCa) -> None:
    certificate = leaf(ca)

    assert timedelta(minutes=30) < NOW - certificate.not_valid_before_utc <= timedelta(hours=2)
    assert abs(certificate.not_valid_after_utc - NOW - CREDENTIAL_LIFE) < timedelta(seconds=1)


def test_the_authority_is_good_for_ten_years(ca: DeviceCa) -> None:
    assert abs(ca.expires - datetime.now(UTC) - CA_LIFE) < timedelta(minutes=1)


def test_no_certificate_outlives_its_authority(ca: DeviceCa) -> None:
    late = ca.expires - timedelta(days=10)

    assert leaf(ca, late).not_valid_after_utc == ca.expires
    with pytest.raises(ConfigurationError, match="expired"):
        leaf(ca, ca.expires)


def test_serial_numbers_do_not_repeat_and_cannot_be_guessed(ca: DeviceCa) -> None:
    serials = [leaf(ca).serial_number for _ in range(20)]

    assert len(set(serials)) == 20
    assert all(0 < serial < 2**159 for serial in serials)
    assert max(serial.bit_length() for serial in serials) > 150


def test_renewal_is_due_after_two_thirds() -> None:
    assert renewal_time(NOW, NOW + timedelta(days=90)) == NOW + timedelta(days=60)


def test_the_list_names_each_serial_and_when(ca: DeviceCa) -> None:
    at = NOW.replace(microsecond=0)
    found = x509.load_pem_x509_crl(ca.revocation_list([(7, at), (2**158, at)], now=NOW))
    certificate = x509.load_pem_x509_certificate(ca.certificate_pem)

    assert {(entry.serial_number, entry.revocation_date_utc) for entry in found} == {(7, at), (2**158, at)}
    assert found.is_signature_valid(certificate.public_key())
    assert found.next_update_utc is not None
    assert abs(found.next_update_utc - NOW - CRL_LIFE) < timedelta(seconds=1)


def test_the_key_is_for_its_owner_and_the_certificate_for_everybody(ca: DeviceCa, tmp_path: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert modes == {KEY_FILE: 0o600, CERTIFICATE_FILE: 0o644}


def test_where_there_is_none_none_is_loaded(tmp_path: Path) -> None:
    assert load_device_ca(tmp_path, passphrase=None) is None


def test_a_plain_key_is_good_for_development_even_where_a_passphrase_is_set(ca: DeviceCa, tmp_path: Path) -> None:
    loaded = load_device_ca(tmp_path, passphrase=b"of the other keys")

    assert loaded is not None
    assert loaded.certificate_pem == ca.certificate_pem
    with pytest.raises(ConfigurationError, match="not encrypted"):
        load_device_ca(tmp_path, passphrase=None, production=True)


@pytest.mark.parametrize("passphrase", [None, b"wrong"])
def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path, passphrase: bytes | None) -> None:
    create_device_ca(tmp_path, passphrase=b"right", name="x")

    with pytest.raises(ConfigurationError, match="passphrase"):
        load_device_ca(tmp_path, passphrase=passphrase)


def test_a_key_that_others_may_read_is_refused(ca: DeviceCa, tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).chmod(0o640)

    with pytest.raises(ConfigurationError, match="others may read"):
        load_device_ca(tmp_path, passphrase=None)


@pytest.mark.parametrize("lost", [KEY_FILE, CERTIFICATE_FILE])
def test_half_an_authority_is_no_reason_to_make_another(ca: DeviceCa, tmp_path: Path, lost: str) -> None:
    (tmp_path / lost).unlink()

    with pytest.raises(ConfigurationError):
        load_device_ca(tmp_path, passphrase=None)


def test_key_and_certificate_of_two_authorities_do_not_go_together(ca: DeviceCa, tmp_path: Path) -> None:
    other = create_device_ca(tmp_path / "other", passphrase=None, name="x", dev=True)
    (tmp_path / CERTIFICATE_FILE).write_bytes(other.certificate_pem)

    with pytest.raises(ConfigurationError, match="not the one in its certificate"):
        load_device_ca(tmp_path, passphrase=None)


def test_a_devices_certificate_is_no_authority(tmp_path: Path) -> None:
    ca = create_device_ca(tmp_path, passphrase=None, name="x", dev=True)
    own = SigningKey.from_pem((tmp_path / KEY_FILE).read_bytes())
    (tmp_path / CERTIFICATE_FILE).write_bytes(ca.issue(PUMP, own.public, now=NOW).chain)

    with pytest.raises(ConfigurationError, match="not one of a CA"):
        load_device_ca(tmp_path, passphrase=None)


def test_a_key_of_another_kind_is_refused(ca: DeviceCa, tmp_path: Path) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / KEY_FILE).write_bytes(pem)

    with pytest.raises(ConfigurationError, match="P-256"):
        load_device_ca(tmp_path, passphrase=None)


async def test_production_uses_an_authority_made_after_its_start(tmp_path: Path) -> None:
    folder = DeviceCaFolder(tmp_path, passphrase=b"right", name="x", production=True)
    with pytest.raises(ConflictError, match="device ca init"):
        await folder.open()
    made = create_device_ca(tmp_path, passphrase=b"right", name="x")

    assert (await folder.open()).certificate_pem == made.certificate_pem
