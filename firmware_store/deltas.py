"""Deltas: how to make a target image out of a source image that the device has already.

A delta is one file of bytes that only its codec understands. Nothing here says that a result is the right one: whoever
applies a delta compares the digest of the whole image afterwards, as with chunks.

``zstd`` is what ``zstd --patch-from`` writes and reads: one frame that refers to the source as if it came right before
the target, with the target's size in its header and a checksum at its end. ``hdiffpatch`` is HDiffPatch's format
``HDIFF13``, compressed by zstd; it needs the extra ``[deltas]``, takes several times as long to make, and is smaller
where a release moved addresses about.

Memory, measured on 64 MiB of two real binaries, in MiB for each MiB of one image, beside the files that are mapped:

    zstd         2 to make, 2 to apply
    hdiffpatch   7 to make, 2 to apply
"""

import mmap
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias

from firmware_store.errors import ConfigurationError, DeltaError, TooLargeError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Of a source, a target or a delta: the window of a zstd frame, 2 GiB at most, reaches across both images.
MAX_SIDE_BYTES: Final = 1 << 30

_ZSTD_LEVEL: Final = 12
_ZSTD_LEAST_SOURCE: Final = 8  # the library takes nothing shorter as the bytes before a frame
_ZSTD_LEAST_WINDOW_LOG: Final = 10
_HDIFFPATCH_LEVEL: Final = 19  # of zstd within: it has little left to compress, and a delta is made once
_HDIFFPATCH_MAGIC: Final = b"HDIFF13&zstd\x00"
_HDIFFPATCH_NUMBERS: Final = 11
_PIECE_BYTES: Final = 1 << 18

_Bytes: TypeAlias = bytes | mmap.mmap


class Readable(Protocol):
    """Something to read from its beginning to its end."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes, all that are left where that is negative, and none at the end."""


class Codec(StrEnum):
    """Who understands a delta; the words of the directive."""

    ZSTD = "zstd"
    HDIFFPATCH = "hdiffpatch"


def codecs() -> frozenset[Codec]:
    """Return the codecs that are installed here."""
    return frozenset(codec for codec, functions in _CODECS.items() if find_spec(functions.package) is not None)


def make_delta(codec: Codec, source: Path, target: Path, out: Path) -> None:
    """Write what turns ``source`` into ``target`` to ``out``. Blocks, in a thread of its own if one likes.

    Raises:
        TooLargeError: an image of more than MAX_SIDE_BYTES.
        ConfigurationError: the codec is not installed here.
        OSError: a file that cannot be read or written; ``out`` is not a delta then.
    """
    for image in (source, target):
        if image.stat().st_size > MAX_SIDE_BYTES:
            raise TooLargeError(f"an image has {MAX_SIDE_BYTES} bytes at most for a delta", limit_bytes=MAX_SIDE_BYTES)
    with _bytes_of(source) as old, _bytes_of(target) as new:
        delta = _installed(codec).make(old, new)
    out.write_bytes(delta)


def apply_delta(codec: Codec, source: Path, delta: Path, out: Path, *, target_bytes: int) -> None:
    """Write the target to ``out``: exactly ``target_bytes``, whose digest the caller has yet to compare. Blocks.

    Never writes more than that, and refuses a delta that promises another size before it allocates anything for it.

    Raises:
        DeltaError: no delta of this codec, one for another size or, where the codec can tell, for another source, or
            one that takes too much memory; ``out`` holds a part of something at most.
        ConfigurationError: the codec is not installed here.
        OSError: a file that cannot be read or written.
    """
    with _bytes_of(source) as old, delta.open("rb") as file, out.open("wb") as result:
        for piece in target_pieces(codec, old, file, delta_bytes=delta.stat().st_size, target_bytes=target_bytes):
            result.write(piece)


def target_pieces(
    codec: Codec, source: bytes | mmap.mmap, delta: Readable, *, delta_bytes: int, target_bytes: int
) -> Iterator[bytes]:
    """Yield the target, piece by piece: as ``apply_delta``, for who keeps images elsewhere than in files. Blocks.

    Raises:
        DeltaError, ConfigurationError: see ``apply_delta``; what was yielded is a part of something at most.
    """
    if max(len(source), delta_bytes, target_bytes) > MAX_SIDE_BYTES:
        raise DeltaError(f"a delta, and the images it is about, have {MAX_SIDE_BYTES} bytes at most")
    apply = _installed(codec).apply
    try:
        yield from apply(source, delta, target_bytes)
    except MemoryError as exc:
        raise DeltaError("a delta that takes more memory than there is here") from exc


class _Functions(NamedTuple):
    """What a codec does; ``apply`` yields pieces that add up to the bytes it was told, or raises DeltaError."""

    package: str
    make: Callable[[_Bytes, _Bytes], bytes]
    apply: Callable[[_Bytes, Readable, int], Iterator[bytes]]


def _installed(codec: Codec) -> _Functions:
    if codec not in codecs():
        raise ConfigurationError(f"deltas by {codec} need the extra [deltas] of tidegate")
    return _CODECS[codec]


@contextmanager
def _bytes_of(path: Path) -> Iterator[_Bytes]:
    """Map a file: its pages are the kernel's, who can take them back."""
    with path.open("rb") as file:
        if not path.stat().st_size:  # there is no map of nothing
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def _zstd_prefix(source: _Bytes) -> tuple[zstd.ZstdDict, int] | None:
    """Return the source as the bytes before the frame; only so does long-distance matching reach into it.

    As a dictionary, which is all that the package ``zstandard`` offers, it finds less: a delta of two images of 16 MiB
    that differ in 400 places had 4.6 MB, where this one has 8 kB.
    """
    return zstd.ZstdDict(source, is_raw=True).as_prefix if len(source) >= _ZSTD_LEAST_SOURCE else None


def _make_zstd(source: _Bytes, target: _Bytes) -> bytes:
    window_log = max((len(source) + len(target) - 1).bit_length(), _ZSTD_LEAST_WINDOW_LOG)
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: _ZSTD_LEVEL,
        zstd.CompressionParameter.window_log: window_log,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return zstd.compress(target, options=options, zstd_dict=_zstd_prefix(source))


def _apply_zstd(source: _Bytes, delta: Readable, target_bytes: int) -> Iterator[bytes]:
    data = delta.read(_PIECE_BYTES)
    try:
        # With a content size in its header, a frame makes the library allocate no more than that.
        if zstd.get_frame_info(data).decompressed_size != target_bytes:
            raise DeltaError(f"a delta that does not promise the {target_bytes} bytes that are signed")
        most = zstd.DecompressionParameter.window_log_max.bounds()[1]
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: most}
        decompressor = zstd.ZstdDecompressor(zstd_dict=_zstd_prefix(source), options=options)
        left = target_bytes
        while not decompressor.eof:
            if decompressor.needs_input and not data:
                raise DeltaError("a delta that ends early")
            piece = decompressor.decompress(data, max_length=_PIECE_BYTES)
            left -= len(piece)
            if left < 0:
                raise DeltaError("a delta that makes more bytes than it promised")
            yield piece
            data = delta.read(_PIECE_BYTES) if decompressor.needs_input and not decompressor.eof else b""
        if left or decompressor.unused_data or delta.read(1):
            raise DeltaError("a delta that makes fewer bytes than it promised, or does not end with its frame")
    except zstd.ZstdError as exc:
        raise DeltaError("not a zstd delta for this image") from exc


def _make_hdiffpatch(source: _Bytes, target: _Bytes) -> bytes:
    import hdiffpatch  # noqa: PLC0415 - an extra that need not be here

    config = hdiffpatch.ZStdConfig(level=_HDIFFPATCH_LEVEL)
    return hdiffpatch.diff(source[:], target[:], compression=config, validate=False, big_cache_match=True)


def _apply_hdiffpatch(source: _Bytes, delta: Readable, target_bytes: int) -> Iterator[bytes]:
    import hdiffpatch  # noqa: PLC0415 - an extra that need not be here

    data = delta.read()
    _check_hdiffpatch(data, len(source), target_bytes)
    try:
        target = hdiffpatch.apply(source[:], data)
    except hdiffpatch.HDiffPatchError as exc:
        raise DeltaError("not a hdiffpatch delta for this image") from exc
    if len(target) != target_bytes:
        raise DeltaError("a delta that makes another number of bytes than it promised")
    yield target


def _check_hdiffpatch(data: bytes, source_bytes: int, target_bytes: int) -> None:
    """Read all numbers of the header (``HDIFF13``): the library allocates what they say before it looks any further.

    They are the sizes of target and source, how many pieces are copied, and of each of four sections its size before
    compression and after. Beyond twice what it makes, no delta that is worth anything needs room for one.
    """
    if not data.startswith(_HDIFFPATCH_MAGIC):
        raise DeltaError("not a hdiffpatch delta for this image")
    at = len(_HDIFFPATCH_MAGIC)
    numbers = []
    for _ in range(_HDIFFPATCH_NUMBERS):
        number, at = _read_number(data, at)
        numbers.append(number)
    if numbers[0] != target_bytes:
        raise DeltaError(f"a delta that does not promise the {target_bytes} bytes that are signed")
    if numbers[1] != source_bytes:
        raise DeltaError("a delta for another source")
    packed = sum(compressed or size for size, compressed in zip(numbers[3::2], numbers[4::2], strict=True))
    if max(numbers[3::2]) > 2 * max(target_bytes, _PIECE_BYTES) or packed != len(data) - at:
        raise DeltaError("a delta whose header promises what it cannot hold")


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """Return HDiffPatch's number at ``at``, and where it ends.

    It has seven bits a byte, the highest first, and the top bit on all but the last.
    """
    number = 0
    for end, byte in enumerate(data[at : at + 10], start=at + 1):
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, end
    raise DeltaError("a delta whose header ends early")


_CODECS: Final[Mapping[Codec, _Functions]] = {
    Codec.ZSTD: _Functions(zstd.__name__, _make_zstd, _apply_zstd),
    Codec.HDIFFPATCH: _Functions("hdiffpatch", _make_hdiffpatch, _apply_hdiffpatch),
}
