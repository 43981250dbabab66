"""The components of a bundle as the command line names them: their images, and how those are cut."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from firmware_store.errors import InvalidInputError
from firmware_store.suit import ChunkProfile
from server.cli.words import CHUNKS, SLOT_LETTERS


def parse_images(components: Sequence[str]) -> dict[str, Path | Mapping[int, Path]]:
    """Return the files of each component, or of each of its slots.

    Raises:
        InvalidInputError: neither NAME=PATH nor NAME@SLOT=PATH, or one twice.
    """
    images: dict[str, Path | Mapping[int, Path]] = {}
    slots: dict[str, dict[int, Path]] = {}
    for argument in components:
        target, _, path = argument.partition("=")
        name, at, letter = target.partition("@")
        slot = SLOT_LETTERS.find(letter) if len(letter) == 1 else -1
        if at and slot >= 0 and path and (name not in images or (name in slots and slot not in slots[name])):
            images[name] = slots.setdefault(name, {})
            slots[name][slot] = Path(path)
        elif not at and path and name not in images:
            images[name] = Path(path)
        else:
            raise InvalidInputError(f"a component is NAME=PATH or NAME@SLOT=PATH, each once, and not {argument!r}")
    return images


def parse_profiles(choices: Sequence[str], images: Mapping[str, object]) -> dict[str, ChunkProfile]:
    """Return how each component is cut of which KIND or NAME=KIND says so; what is said of one goes before all.

    Raises:
        InvalidInputError: no such kind, or no such component.
    """
    kinds = {word: profile for profile, word in CHUNKS.items()}
    profiles: dict[str, ChunkProfile] = {}
    for choice in sorted(choices, key=lambda choice: "=" in choice):
        name, equals, kind = choice.rpartition("=")
        if kind not in kinds or (equals and name not in images):
            raise InvalidInputError(f"chunks are KIND or NAME=KIND, of {', '.join(kinds)}, and not {choice!r}")
        profiles |= dict.fromkeys([name] if equals else images, kinds[kind])
    return profiles
