"""Files in memory answer as the machine's do, whatever is asked of them."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from device_sim.agent.bootloader import boot
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.wire.memory_files import MemoryFiles, Pool

NAMES = st.sampled_from(["one", "two", "d/three", "d", "none/four"])
PLACES = st.integers(0, 40)
BYTES = st.binary(max_size=20)

CALLS = st.one_of(
    st.tuples(st.just("write"), NAMES, PLACES, st.lists(BYTES, min_size=1, max_size=3)),
    st.tuples(st.just("read"), NAMES, PLACES, PLACES),
    st.tuples(st.just("resize"), NAMES, PLACES),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("unlink"), NAMES),
    st.tuples(st.just("mkdir"), st.just("d")),
    st.tuples(st.just("rmdir"), st.just("d")),
    st.tuples(st.just("listdir"), st.just("d")),
    st.tuples(st.just("size"), st.sampled_from(["one", "two", "d/three"])),
)


def opened(files: Filesystem, path: str, flags: int, act: Callable[[int], Any]) -> Any:
    descriptor = files.open(path, flags)
    try:
        return act(descriptor)
    finally:
        files.close(descriptor)


def mapped(files: Filesystem, path: str, size_bytes: int) -> Any:
    return opened(files, path, os.O_RDONLY, lambda one: files.map(one, size_bytes))


def answer(files: Filesystem, root: str, call: tuple[Any, ...]) -> Any:
    """What a call returns, or the kind of its refusal; which error it is differs between systems in places."""
    name, path, rest = call[0], f"{root}/{call[1]}", call[2:]
    try:
        match name:
            case "write":
                return opened(files, path, os.O_WRONLY | os.O_CREAT, lambda one: files.pwritev(one, rest[1], rest[0]))
            case "read":
                return opened(files, path, os.O_RDONLY, lambda one: files.pread(one, rest[1], rest[0]))
            case "resize":
                return opened(files, path, os.O_WRONLY, lambda one: files.ftruncate(one, rest[0]))
            case "rename":
                return files.rename(path, f"{root}/{rest[0]}")
            case "unlink":
                return files.unlink(path)
            case "mkdir":
                return files.mkdir(path)
            case "rmdir":
                return files.rmdir(path)
            case "listdir":
                return sorted(files.listdir(path))
            case _:
                return files.stat(path).size_bytes
    except OSError:
        return "refused"


@given(st.lists(CALLS.filter(lambda call: call[0] != "rename" or "d" not in call[1:]), max_size=40))
def test_they_answer_as_the_machines_files_do(calls: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        memory = MemoryFiles(Pool())
        memory.mkdir("/r")

        for call in calls:
            assert answer(memory, "/r", call) == answer(SYSTEM_FILES, folder, call), call


def test_a_device_boots_from_them_and_shares_its_image_with_others(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(4096))
    pool, directory = Pool(), Path("/device")
    first, second = MemoryFiles(pool), MemoryFiles(pool)
    for files in (first, second):
        provision(directory, version="1.0.0", seeds={"app": image}, durable=False, files=files)
        booted = boot(directory, durable=False, files=files)

        assert booted.slot == "a"
        assert FileSlots(directory, durable=False, files=files).slots()[0].version == "1.0.0"

    one, other = (mapped(files, "/device/slots/a/app.img", 4096) for files in (first, second))
    assert one is other
