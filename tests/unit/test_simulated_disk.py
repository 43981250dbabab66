"""The simulated disk answers as a real one does, and keeps at a loss of power what was synced, and no more."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.agent.durable_file import make_directory, opened, read_file, replace_file, sync_directory
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.disk.losses import losses
from device_sim.disk.medium import SECTOR_BYTES
from device_sim.disk.simulated import PAGE_BYTES, Moment, SimulatedDisk

NAMES = st.sampled_from(["one", "two", "folder", "folder/one"])
FILES = st.sampled_from(["one", "two", "folder/one"])
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), NAMES, st.integers(0, 6000), st.binary(min_size=1, max_size=5000)),
        st.tuples(st.just("cut"), NAMES, st.integers(0, 9000)),
        st.tuples(st.just("rename"), FILES, FILES),
        st.tuples(st.just("unlink"), NAMES),
        st.tuples(st.sampled_from(["mkdir", "rmdir"]), st.just("folder")),
        st.tuples(st.just("sync"), NAMES),
    ),
    max_size=12,
)


def carry_out(files: Filesystem, root: str, call: tuple) -> str:
    """Do one thing, and return what a caller would see of it."""
    kind, path, *rest = call
    path = f"{root}/{path}"
    try:
        match kind:
            case "write":
                with opened(files, path, os.O_WRONLY | os.O_CREAT) as descriptor:
                    return str(files.pwritev(descriptor, [rest[1][:7], rest[1][7:]], rest[0]))
            case "cut":
                with opened(files, path, os.O_WRONLY) as descriptor:
                    files.ftruncate(descriptor, rest[0])
            case "sync":
                with opened(files, path, os.O_RDONLY) as descriptor:
                    files.fsync(descriptor)
            case "rename":
                files.rename(path, f"{root}/{rest[0]}")
            case _:
                getattr(files, kind)(path)
    except OSError as exc:
        return "missing" if isinstance(exc, FileNotFoundError) else "refused"
    return "done"


def tree(files: Filesystem, root: str) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for name in sorted(files.listdir(root)):
        path = f"{root}/{name}"
        try:
            found |= {f"{name}/{inner}": content for inner, content in tree(files, path).items()}
            found[name] = None
        except NotADirectoryError:
            found[name] = read_file(Path(path), files=files)
            assert files.stat(path).size_bytes == len(found[name])
    return found


@given(calls=CALLS)
def test_it_answers_as_the_files_of_the_machine_do(calls: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    disk, real = SimulatedDisk(), str(tmp_path_factory.mktemp("real"))
    disk.mkdir("/d")

    for call in calls:
        assert (call, carry_out(disk, "/d", call)) == (call, carry_out(SYSTEM_FILES, real, call))

    assert tree(disk, "/d") == tree(SYSTEM_FILES, real)
    disk.sync()
    assert tree(SimulatedDisk(disk.medium), "/d") == tree(SYSTEM_FILES, real)


def disk_with_moments() -> tuple[SimulatedDisk, list[Moment]]:
    disk, moments = SimulatedDisk(), []
    make_directory(Path("/d"), durable=True, files=disk)
    disk.before = moments.append
    return disk, moments


def contents(moments: list[Moment], path: str) -> set[bytes | None]:
    """What a file may hold after a cut at any of these moments."""
    found: set[bytes | None] = set()
    for number, moment in enumerate(moments):
        for loss in losses(moment, seed=str(number), scattered=8):
            try:
                found.add(read_file(Path(path), files=SimulatedDisk(loss.medium)))
            except FileNotFoundError:
                found.add(None)
    return found


def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one() -> None:
    disk, moments = disk_with_moments()
    old, new = b"old" * 5000, b"new!" * 5000
    replace_file(Path("/d/file"), old, durable=True, files=disk)
    moments.clear()

    replace_file(Path("/d/file"), new, durable=True, files=disk)

    assert contents(moments, "/d/file") == {old, new}


def test_a_file_that_is_replaced_without_a_sync_may_be_neither() -> None:
    disk, moments = disk_with_moments()
    replace_file(Path("/d/file"), b"old" * 5000, durable=True, files=disk)
    moments.clear()

    replace_file(Path("/d/file"), b"new!" * 5000, durable=False, files=disk)
    sync_directory(Path("/d"), files=disk)

    assert contents(moments, "/d/file") - {b"old" * 5000, b"new!" * 5000}


def test_a_write_tears_at_sectors_and_a_synced_one_does_not() -> None:
    disk, moments = disk_with_moments()
    replace_file(Path("/d/file"), b"o" * PAGE_BYTES, durable=True, files=disk)
    moments.clear()

    with opened(disk, "/d/file", os.O_WRONLY) as descriptor:
        disk.pwritev(descriptor, [b"n" * PAGE_BYTES], 0)
        torn = contents(moments, "/d/file")
        disk.fsync(descriptor)

    sectors = {part for content in torn for part in (content[:SECTOR_BYTES], content[-SECTOR_BYTES:])}
    assert sectors == {b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES}
    assert any(b"o" in content and b"n" in content for content in torn)
    assert read_file(Path("/d/file"), files=SimulatedDisk(disk.medium)) == b"n" * PAGE_BYTES


def test_a_name_that_nobody_synced_may_be_gone_though_the_file_was() -> None:
    disk, moments = disk_with_moments()
    with opened(disk, "/d/file", os.O_WRONLY | os.O_CREAT) as descriptor:
        disk.pwritev(descriptor, [b"content"], 0)
        disk.fsync(descriptor)
    with opened(disk, "/d/other", os.O_WRONLY | os.O_CREAT):
        pass

    assert contents(moments[-1:], "/d/file") == {None, b"content"}


def test_a_disk_that_is_full_says_so() -> None:
    disk = SimulatedDisk(capacity_bytes=10)
    with opened(disk, "/file", os.O_WRONLY | os.O_CREAT) as descriptor:
        assert disk.pwritev(descriptor, [b"ten bytes."], 0) == 10
        with pytest.raises(OSError, match="No space left"):
            disk.pwritev(descriptor, [b"!"], 10)
    assert disk.free_bytes("/") == 0
