"""The tree of an envelope is drawn of files that nobody has checked: nothing in them may stop it or draw for itself."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_store.codec import Tag, encode
from firmware_store.suit import open_envelope
from server.cli.envelope_tree import draw, envelope_tree
from tests.releases import read_vector

GOOD = open_envelope(read_vector("envelope_slots"))

scalars = st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=20) | st.text()
keys = st.integers(0, 30) | st.text(max_size=3) | st.binary(max_size=3)


def containers(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(items, max_size=5)
        | st.dictionaries(keys, items, max_size=5)
        | st.builds(Tag, st.integers(0, 200), items)
        | items.map(encode)
    )


values = st.recursive(scalars, containers, max_leaves=12)


def drawn(manifest: bytes, **changes: Any) -> list[str]:
    return list(draw(envelope_tree(replace(GOOD, manifest=manifest, **changes))))


@settings(max_examples=40)
@given(values, values, st.binary(max_size=40))
def test_any_manifest_has_a_tree(manifest: Any, text: Any, block: bytes) -> None:
    lines = drawn(encode(manifest), text=encode(text), blocks=(block, encode(Tag(18, [encode(text), {}, None, b""]))))

    assert all(line.isprintable() for line in lines)


@settings(max_examples=40)
@given(st.lists(values, max_size=8), st.lists(values, max_size=8), values)
def test_any_sequence_of_commands_has_a_tree(shared: list[Any], install: list[Any], common: Any) -> None:
    manifest = {3: encode({2: common, 4: encode(shared)}), 7: encode(install), 20: install}

    assert drawn(encode(manifest))[0] == "107 envelope"


@settings(max_examples=40)
@given(st.sampled_from([1, 2, 3, 5, 12, 15, 20, 21, 23, 18, -257]), values)
def test_any_argument_of_a_command_has_a_tree(code: int, argument: Any) -> None:
    assert drawn(encode({20: encode([code, argument, code])}))


@pytest.mark.parametrize("levels", [3, 4, 2000])
def test_choices_within_choices_end_somewhere(levels: int) -> None:
    commands = encode([23, 2])
    for _ in range(levels):
        commands = encode([15, [commands]])

    lines = drawn(encode({20: commands}))

    assert ("23 invoke" in lines[-1]) == (levels <= 4)


def test_text_cannot_draw_on_the_screen() -> None:
    lines = drawn(encode({4: "http://x\n└─ 23 text: signed\x1b[2J"}))

    assert "http://x\ufffd└─ 23 text: signed\ufffd[2J" in lines[-1]
