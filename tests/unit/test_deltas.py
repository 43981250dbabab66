"""Deltas: they make the target again, they do not grow beyond what is signed, and damage is one kind of error."""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_store import deltas
from firmware_store.deltas import Codec, apply_delta, codecs, make_delta
from firmware_store.errors import ConfigurationError, DeltaError, TooLargeError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

every_codec = pytest.mark.parametrize("codec", Codec)


class Files(NamedTuple):
    source: Path
    target: Path
    delta: Path
    out: Path

    @classmethod
    def of(cls, directory: Path, source: bytes, target: bytes) -> "Files":
        files = cls(*(directory / name for name in cls._fields))
        files.source.write_bytes(source)
        files.target.write_bytes(target)
        return files

    def make(self, codec: Codec) -> bytes:
        make_delta(codec, self.source, self.target, self.delta)
        return self.delta.read_bytes()

    def apply(self, codec: Codec, *, target_bytes: int | None = None) -> bytes:
        size = self.target.stat().st_size if target_bytes is None else target_bytes
        apply_delta(codec, self.source, self.delta, self.out, target_bytes=size)
        return self.out.read_bytes()


def edited(image: bytes, *, edits: int, seed: int = 5) -> bytes:
    chance, result = random.Random(seed), bytearray(image)
    for _ in range(edits):
        at = chance.randrange(len(result))
        result[at : at + chance.randrange(8)] = chance.randbytes(chance.randrange(8))
    return bytes(result)


NOISE = random.Random(11).randbytes(300_000)
EDITED = edited(NOISE, edits=40)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.of(tmp_path, NOISE, EDITED)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deltas")


@every_codec
def test_a_small_delta_makes_the_target_again(files: Files, codec: Codec) -> None:
    delta = files.make(codec)

    assert len(delta) < len(EDITED) / 100
    assert files.apply(codec) == EDITED


@every_codec
@given(source=st.binary(max_size=3000), target=st.binary(max_size=3000), copies=st.integers(0, 3))
def test_any_image_can_be_made_out_of_any_other(
    shared: Path, codec: Codec, source: bytes, target: bytes, copies: int
) -> None:
    files = Files.of(shared, source, target + source * copies)

    files.make(codec)

    assert files.apply(codec) == target + source * copies


@every_codec
@given(data=st.data())
def test_a_damaged_delta_is_refused_or_makes_as_many_bytes(shared: Path, codec: Codec, data: st.DataObject) -> None:
    files = Files.of(shared, NOISE[:9000], EDITED[2000:8000] + EDITED[:3000])
    damaged = bytearray(files.make(codec))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        replacement = data.draw(st.binary(max_size=4))
        damaged[at : at + data.draw(st.integers(0, 4))] = replacement
    files.delta.write_bytes(damaged)
    files.out.write_bytes(b"")

    try:
        made = len(files.apply(codec))
    except DeltaError:
        made = None

    assert made in (None, 9000)
    assert files.out.stat().st_size <= 9000


@every_codec
def test_a_delta_for_another_size_writes_nothing(files: Files, codec: Codec) -> None:
    files.make(codec)

    for size in (0, len(EDITED) - 1, len(EDITED) + 1, 1 << 40):
        with pytest.raises(DeltaError):
            files.apply(codec, target_bytes=size)
        assert not files.out.exists() or files.out.stat().st_size == 0


@every_codec
@pytest.mark.parametrize(
    "junk", [b"", bytes(100), b"HDIFF13&zstd\x00", b"HDIFF13&zstd\x00\xff\xff", b"\x28\xb5\x2f\xfd"]
)
def test_what_is_no_delta_is_refused(files: Files, codec: Codec, junk: bytes) -> None:
    files.delta.write_bytes(junk)

    with pytest.raises(DeltaError):
        files.apply(codec)


@every_codec
def test_the_delta_of_one_codec_is_none_of_the_other(files: Files, codec: Codec) -> None:
    files.make(next(other for other in Codec if other is not codec))

    with pytest.raises(DeltaError):
        files.apply(codec)


@pytest.mark.parametrize("number", range(11))
def test_a_header_that_promises_more_than_there_can_be_is_refused_before_room_is_made_for_it(
    files: Files, number: int
) -> None:
    """Sizes of target, source and four sections: HDiffPatch itself would allocate all of these terabytes."""
    made = files.make(Codec.HDIFFPATCH)
    numbers, at = [], len(b"HDIFF13&zstd\0")
    for _ in range(11):
        value, at = deltas._read_number(made, at)
        numbers.append(value)
    numbers[number] = 1 << 44
    header = b"".join(_number(value) for value in numbers)
    files.delta.write_bytes(b"HDIFF13&zstd\0" + header + made[at:])

    with pytest.raises(DeltaError):
        files.apply(Codec.HDIFFPATCH)

    assert not files.out.exists() or files.out.stat().st_size == 0


def _number(value: int) -> bytes:
    """Write a number as HDiffPatch does."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def test_a_zstd_delta_knows_its_source(files: Files) -> None:
    files.make(Codec.ZSTD)
    files.source.write_bytes(NOISE[1:])

    with pytest.raises(DeltaError):
        files.apply(Codec.ZSTD)


FRAMES: dict[str, Callable[[], bytes]] = {
    "promises no size": lambda: zstd.compress(EDITED, options={zstd.CompressionParameter.content_size_flag: 0}),
    "ends early": lambda: zstd.compress(EDITED)[:-5],
    "is followed by a byte": lambda: zstd.compress(EDITED) + b"\x00",
    "is followed by a frame": lambda: zstd.compress(EDITED) + zstd.compress(EDITED),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_a_frame_of_another_shape_is_refused(files: Files, frame: Callable[[], bytes]) -> None:
    files.delta.write_bytes(frame())

    with pytest.raises(DeltaError):
        files.apply(Codec.ZSTD)


def test_a_frame_without_any_source_is_a_delta_too(files: Files) -> None:
    files.delta.write_bytes(zstd.compress(EDITED))

    assert files.apply(Codec.ZSTD) == EDITED


def test_edits_far_apart_in_a_large_image_cost_what_they_change(tmp_path: Path) -> None:
    image = random.Random(3).randbytes(12 << 20)
    files = Files.of(tmp_path, image, edited(image, edits=100))

    delta = files.make(Codec.ZSTD)

    assert len(delta) < 10_000
    assert sha256(files.apply(Codec.ZSTD)).digest() == sha256(files.target.read_bytes()).digest()


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the command zstd")
def test_the_command_zstd_reads_our_deltas_and_writes_ours(files: Files) -> None:
    files.make(Codec.ZSTD)
    patch = ["zstd", "--quiet", "--force", f"--patch-from={files.source}"]

    subprocess.run([*patch, "--decompress", str(files.delta), "-o", str(files.out)], check=True)
    assert files.out.read_bytes() == EDITED

    subprocess.run([*patch, "-12", str(files.target), "-o", str(files.delta)], check=True)
    assert files.apply(Codec.ZSTD) == EDITED


def test_an_image_that_no_window_covers_has_no_delta(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.make(Codec.ZSTD)
    monkeypatch.setattr(deltas, "MAX_SIDE_BYTES", len(NOISE) - 1)

    with pytest.raises(TooLargeError):
        files.make(Codec.ZSTD)
    with pytest.raises(DeltaError):
        files.apply(Codec.ZSTD)


def test_hdiffpatch_is_an_extra(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codecs() == {Codec.ZSTD, Codec.HDIFFPATCH}
    monkeypatch.setitem(sys.modules, "hdiffpatch", None)

    assert codecs() == {Codec.ZSTD}
    with pytest.raises(ConfigurationError, match=r"\[deltas\]"):
        files.make(Codec.HDIFFPATCH)
