"""Reads the one shape of manifest that ``suit_build`` describes, and refuses everything else.

The reader walks the commands in the order of the profile and stops at the first one that differs, so that nothing is
left for a device to interpret: no command that we do not know, none twice, none missing, none out of order.
"""

from functools import partial
from hashlib import sha256
from typing import Final, NamedTuple

from firmware_store.codec import Value, decode, encode
from firmware_store.errors import InvalidInputError, ManifestError
from firmware_store.shapes import as_bytes, as_int, as_list, as_map, as_text
from firmware_store.suit_labels import (
    MANIFEST_VERSION,
    SHA256_ID,
    Command,
    Common,
    FetchArgument,
    Member,
    Parameter,
    Report,
)
from firmware_store.suit_sequence import BySlot, CommandSequence, Parameters, nested
from firmware_store.suit_values import (
    CHUNK_SIZES,
    DIGEST_BYTES,
    ID_BYTES,
    MAX_CLASSES,
    MAX_COMPONENTS,
    MAX_IMAGE_BYTES,
    MAX_INDEX_BYTES,
    STAGES,
    ChunkProfile,
    Component,
    Fetch,
    Manifest,
    SlotImage,
    format_version,
    is_component_name,
)

_IMAGE_LABELS: Final = (Parameter.IMAGE_DIGEST, Parameter.IMAGE_SIZE)
_FETCH_LABELS: Final = (Parameter.URI, Parameter.FETCH_ARGUMENTS)


def suit_digest(content: bytes) -> bytes:
    """Return the SHA-256 over the byte string's header **and** its content, as SUIT wants it (section 8.3)."""
    return sha256(encode(content)).digest()


def read_manifest(data: bytes) -> Manifest:
    """Return what a manifest says; whether anybody signed it is not asked here.

    Raises:
        ManifestError: not strict CBOR, or not our profile.
    """
    try:
        return _read_manifest(data)
    except InvalidInputError as exc:
        raise ManifestError(f"a manifest outside of our profile: {exc}") from exc


def read_digest(value: Value, what: str) -> bytes:
    """Return the bytes of a SUIT_Digest, ``[-16, 32 bytes]`` (section 8.1).

    Raises:
        CodecError: another algorithm or another shape.
    """
    algorithm, digest = as_list(value, what, least=2, most=2)
    as_int(algorithm, f"the algorithm of {what}", least=SHA256_ID, most=SHA256_ID)
    return as_bytes(digest, what, size=DIGEST_BYTES)


class _Image(NamedTuple):
    digest: bytes
    size: int


def _read_manifest(data: bytes) -> Manifest:
    members = as_map(decode(data), "manifest", labels=set(Member) - {Member.TEXT}, optional=(Member.TEXT,))
    as_int(members[Member.VERSION], "manifest version", least=MANIFEST_VERSION, most=MANIFEST_VERSION)
    common = as_map(nested(members[Member.COMMON], "common section"), "common section", labels=set(Common))
    names = _read_names(common[Common.COMPONENTS])
    vendor_id, class_ids, images = _read_shared(common[Common.SHARED], components=len(names))
    fetches = _read_install(members[Member.INSTALL], names)
    _read_validate(members[Member.VALIDATE], components=len(names))
    _read_invoke(members[Member.INVOKE], components=len(names))
    text = members.get(Member.TEXT)
    return Manifest(
        sequence_number=as_int(members[Member.SEQUENCE_NUMBER], "sequence number", least=1),
        version=_read_version(members[Member.SET_VERSION]),
        vendor_id=vendor_id,
        class_ids=class_ids,
        components=tuple(
            _component(name, image, fetch) for name, image, fetch in zip(names, images, fetches, strict=True)
        ),
        digest=suit_digest(data),
        text_digest=None if text is None else read_digest(text, "text digest"),
    )


def _read_names(value: Value) -> list[str]:
    names: list[str] = []
    for identifier in as_list(value, "components", least=1, most=MAX_COMPONENTS):
        (part,) = as_list(identifier, "component identifier", least=1, most=1)
        # Bytes that are not ASCII become characters that no component name has.
        name = as_bytes(part, "component identifier").decode("latin-1")
        if not is_component_name(name) or name in names:
            raise ManifestError(f"component {name!r} is named twice, or is no component name")
        names.append(name)
    return names


def _read_version(value: Value) -> tuple[int, ...]:
    numbers = as_list(nested(value, "version"), "version")
    version = tuple(as_int(number, "a number of the version", least=min(STAGES.values())) for number in numbers)
    format_version(version)
    return version


def _read_shared(value: Value, *, components: int) -> tuple[bytes, tuple[bytes, ...], list[BySlot[_Image]]]:
    sequence = CommandSequence(value, "shared sequence", components=components)
    sequence.select(True)
    optional = _IMAGE_LABELS if components == 1 else ()
    common = sequence.parameters(Parameter.VENDOR_ID, optional=(Parameter.CLASS_ID, *optional))
    image = {label: common[label] for label in _IMAGE_LABELS if label in common}
    images: list[BySlot[_Image]] = []
    if image:
        images.append({None: _read_image(as_map(image, "the parameters of the image", labels=_IMAGE_LABELS))})
    elif components == 1:
        images.append(sequence.slots(0, _IMAGE_LABELS, _read_image))
    else:
        for index in range(components):
            sequence.select(index)
            images.append(sequence.each_slot(index, _IMAGE_LABELS, _read_image))
        sequence.select(True)
    sequence.report(Command.VENDOR_ID, Report.ALL)
    if Parameter.CLASS_ID in common:
        class_ids = [_read_id(common[Parameter.CLASS_ID], "class identifier")]
        sequence.report(Command.CLASS_ID, Report.ALL)
    else:
        choices = as_list(sequence.take(Command.TRY_EACH), "try-each", least=2, most=MAX_CLASSES)
        class_ids = [_read_class(choice, components=components) for choice in choices]
    sequence.end()
    if len(set(class_ids)) != len(class_ids):
        raise ManifestError("a class is named twice")
    return _read_id(common[Parameter.VENDOR_ID], "vendor identifier"), tuple(class_ids), images


def _read_image(parameters: Parameters) -> _Image:
    digest = read_digest(nested(parameters[Parameter.IMAGE_DIGEST], "image digest"), "image digest")
    return _Image(digest, as_int(parameters[Parameter.IMAGE_SIZE], "image size", least=1, most=MAX_IMAGE_BYTES))


def _read_class(value: Value, *, components: int) -> bytes:
    choice = CommandSequence(value, "try-each sequence", components=components)
    choice.select(True)
    parameters = choice.parameters(Parameter.CLASS_ID)
    choice.report(Command.CLASS_ID, Report.ALL)
    choice.end()
    return _read_id(parameters[Parameter.CLASS_ID], "class identifier")


def _read_id(value: Value, what: str) -> bytes:
    return as_bytes(value, what, size=ID_BYTES)


def _read_install(value: Value, names: list[str]) -> list[BySlot[Fetch]]:
    sequence = CommandSequence(value, "install sequence", components=len(names))
    fetches: list[BySlot[Fetch]] = []
    for index, name in enumerate(names):
        sequence.select(index)
        read = partial(_read_fetch, name=name)
        fetches.append(sequence.each_slot(index, _FETCH_LABELS, read))
        sequence.report(Command.FETCH, Report.FAILURE)
        sequence.report(Command.IMAGE_MATCH, Report.ALL)
    sequence.end()
    return fetches


def _read_fetch(parameters: Parameters, *, name: str) -> Fetch:
    if as_text(parameters[Parameter.URI], "uri") != name:
        raise ManifestError(f"the URI of component {name} must be its name")
    encoded = parameters[Parameter.FETCH_ARGUMENTS]
    arguments = as_map(nested(encoded, "fetch arguments"), "fetch arguments", labels=set(FetchArgument))
    return Fetch(
        index_digest=as_bytes(arguments[FetchArgument.INDEX_DIGEST], "index digest", size=DIGEST_BYTES),
        index_size=as_int(arguments[FetchArgument.INDEX_SIZE], "index size", least=1, most=MAX_INDEX_BYTES),
        chunk_count=as_int(arguments[FetchArgument.CHUNK_COUNT], "chunk count", least=1),
        profile=ChunkProfile(
            as_int(arguments[FetchArgument.PROFILE], "chunk profile", least=min(ChunkProfile), most=max(ChunkProfile))
        ),
    )


def _component(name: str, images: BySlot[_Image], fetches: BySlot[Fetch]) -> Component:
    if images.keys() != fetches.keys():
        raise ManifestError(f"component {name} has images for other slots than it fetches")
    slots: list[SlotImage] = []
    for slot, image in images.items():
        fetch = fetches[slot]
        if not CHUNK_SIZES[fetch.profile].allow(fetch.chunk_count, image.size):
            raise ManifestError(f"component {name} cannot have {image.size} bytes in {fetch.chunk_count} chunks")
        if slot is None:
            return Component(name, image.digest, image.size, fetch)
        slots.append(SlotImage(slot, image.digest, image.size, fetch))
    return Component.of_slots(name, slots)


def _read_validate(value: Value, *, components: int) -> None:
    sequence = CommandSequence(value, "validate sequence", components=components)
    sequence.select(True)
    sequence.report(Command.IMAGE_MATCH, Report.ALL)
    sequence.end()


def _read_invoke(value: Value, *, components: int) -> None:
    sequence = CommandSequence(value, "invoke sequence", components=components)
    sequence.select(0)
    sequence.report(Command.INVOKE, Report.FAILURE)
    sequence.end()
