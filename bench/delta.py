"""What an update costs on the wire, way by way, for real pairs of consecutive releases, and which way a device takes.

    python -m bench.delta --out bench/results [--pair nats-server ...] [--cache var/delta]

Wants ``apt-get`` of Debian 12 and ``pip`` (``bench.delta_pairs``), the program ``xdelta3`` (Debian package), and five
minutes of one core. Prints ``delta.json`` and writes it, and ``delta.md``, to ``--out``, with the pairs that are there
already from another run.

Bytes are what a device receives: index and chunks as they travel, for a delta as for an image. The chunks it has itself
are found by the agent's own code; a device's choice is made by its own rule, page by page, with what it read before it
decided. ``bsdiff4`` and ``xdelta3`` are beside it for comparison: their files as they are, without an index. Seconds
are those of a core, on whatever machine this is.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import bsdiff4  # type: ignore[import-untyped]

from bench.delta_pairs import PAIRS, images_of
from device_sim.agent.costs import Way, cheapest, index_bytes_least
from device_sim.agent.seeds import Seeds
from device_sim.agent.slots import Piece
from firmware_store.chunks import chunk_image, decode_index, decode_page
from firmware_store.deltas import Codec, apply_delta, make_delta
from firmware_store.suit_values import ChunkProfile, Fetch
from server.protocol.sources import DeltaOffer

NAME: Final = "delta"
WITHIN: Final = 1.05
PROFILES: Final = (ChunkProfile.FIXED, ChunkProfile.CDC)
_READ_BYTES: Final = 1 << 18


class PageCost(NamedTuple):
    """Bytes on the wire: of a page, of all its chunks, and of those that the device lacks."""

    page: int
    chunks: int
    missing: int


class Listed(NamedTuple):
    """An image as its index lists it."""

    fetch: Fetch
    pages: tuple[PageCost, ...]

    @property
    def index_bytes(self) -> int:
        return self.fetch.index_size + sum(each.page for each in self.pages)

    @property
    def whole_bytes(self) -> int:
        return self.index_bytes + sum(each.chunks for each in self.pages)

    @property
    def missing_bytes(self) -> int:
        return self.index_bytes + sum(each.missing for each in self.pages)


class Delta(NamedTuple):
    offer: DeltaOffer
    seconds: float


def measure(name: str, cache: Path, folder: Path) -> dict[str, Any]:
    """Return every way's bytes for one pair, and the device's pick among ours."""
    source, target = images_of(name, cache)
    size, pair = target.stat().st_size, PAIRS[name]
    deltas = {codec: _delta(codec, source, target, folder) for codec in Codec}
    ways: dict[str, int] = {"whole": size}
    ways |= {f"{codec} delta": delta.offer.wire_bytes for codec, delta in deltas.items()}
    picks: dict[str, Any] = {}
    for profile in PROFILES:
        listed = _listed(target, profile, Seeds(source))
        ways[f"chunks, {_word(profile)}"] = listed.whole_bytes
        ways[f"chunks + seed, {_word(profile)}"] = listed.missing_bytes
        for codecs in ((), (Codec.ZSTD,), (Codec.ZSTD, Codec.HDIFFPATCH)):
            offers = [deltas[codec].offer for codec in codecs]
            key = " + ".join([_word(profile), *codecs])
            picks[key] = _judged(listed, offers, size)
    others = {
        "bsdiff4": _other(folder, source, target, _bsdiff4),
        "xdelta3": _other(folder, source, target, _xdelta3),
    }
    return {
        "pair": name,
        "says": pair.says,
        "source": pair.source,
        "target": pair.target,
        "source_bytes": source.stat().st_size,
        "target_bytes": size,
        "bytes": ways | {other: result["bytes"] for other, result in others.items()},
        "seconds_to_make": {
            **{f"{codec} delta": round(delta.seconds, 1) for codec, delta in deltas.items()},
            **{other: result["seconds"] for other, result in others.items()},
        },
        "picks": picks,
    }


def pick(listed: Listed, offers: Sequence[DeltaOffer], whole_bytes: int | None) -> tuple[str, int]:
    """Return the way that a device takes and all that it reads: the rule of ``device_sim.agent.image_fetch``."""
    spent = missing = 0
    index_bytes = index_bytes_least(listed.fetch)
    steps = iter([PageCost(listed.fetch.index_size, 0, 0), *listed.pages])
    while True:
        option = cheapest(
            missing_bytes=missing,
            index_bytes=index_bytes,
            deltas=offers,
            whole_bytes=whole_bytes,
            is_begun=spent > 0,
        )
        assert option is not None
        step = next(steps, None)
        if option.way is not Way.CHUNKS or step is None:
            word = option.way.name.lower() if option.delta is None else f"{option.delta.codec} delta"
            return word, spent + option.wire_bytes
        spent += step.page
        index_bytes = listed.index_bytes - spent
        missing += step.missing


def _judged(listed: Listed, offers: Sequence[DeltaOffer], size: int) -> dict[str, Any]:
    way, read = pick(listed, offers, size)
    best = min(size, listed.missing_bytes, *(offer.wire_bytes for offer in offers))
    return {"way": way, "bytes": read, "cheapest_bytes": best, "ratio": round(read / best, 4)}


def _listed(image: Path, profile: ChunkProfile, seeds: Seeds) -> Listed:
    """Cut an image, and look for its chunks where a device does; a chunk that occurs twice travels once."""
    cut = chunk_image(_blocks_of(image), profile)
    for _ in cut:
        pass
    index, offset, seen = cut.index(), 0, set[bytes]()
    pages = []
    for page, data in zip(decode_index(index.root, index.fetch), index.pages, strict=True):
        every = missing = 0
        for chunk in decode_page(data, page):
            piece = Piece(offset, chunk.raw_size, chunk.raw_digest)
            offset += chunk.raw_size
            if chunk.wire_digest in seen:
                continue
            seen.add(chunk.wire_digest)
            every += chunk.wire_size
            missing += chunk.wire_size * (seeds.take([piece], moved=profile is ChunkProfile.CDC) == [None])
        pages.append(PageCost(len(data), every, missing))
    return Listed(index.fetch, tuple(pages))


def _delta(codec: Codec, source: Path, target: Path, folder: Path) -> Delta:
    """Make a delta, see that it makes the target, and cut it as the server does."""
    file, made = folder / codec, folder / "made"
    begun = _processor_s()
    make_delta(codec, source, target, file)
    seconds = _processor_s() - begun
    apply_delta(codec, source, file, made, target_bytes=target.stat().st_size)
    assert _digest(made) == _digest(target), f"{codec} makes something else"
    listed = _listed(file, ChunkProfile.FIXED, Seeds(folder / "none"))
    offer = DeltaOffer(
        component=0,
        codec=codec.value,
        source_digest=_digest(source),
        target_digest=_digest(target),
        wire_bytes=listed.whole_bytes,
        index_digest=listed.fetch.index_digest,
        index_size=listed.fetch.index_size,
        chunk_count=listed.fetch.chunk_count,
    )
    return Delta(offer, seconds)


def _other(folder: Path, source: Path, target: Path, make: Callable[[Path, Path, Path], None]) -> dict[str, Any]:
    out = folder / "other"
    begun = _processor_s()
    make(source, target, out)
    return {"bytes": out.stat().st_size, "seconds": round(_processor_s() - begun, 1)}


def _bsdiff4(source: Path, target: Path, out: Path) -> None:
    bsdiff4.file_diff(str(source), str(target), str(out))


def _xdelta3(source: Path, target: Path, out: Path) -> None:
    """At its best level, with a window over the whole source."""
    window = max(source.stat().st_size, 1 << 19)
    options = ["-9", "-B", str(window), "-S", "lzma"]
    subprocess.run(["xdelta3", "-e", "-f", *options, "-s", str(source), str(target), str(out)], check=True)


def _processor_s() -> float:
    """Seconds of a core so far, of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def _blocks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            yield block


def _digest(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()


def _word(profile: ChunkProfile) -> str:
    return profile.name.lower().replace("_", "-")


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results in Markdown."""
    ways = list(results[0]["bytes"])
    lines = ["| bytes on the wire | " + " | ".join(result["pair"] for result in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    lines += [f"| {way} | " + " | ".join(f"{result['bytes'][way]:,}" for result in results) + " |" for way in ways]
    lines += ["", "| seconds to make | " + " | ".join(result["pair"] for result in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    for way in results[0]["seconds_to_make"]:
        lines.append(f"| {way} | " + " | ".join(str(result["seconds_to_make"][way]) for result in results) + " |")
    lines += ["", "| a device picks, of whole image and | " + " | ".join(result["pair"] for result in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    for key in results[0]["picks"]:
        cells = [result["picks"][key] for result in results]
        lines.append(f"| {key} | " + " | ".join(f"{cell['way']}, {cell['ratio']:.3f}" for cell in cells) + " |")
    worst = max(cell["ratio"] for result in results for cell in result["picks"].values())
    lines += [
        "",
        "Behind each pick: what the device received, index pages that it read in vain included, over the cheapest of",
        f"its ways. The worst is {worst:.3f}; the aim is {WITHIN}.",
        "",
        *(
            f"- {result['pair']}: {result['says']}, {result['source']} to {result['target']}, "
            f"{result['source_bytes']:,} to {result['target_bytes']:,} bytes"
            for result in results
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Bytes on the wire for real pairs of consecutive releases.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pair", action="append", choices=PAIRS)
    parser.add_argument("--cache", type=Path, default=Path("var/delta"))
    arguments = parser.parse_args()
    if shutil.which("xdelta3") is None:
        parser.error("the program xdelta3 is missing (Debian package xdelta3)")
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / f"{NAME}.json"
    measured = {result["pair"]: result for result in (json.loads(file.read_text()) if file.exists() else [])}
    for name in arguments.pair or PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = measure(name, arguments.cache, Path(folder))
        results = [measured[pair] for pair in PAIRS if pair in measured]
        file.write_text(json.dumps(results, indent=1) + "\n")
        (arguments.out / f"{NAME}.md").write_text(table(results))
    print(file.read_text(), end="")
    return int(any(cell["ratio"] > WITHIN for result in results for cell in result["picks"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
