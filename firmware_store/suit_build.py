"""Writes the one shape of manifest that ``suit_read`` accepts.

A manifest is a small program. Ours always does the same: it names vendor, class, digests and sizes (shared sequence),
fetches each image by its index (install), compares it (validate) and starts the first one (invoke). With more than one
component every sequence, a nested one too, begins with set-component-index.

    shared    [12 true,] 20 {vendor, class?, digest, size}  [or, for several components: 20 {vendor, class?}, then
              12 i, 20 {digest, size} for each, then 12 true]
              1 15, 2 15  [or, for several classes: 1 15, 15 [<< [12 true,] 20 {class}, 2 15 >>, ...]]
    install   ([12 i,] 20 {uri, fetch arguments}, 21 2, 3 15) for each component
    validate  [12 true,] 3 15
    invoke    [12 0,] 23 2

A component with an image for each of its slots has, in the place of the parameters of its image and of its fetch, a
try-each of its slots, in ascending order (Example 3 of the draft's Appendix B.4):

    shared    15 [<< [12 i,] 20 {slot}, 5 5, 20 {digest, size} >>, ...]
    install   15 [<< [12 i,] 20 {slot}, 5 5, 20 {uri, fetch arguments} >>, ...], 21 2, 3 15
"""

from collections.abc import Callable, Sequence

from firmware_store.codec import Encodable, decode, encode
from firmware_store.errors import ManifestError
from firmware_store.shapes import as_map
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
from firmware_store.suit_read import read_manifest, suit_digest
from firmware_store.suit_values import Component


def build_manifest(
    *,
    sequence_number: int,
    version: tuple[int, ...],
    vendor_id: bytes,
    class_ids: Sequence[bytes],
    components: Sequence[Component],
) -> bytes:
    """Return the manifest's bytes.

    Raises:
        ManifestError: values that ``read_manifest`` would not accept.
        CodecError: numbers beyond 64 bits.
    """
    every, first = _select(True, components), _select(0, components)
    common: dict[int, Encodable] = {
        Common.COMPONENTS: [[component.name.encode()] for component in components],
        Common.SHARED: encode(_shared_sequence(vendor_id, class_ids, components)),
    }
    members: dict[int, Encodable] = {
        Member.VERSION: MANIFEST_VERSION,
        Member.SEQUENCE_NUMBER: sequence_number,
        Member.COMMON: encode(common),
        Member.SET_VERSION: encode(version),
        Member.VALIDATE: encode([*every, Command.IMAGE_MATCH, Report.ALL]),
        Member.INVOKE: encode([*first, Command.INVOKE, Report.FAILURE]),
        Member.INSTALL: encode(_install_sequence(components)),
    }
    manifest = encode(members)
    if read_manifest(manifest).components != tuple(components):
        raise ManifestError("a component with slots repeats the image of the first one: make it with of_slots")
    return manifest


def bind_text(manifest: bytes, text: bytes) -> bytes:
    """Return the manifest with the digest of a severable text member.

    Raises:
        ManifestError: no manifest of ours.
    """
    read_manifest(manifest)
    members = as_map(decode(manifest), "manifest")
    members[Member.TEXT] = [SHA256_ID, suit_digest(text)]
    return encode(members)


def _select(index: int, components: Sequence[Component]) -> list[Encodable]:
    return [Command.SET_COMPONENT_INDEX, index] if len(components) > 1 else []


def _shared_sequence(vendor_id: bytes, class_ids: Sequence[bytes], components: Sequence[Component]) -> list[Encodable]:
    every = _select(True, components)
    parameters: dict[int, Encodable] = {Parameter.VENDOR_ID: vendor_id}
    if len(class_ids) == 1:
        parameters[Parameter.CLASS_ID] = class_ids[0]
    commands: list[Encodable] = [*every, Command.OVERRIDE_PARAMETERS, parameters]
    if len(components) == 1 and not components[0].slots:
        parameters.update(_image_parameters(components[0]))
    else:
        for index, component in enumerate(components):
            commands += _for_each_slot(component, _select(index, components), _image_parameters)
        commands += every
    commands += [Command.VENDOR_ID, Report.ALL]
    if len(class_ids) == 1:
        return [*commands, Command.CLASS_ID, Report.ALL]
    choices: list[Encodable] = []
    for class_id in class_ids:
        choice: dict[int, Encodable] = {Parameter.CLASS_ID: class_id}
        choices.append(encode([*every, Command.OVERRIDE_PARAMETERS, choice, Command.CLASS_ID, Report.ALL]))
    return [*commands, Command.TRY_EACH, choices]


def _for_each_slot(
    component: Component, select: list[Encodable], parameters: Callable[[Component], Encodable]
) -> list[Encodable]:
    """Set the parameters of the component's image, or of each slot's once the slot is known to be the one."""
    choices: list[Encodable] = []
    for slot, image in component.images().items():
        if slot is None:
            return [*select, Command.OVERRIDE_PARAMETERS, parameters(image)]
        chosen: dict[int, Encodable] = {Parameter.COMPONENT_SLOT: slot}
        choice: list[Encodable] = [*select, Command.OVERRIDE_PARAMETERS, chosen, Command.COMPONENT_SLOT, Report.MATCH]
        choices.append(encode([*choice, Command.OVERRIDE_PARAMETERS, parameters(image)]))
    return [*select, Command.TRY_EACH, choices]


def _image_parameters(component: Component) -> dict[int, Encodable]:
    return {
        Parameter.IMAGE_DIGEST: encode([SHA256_ID, component.image_digest]),
        Parameter.IMAGE_SIZE: component.image_size,
    }


def _install_sequence(components: Sequence[Component]) -> list[Encodable]:
    commands: list[Encodable] = []
    for index, component in enumerate(components):
        commands += _for_each_slot(component, _select(index, components), _fetch_parameters)
        commands += [Command.FETCH, Report.FAILURE, Command.IMAGE_MATCH, Report.ALL]
    return commands


def _fetch_parameters(component: Component) -> dict[int, Encodable]:
    fetch = component.fetch
    arguments: dict[int, Encodable] = {
        FetchArgument.INDEX_DIGEST: fetch.index_digest,
        FetchArgument.INDEX_SIZE: fetch.index_size,
        FetchArgument.CHUNK_COUNT: fetch.chunk_count,
        FetchArgument.PROFILE: fetch.profile,
    }
    # A fetch needs a URI; ours is a relative name that nobody follows: the index digest says what to get.
    return {Parameter.URI: component.name, Parameter.FETCH_ARGUMENTS: encode(arguments)}
