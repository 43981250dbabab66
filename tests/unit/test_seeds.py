"""Seeds: pieces are taken from the running image where they are equal, and from nowhere else."""

import hashlib
import random
from pathlib import Path

import pytest

from device_sim.agent.seeds import Seeds
from device_sim.agent.slots import Piece
from firmware_store.cutting import cut
from firmware_store.suit_values import ChunkProfile

NOISE = random.Random(8).randbytes(300_000)


def pieces_of(image: bytes, profile: ChunkProfile) -> list[Piece]:
    pieces, offset = [], 0
    for chunk in cut([image], profile):
        pieces.append(Piece(offset, len(chunk), hashlib.sha256(chunk).digest()))
        offset += len(chunk)
    return pieces


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "app.img"
    path.write_bytes(NOISE)
    return path


def test_a_piece_that_has_moved_is_taken_only_where_that_is_asked_for(image: Path) -> None:
    moved = pieces_of(b"a line in front" + NOISE, ChunkProfile.CDC)

    assert Seeds(image).take(moved) == [None] * len(moved)
    found = Seeds(image).take(moved, moved=True)
    assert found[0] is None
    assert b"".join(piece for piece in found[1:] if piece is not None) == NOISE[-sum(map(len, filter(None, found))) :]
    assert found.count(None) <= 2


def test_a_file_that_was_laid_out_and_not_written_has_only_zeros_to_give(tmp_path: Path) -> None:
    path = tmp_path / "app.img"
    with path.open("wb") as file:
        file.truncate(65_536)
    zeros = Piece(16_384, 16_384, hashlib.sha256(bytes(16_384)).digest())
    others = Piece(32_768, 16_384, hashlib.sha256(NOISE[:16_384]).digest())

    assert Seeds(path).take([zeros, others]) == [bytes(16_384), None]


def test_pieces_of_a_file_that_is_too_short_or_missing_are_not_taken(tmp_path: Path, image: Path) -> None:
    pieces = pieces_of(NOISE, ChunkProfile.CDC)
    image.write_bytes(NOISE[:-1])

    assert Seeds(image).take(pieces, moved=True)[-1] is None
    assert None not in Seeds(image).take(pieces, moved=True)[:-1]
    assert Seeds(tmp_path / "missing").take(pieces, moved=True) == [None] * len(pieces)


def test_what_has_changed_since_the_file_was_cut_is_not_taken(image: Path) -> None:
    seeds, pieces = Seeds(image), pieces_of(b"a line in front" + NOISE, ChunkProfile.CDC)
    seeds.take(pieces, moved=True)
    image.write_bytes(bytes(len(NOISE)))

    assert seeds.take(pieces, moved=True) == [None] * len(pieces)
