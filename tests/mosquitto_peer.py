"""A real Mosquitto that runs the configuration shipped in deploy/mosquitto, for tests that try to break it."""

import datetime as dt
import getpass
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.mqtt_client import MqttClient
from tests.ports import free_port

SHIPPED = Path(__file__).parents[1] / "deploy" / "mosquitto"
PATIENCE_S = 10

Files = tuple[Path, Path]
"""A certificate chain and its key."""


class Authority:
    """Signs what its caller wants signed, which is the point: some of it is an attack."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        authority = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self._certificate = authority.sign(self._key, hashes.SHA256())
        self._write("ca.pem", self._certificate)
        self._revoked: list[int] = []
        self._write_revoked()

    def issue(self, common_name: str, *, file: str, revoked: bool = False) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = self._builder(subject, key).add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        if revoked:
            self._revoked.append(certificate.serial_number)
            self._write_revoked()
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self._folder / f"{file}.key").write_bytes(secret)
        return self._write(f"{file}.pem", certificate), self._folder / f"{file}.key"

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )

    def _write(self, name: str, what: x509.Certificate | x509.CertificateRevocationList) -> Path:
        (self._folder / name).write_bytes(what.public_bytes(serialization.Encoding.PEM))
        return self._folder / name

    def _write_revoked(self) -> None:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - dt.timedelta(hours=1)).next_update(now + dt.timedelta(hours=1))
        for serial in self._revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        self._write("crl.pem", builder.sign(self._key, hashes.SHA256()))


def require_programs(*programs: str) -> None:
    """Skip the test where one is missing, or fail it where all peers are to be there."""
    if missing := [program for program in programs if not shutil.which(program)]:
        if os.environ.get("TIDEGATE_REQUIRE_PEERS") == "1":
            pytest.fail(f"{', '.join(missing)}: not installed, and TIDEGATE_REQUIRE_PEERS=1 wants it")
        pytest.skip(f"{', '.join(missing)}: not installed")


class Mosquitto:
    """The folder must hold ca.pem, crl.pem, broker.pem and broker.key; only paths and ports are changed.

    ``trusted_ca``: what devices know the broker by; without it, ca.pem.
    """

    def __init__(self, folder: Path, *, trusted_ca: Path | None = None) -> None:
        self.folder = folder
        self._trusted_ca = trusted_ca or folder / "ca.pem"
        self.device_port, self.server_port = free_port(), free_port()
        shutil.copy(SHIPPED / "acl", folder)
        subprocess.run(
            ["mosquitto_passwd", "-b", "-c", folder / "passwords", "tidegate.server", "secret"],
            check=True,
            capture_output=True,
        )
        config = (SHIPPED / "mosquitto.conf").read_text()
        for shipped, ours in (
            ("/etc/mosquitto/tidegate", str(folder)),
            ("/var/lib/mosquitto/", f"{folder}/"),
            ("listener 8883", f"listener {self.device_port} 127.0.0.1"),
            ("listener 1883", f"listener {self.server_port}"),
        ):
            assert shipped in config
            config = config.replace(shipped, ours)
        (folder / "mosquitto.conf").write_text(f"{config}\nuser {getpass.getuser()}\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(["mosquitto", "-c", self.folder / "mosquitto.conf"], stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.server_port)).close()
            except ConnectionRefusedError:
                assert self._process.poll() is None, self.log
                assert time.monotonic() < deadline
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def server(self, **options: object) -> MqttClient:
        arguments = {"client_id": "server", "username": "tidegate.server", "password": "secret", **options}
        return MqttClient("127.0.0.1", self.server_port, **arguments)

    def connect(self, files: Files | None, **options: object) -> MqttClient:
        context = ssl.create_default_context(cafile=self._trusted_ca)
        if files:
            context.load_cert_chain(*files)
        return MqttClient("localhost", self.device_port, tls=context, **{"client_id": "any", **options})
