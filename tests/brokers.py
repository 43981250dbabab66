"""MQTT brokers of a test's own, which it may stop, kill and start again; without access rules."""

import getpass
import shutil
import signal
import subprocess
import sysconfig
from pathlib import Path

from tests.ports import free_port

PATIENCE_S = 10


class Broker:
    """A broker process on a port of its own; ``stop`` and ``start`` keep its port and its state."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill -9: what it had not written down is lost."""
        self._end(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None


def nats(directory: Path, *, mqtt: str = "", accounts: str = "") -> Broker:
    port = free_port()
    config = directory / "nats.conf"
    config.write_text(
        f'server_name: test\nlisten: "127.0.0.1:{free_port()}"\njetstream {{ store_dir: "{directory}/jetstream" }}\n'
        f'mqtt {{ listen: "127.0.0.1:{port}", ack_wait: "500ms", max_ack_pending: 65535 {mqtt} }}\n{accounts}\n'
    )
    return Broker([str(Path(sysconfig.get_path("scripts"), "nats-server")), "-c", str(config)], port)


def mosquitto(directory: Path) -> Broker:
    port = free_port()
    config = directory / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {directory}/\n"
        f"max_inflight_messages 0\nmax_queued_messages 0\nuser {getpass.getuser()}\n"
    )
    return Broker([shutil.which("mosquitto") or "mosquitto", "-c", str(config)], port)
