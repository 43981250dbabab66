"""Debian's real RAUC on two files as slots, on a bus of its own, with U-Boot's variables and a simulated U-Boot."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from device_sim.agent.boot_environment import SlotInfo
from device_sim.agent.durable_file import StorageError
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.agent.slots import SlotBackend
from device_sim.agent.uboot_bootloader import boot_uboot
from device_sim.agent.uboot_environment import Copy, Variables, encode_copy
from device_sim.gateway.rauc_bus import RaucBus
from device_sim.gateway.rauc_slots import RaucSlots

PROGRAMS = ("rauc", "dbus-daemon", "mksquashfs", "fw_setenv", "openssl")
SIZE = 8192
NAMES = {"a": "A", "b": "B"}
PATIENCE_S = 20.0

BOOTLOADER = """#!/bin/sh
# What RAUC's own backend for U-Boot does with U-Boot's variables.
put() { fw_setenv -c FOLDER/fw_env.config "$@"; }
get() { fw_printenv -c FOLDER/fw_env.config -n "$1"; }
case $1 in
  get-primary) for slot in $(get BOOT_ORDER); do
      if [ "$(get BOOT_${slot}_LEFT)" -gt 0 ]; then echo $slot; exit; fi
    done; exit 1;;
  set-primary) if [ $2 = A ]; then put BOOT_ORDER "A B"; else put BOOT_ORDER "B A"; fi; put BOOT_$2_LEFT 3;;
  get-state) if [ "$(get BOOT_$2_LEFT)" -gt 0 ]; then echo good; else echo bad; fi;;
  set-state) if [ $3 = good ]; then put BOOT_$2_LEFT 3; else put BOOT_$2_LEFT 0; fi;;
esac
"""

SYSTEM = """
[system]
compatible=gw100
bootloader=custom
statusfile=FOLDER/status
mountprefix=FOLDER/mnt
activate-installed=false
[handlers]
bootloader-custom-backend=FOLDER/bootloader
[keyring]
path=FOLDER/cert.pem
[slot.rootfs.0]
device=FOLDER/a.img
type=raw
bootname=A
[slot.rootfs.1]
device=FOLDER/b.img
type=raw
bootname=B
"""

MANIFEST = """
[update]
compatible=gw100
version=VERSION
[image.rootfs]
filename=rootfs.img
"""


def require_rauc() -> None:
    """Skip where it is not; fail where it has to be."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing and os.environ.get("TIDEGATE_REQUIRE_PEERS") == "1":
        pytest.fail(f"{', '.join(missing)}: not installed, and TIDEGATE_REQUIRE_PEERS=1 wants it")
    if missing or os.geteuid() != 0:
        pytest.skip("RAUC is not installed" if missing else "RAUC mounts its bundles, which takes root")


@dataclass
class RaucMachine:
    """See ``tests.agent_world.Platform``: a machine whose every boot has a new RAUC service."""

    folder: Path
    files: Filesystem = SYSTEM_FILES
    durable: bool = True
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Make what the factory makes, and start the bus."""
        request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
        self.call("openssl", *request.split(), "-keyout", "key.pem", "-out", "cert.pem")
        for name in ("a.img", "b.img"):
            with (self.folder / name).open("wb") as file:
                file.truncate(1 << 20)
        (self.folder / "mnt").mkdir()
        (self.folder / "fw_env.config").write_text(f"{self.folder}/env0 0 {SIZE:#x}\n{self.folder}/env1 0 {SIZE:#x}\n")
        factory = {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0"}
        for number in (0, 1):
            (self.folder / f"env{number}").write_bytes(encode_copy(factory, flag=number, size_bytes=SIZE))
        (self.folder / "system.conf").write_text(SYSTEM.replace("FOLDER", str(self.folder)))
        (self.folder / "bootloader").write_text(BOOTLOADER.replace("FOLDER", str(self.folder)))
        (self.folder / "bootloader").chmod(0o755)
        self._spawn("dbus-daemon", "--session", "--nofork", f"--address={self.address}", "--print-address")

    def stop(self) -> None:
        while self.processes:
            self._end(self.processes.pop())

    def make_bundle(self, version: str, image: bytes) -> bytes:
        content = self.folder / f"content-{version}"
        content.mkdir()
        (content / "manifest.raucm").write_text(MANIFEST.replace("VERSION", version))
        (content / "rootfs.img").write_bytes(image)
        out = self.folder / f"{version}.raucb"
        self.call("rauc", "bundle", "--cert=cert.pem", "--key=key.pem", str(content), str(out))
        return out.read_bytes()

    @property
    def address(self) -> str:
        return f"unix:path={self.folder}/bus"

    @property
    def variables(self) -> Variables:
        return Variables([Copy(str(self.folder / f"env{number}"), 0, SIZE) for number in (0, 1)])

    # --- the platform ---

    def provision(self, directory: Path) -> None:
        """It is there."""

    def boot(self, directory: Path, boots: Callable[[SlotInfo], bool]) -> str | None:
        slot = boot_uboot(self.variables, boots=lambda _: True)
        if slot is not None:
            if len(self.processes) > 1:
                self._end(self.processes.pop())
            self._serve(slot)
            self._open(directory).settle()
        return slot

    def slots(self, directory: Path) -> SlotBackend:
        return self._open(directory)

    def image(self, directory: Path, slot: str, name: str) -> bytes:
        return (self.folder / f"{slot}.img").read_bytes()

    def _open(self, directory: Path) -> RaucSlots:
        return RaucSlots(directory, RaucBus(self.address), names=NAMES, component="rauc")

    def _serve(self, slot: str) -> None:
        """Start RAUC's service, as systemd would after a boot into ``slot``, and wait until it owns its name."""
        config = f"--conf={self.folder}/system.conf"
        with (self.folder / "rauc.log").open("a") as log:
            command = ["rauc", config, f"--override-boot-slot={NAMES[slot]}", "service"]
            self.processes.append(subprocess.Popen(command, env=self._environment, stdout=log, stderr=log))
        ends_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                RaucBus(self.address).slots()
            except StorageError:
                assert time.monotonic() < ends_at, (self.folder / "rauc.log").read_text()
                time.sleep(0.01)
            else:
                return

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "DBUS_SESSION_BUS_ADDRESS": self.address, "DBUS_STARTER_BUS_TYPE": "session"}

    def _spawn(self, *command: str) -> None:
        """Start a process, and wait until it has said a line."""
        process = subprocess.Popen(command, cwd=self.folder, env=self._environment, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()

    def call(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, check=False, capture_output=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, (command, done.stderr.decode())

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        process.wait(PATIENCE_S)
        if process.stdout is not None:
            process.stdout.close()
