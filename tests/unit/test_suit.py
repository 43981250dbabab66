"""The SUIT profile: what we write reads back, and no other shape is accepted, however well it is signed."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any, cast

import pytest
from cryptography.exceptions import InvalidSignature

from firmware_store.codec import Tag, decode, encode
from firmware_store.documents import Kind
from firmware_store.errors import (
    CodecError,
    ConflictError,
    DigestError,
    InvalidInputError,
    ManifestError,
    SignatureError,
)
from firmware_store.keys import Algorithm, SigningKey
from firmware_store.root import RoleName, Scope, open_root
from firmware_store.suit import (
    ChunkProfile,
    Component,
    build_envelope,
    build_manifest,
    format_version,
    open_envelope,
    parse_version,
    read_manifest,
    sever_text,
    sign_envelope,
    suit_digest,
    vendor_id,
    verify_envelope,
)
from firmware_store.suit_values import MAX_IMAGE_BYTES
from tests.releases import (
    APP,
    CLASS_1,
    CLASS_2,
    RELEASE,
    ROOT,
    ROOTFS,
    SIGNERS,
    STRANGER,
    VENDOR,
    check_draft_signature,
    envelope,
    manifest,
    pack_manifest,
    read_vector,
    unpack_manifest,
)

SINGLE, MULTI = manifest(), manifest((APP, ROOTFS), (CLASS_1, CLASS_2))


def signed(description: str | None = None, content: bytes = SINGLE) -> bytes:
    result = build_envelope(content, description=description)
    for key in RELEASE:
        result = sign_envelope(result, key)
    return result


# --- vectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "size"), [(0, 237), (3, 396), (5, 382)], ids=["one", "a/b", "two components"])
def test_an_example_of_the_draft_verifies_and_encodes_again_byte_for_byte(number: int, size: int) -> None:
    """Its signature is ES256 (-7), which the product does not accept: the test does that check itself."""
    example = read_vector(f"draft_example_{number}")

    opened = open_envelope(example)

    assert len(example) == size
    assert example == encode(decode(example))
    assert opened.digest == suit_digest(opened.manifest)
    check_draft_signature(opened)


@pytest.mark.parametrize("number", [0, 3, 5])
def test_an_example_of_the_draft_is_no_release_of_ours(number: int) -> None:
    with pytest.raises(SignatureError):
        verify_envelope(read_vector(f"draft_example_{number}"), ROOT)


def test_a_damaged_example_of_the_draft_does_not_verify() -> None:
    opened = open_envelope(read_vector("draft_example_3"))

    with pytest.raises(InvalidSignature):
        check_draft_signature(replace(opened, signed=opened.signed[:-1] + b"\x00"))


def test_the_vendor_and_class_of_the_draft_are_computed_alike() -> None:
    """Appendix B: vendor fa6b4a53-... is that of "arm.com", as in its text."""
    assert vendor_id("arm.com") == bytes.fromhex("fa6b4a53d5ad5fdfbe9de663e4d41ffe")


@pytest.mark.parametrize(
    ("name", "content", "description"),
    [
        ("envelope_one_component", SINGLE, None),
        ("envelope_two_components", MULTI, "quieter at slack water"),
    ],
)
def test_our_golden_envelopes_verify_and_are_built_again(name: str, content: bytes, description: str | None) -> None:
    vector = read_vector(name)

    verified = verify_envelope(vector, ROOT)

    built = open_envelope(sign_envelope(build_envelope(content, description=description), RELEASE[0]))
    opened = open_envelope(vector)
    assert (opened.manifest, opened.signed, opened.text) == (built.manifest, built.signed, built.text)
    assert opened.blocks[0] == built.blocks[0]  # Ed25519 signs alike every time; ESP256 does not
    assert verified.description == description
    assert verified.manifest.components == (APP, ROOTFS)[: len(verified.manifest.components)]


def test_our_golden_documents_open() -> None:
    assert open_root(read_vector("root"), now=ROOT.issued) == ROOT
    assert ROOT.unseal(Kind.DIRECTIVE, read_vector("directive")).value == {0: 1, 1: b"hi"}


# --- manifests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", [(APP,), (APP, ROOTFS), (ROOTFS, APP)], ids=["one", "two", "the other way"])
@pytest.mark.parametrize("classes", [(CLASS_1,), (CLASS_1, CLASS_2)], ids=["one class", "two classes"])
def test_a_manifest_reads_back(components: tuple[Any, ...], classes: tuple[bytes, ...]) -> None:
    content = manifest(components, classes)

    result = read_manifest(content)

    assert (result.components, result.class_ids, result.vendor_id) == (components, classes, VENDOR)
    assert (result.sequence_number, result.version, result.text_digest) == (7, (1, 2, 0), None)
    assert result.digest == sha256(encode(content)).digest()


def test_the_commands_of_one_component_are_those_of_the_profile() -> None:
    commands = unpack_manifest(SINGLE)

    image = encode([-16, APP.image_digest])
    assert commands[3] == {2: [[b"app"]], 4: [20, {1: VENDOR, 2: CLASS_1, 3: image, 14: 40_000}, 1, 15, 2, 15]}
    assert commands[6] == [1, 2, 0]
    assert commands[7] == [3, 15]
    assert commands[9] == [23, 2]
    arguments = encode({1: APP.fetch.index_digest, 2: 42, 3: 3, 4: 1})
    assert commands[20] == [20, {21: "app", 25: arguments}, 21, 2, 3, 15]


def test_the_commands_of_two_components_each_choose_theirs() -> None:
    commands = unpack_manifest(MULTI)

    one, two = ({3: encode([-16, each.image_digest]), 14: each.image_size} for each in (APP, ROOTFS))
    choices = [encode([12, True, 20, {2: target}, 2, 15]) for target in (CLASS_1, CLASS_2)]
    shared = [12, True, 20, {1: VENDOR}, 12, 0, 20, one, 12, 1, 20, two, 12, True, 1, 15, 15, choices]
    assert commands[3] == {2: [[b"app"], [b"rootfs"]], 4: shared}
    assert commands[7] == [12, True, 3, 15]
    assert commands[9] == [12, 0, 23, 2]
    assert [commands[20][at : at + 2] for at in (0, 8)] == [[12, 0], [12, 1]]


@pytest.mark.parametrize("size", [1, 2**31, 2**32 + 1, MAX_IMAGE_BYTES])
def test_images_of_every_size_have_a_manifest(size: int) -> None:
    component = replace(APP, image_size=size, fetch=replace(APP.fetch, chunk_count=-(-size // 16384)))

    assert read_manifest(manifest((component,))).components == (component,)


def cut(*, profile: int, chunk_count: int) -> Component:
    """65,537 bytes, cut somehow."""
    fetch = replace(APP.fetch, chunk_count=chunk_count, profile=cast("ChunkProfile", profile))
    return replace(APP, image_size=65537, fetch=fetch)


@pytest.mark.parametrize(("profile", "chunk_count"), [(1, 5), (2, 2), (2, 17), (3, 17)])
def test_a_manifest_says_how_an_image_was_cut(profile: int, chunk_count: int) -> None:
    component = cut(profile=profile, chunk_count=chunk_count)

    assert read_manifest(manifest((component,))).components == (component,)


UNBUILDABLE: dict[str, dict[str, Any]] = {
    "no component": {"components": ()},
    "33 components": {"components": tuple(replace(APP, name=f"c{number}") for number in range(33))},
    "a component twice": {"components": (APP, APP)},
    "a component with a path for a name": {"components": (replace(APP, name="../app"),)},
    "a component without a name": {"components": (replace(APP, name=""),)},
    "a component with a name that is not ASCII": {"components": (replace(APP, name="äpp"),)},
    "no class": {"classes": ()},
    "33 classes": {"classes": tuple(bytes([number]) * 16 for number in range(33))},
    "a class twice": {"classes": (CLASS_1, CLASS_1)},
    "a short class": {"classes": (CLASS_1[:15],)},
    "sequence number 0": {"sequence_number": 0},
    "sequence number -1": {"sequence_number": -1},
    "sequence number 2^63": {"sequence_number": 1 << 63},
    "an image without bytes": {"components": (replace(APP, image_size=0),)},
    "an image of 16 GiB and one byte": {
        "components": (replace(APP, image_size=MAX_IMAGE_BYTES + 1, fetch=replace(APP.fetch, chunk_count=1048577)),)
    },
    "an image digest of 31 bytes": {"components": (replace(APP, image_digest=bytes(31)),)},
    "chunks that do not fit the size": {"components": (replace(APP, fetch=replace(APP.fetch, chunk_count=4)),)},
    "an unknown chunk profile": {"components": (cut(profile=4, chunk_count=3),)},
    "no chunk profile": {"components": (cut(profile=0, chunk_count=3),)},
    "too few chunks, cut by content": {"components": (cut(profile=2, chunk_count=1),)},
    "too many chunks, cut by content": {"components": (cut(profile=2, chunk_count=18),)},
    "one chunk of 4 KiB too few": {"components": (cut(profile=3, chunk_count=16),)},
    "an index that is too large": {"components": (replace(APP, fetch=replace(APP.fetch, index_size=65537)),)},
    "an index digest of 33 bytes": {"components": (replace(APP, fetch=replace(APP.fetch, index_digest=bytes(33))),)},
}


@pytest.mark.parametrize("values", UNBUILDABLE.values(), ids=UNBUILDABLE.keys())
def test_a_manifest_that_would_not_be_accepted_is_not_built(values: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        manifest(**values)


def test_a_vendor_that_is_no_uuid_is_refused() -> None:
    with pytest.raises(ManifestError, match="vendor"):
        build_manifest(sequence_number=1, version=(1,), vendor_id=b"short", class_ids=[CLASS_1], components=[APP])


Members = dict[Any, Any]


def at(*path: Any) -> Callable[[Any], Callable[[Members], None]]:
    """``at(3, 4, 0)(12)`` puts 12 there; a callable is called with what was there."""

    def put(value: Any) -> Callable[[Members], None]:
        def change(members: Members) -> None:
            target: Any = members
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = value(target[path[-1]]) if callable(value) else value

        return change

    return put


def without(*path: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        target: Any = members
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]

    return change


# Each of these leaves a manifest that a lenient processor could run; each is signed by both release keys.
REFUSED: dict[str, tuple[bytes, Callable[[Members], None]]] = {
    "manifest version 2": (SINGLE, at(1)(2)),
    "manifest version true": (SINGLE, at(1)(True)),
    "no sequence number": (SINGLE, without(2)),
    "a sequence number as text": (SINGLE, at(2)("7")),
    "no set-version": (SINGLE, without(6)),
    "an empty version": (SINGLE, at(6)([])),
    "a version as text": (SINGLE, at(6)("1.2.0")),
    "a version of five numbers": (SINGLE, at(6)([1, 2, 3, 4, 5])),
    "a version of an unknown stage": (SINGLE, at(6)([1, -4])),
    "a version with true in it": (SINGLE, at(6)([1, True])),
    "no validate sequence": (SINGLE, without(7)),
    "no invoke sequence": (SINGLE, without(9)),
    "no install sequence": (SINGLE, without(20)),
    "a payload-fetch sequence": (SINGLE, at(16)(encode([20, {21: "http://example.com"}, 21, 2]))),
    "a load sequence": (SINGLE, at(8)(encode([23, 2]))),
    "an uninstall sequence": (SINGLE, at(24)(encode([33, 2]))),
    "a reference URI": (SINGLE, at(4)("http://example.com/manifest")),
    "an unknown member": (SINGLE, at(-1)(0)),
    "a common section that is no map": (SINGLE, at(3)([])),
    "dependencies": (SINGLE, at(3, 1)({})),
    "no shared sequence": (SINGLE, without(3, 4)),
    "no components": (SINGLE, at(3, 2)([])),
    "a component of two parts": (SINGLE, at(3, 2)([[b"app", b"2"]])),
    "a component as text": (SINGLE, at(3, 2)([["app"]])),
    "a component id that is no list": (SINGLE, at(3, 2)([b"app"])),
    "no vendor": (SINGLE, without(3, 4, 1, 1)),
    "no vendor condition": (SINGLE, at(3, 4)(lambda commands: commands[:2] + commands[4:])),
    "no class": (SINGLE, without(3, 4, 1, 2)),
    "no class condition": (SINGLE, at(3, 4)(lambda commands: commands[:4])),
    "the class condition before the vendor's": (
        SINGLE,
        at(3, 4)(lambda commands: [*commands[:2], *commands[4:], *commands[2:4]]),
    ),
    "a vendor of 15 bytes": (SINGLE, at(3, 4, 1, 1)(VENDOR[:15])),
    "a vendor as a private enterprise number": (SINGLE, at(3, 4, 1, 1)(Tag(112, b"\x01"))),
    "no image digest": (SINGLE, without(3, 4, 1, 3)),
    "an image digest that is no bytes": (SINGLE, at(3, 4, 1, 3)([-16, bytes(32)])),
    "an image digest by SHA-512": (SINGLE, at(3, 4, 1, 3)(encode([-44, bytes(64)]))),
    "an image digest by SHA-512 in 32 bytes": (SINGLE, at(3, 4, 1, 3)(encode([-44, bytes(32)]))),
    "an image digest of 31 bytes": (SINGLE, at(3, 4, 1, 3)(encode([-16, bytes(31)]))),
    "an image digest of three members": (SINGLE, at(3, 4, 1, 3)(encode([-16, bytes(32), 0]))),
    "no image size": (SINGLE, without(3, 4, 1, 14)),
    "an image size below 0": (SINGLE, at(3, 4, 1, 14)(-1)),
    "an image size that is not the chunks'": (SINGLE, at(3, 4, 1, 14)(4_000_000)),
    "a use-before parameter": (SINGLE, at(3, 4, 1, 4)(1_900_000_000)),
    "a component slot": (SINGLE, at(3, 4, 1, 5)(0)),
    "soft failure": (SINGLE, at(3, 4, 1, 13)(True)),
    "content in the parameters": (SINGLE, at(3, 4, 1, 18)(b"inline")),
    "a custom parameter": (SINGLE, at(3, 4, 1, -257)(0)),
    "set-parameters for override-parameters": (SINGLE, at(3, 4, 0)(19)),
    "a custom command": (SINGLE, at(3, 4)(lambda commands: [*commands, -257, 0])),
    "an abort": (SINGLE, at(3, 4)(lambda commands: [14, 15, *commands])),
    "a write": (SINGLE, at(20)(lambda commands: [18, 15, *commands])),
    "a copy": (SINGLE, at(20)(lambda commands: [*commands, 22, 15])),
    "a swap": (SINGLE, at(20)(lambda commands: [*commands, 31, 15])),
    "a run-sequence": (SINGLE, at(9)(lambda commands: [32, encode(commands)])),
    "a second fetch": (SINGLE, at(20)(lambda commands: commands + commands)),
    "a second invoke": (SINGLE, at(9)(lambda commands: commands + commands)),
    "no image match after the fetch": (SINGLE, at(20)(lambda commands: commands[:4])),
    "no image match in validate": (SINGLE, at(7)([])),
    "a command without its argument": (SINGLE, at(7)([3])),
    "true for the condition of the vendor": (SINGLE, at(3, 4, 2)(True)),
    "a silent condition": (SINGLE, at(7)([3, 0])),
    "a sequence as a list": (SINGLE, lambda members: members.update({7: {3: 15}})),
    "a sequence that is no bytes": (SINGLE, at(3, 4)(lambda commands: encode(["not", "a", "sequence"]))),
    "set-component-index with one component": (SINGLE, at(7)([12, 0, 3, 15])),
    "no URI": (SINGLE, without(20, 1, 21)),
    "a URI that leads elsewhere": (SINGLE, at(20, 1, 21)("https://example.com/app")),
    "a URI as bytes": (SINGLE, at(20, 1, 21)(b"app")),
    "no fetch arguments": (SINGLE, without(20, 1, 25)),
    "fetch arguments without a count": (SINGLE, at(20, 1, 25)(encode({1: bytes(32), 2: 42, 4: 1}))),
    "fetch arguments with one more": (SINGLE, at(20, 1, 25)(encode({1: bytes(32), 2: 42, 3: 3, 4: 1, 5: 0}))),
    "fetch arguments with an empty index": (SINGLE, at(20, 1, 25)(encode({1: bytes(32), 2: 0, 3: 3, 4: 1}))),
    "fetch arguments as a map": (SINGLE, at(20, 1, 25)({1: bytes(32), 2: 42, 3: 3, 4: 1})),
    "a text digest by SHA-512": (SINGLE, at(23)([-44, bytes(64)])),
    "text inside of the manifest": (SINGLE, at(23)(encode({"en-US": {2: "inline"}}))),
    "no set-component-index with two components": (MULTI, at(7)([3, 15])),
    "component index 0 for true": (MULTI, at(7)([12, 0, 3, 15])),
    "component index 1 for true": (MULTI, at(7)([12, 1, 3, 15])),
    "component index false for 0": (MULTI, at(9)([12, False, 23, 2])),
    "component index 1 for 0": (MULTI, at(9)([12, 1, 23, 2])),
    "component index -1": (MULTI, at(9)([12, -1, 23, 2])),
    "component index 2 of two": (MULTI, at(20, 9)(2)),
    "a list of component indices": (MULTI, at(7, 1)([0, 1])),
    "an empty list of component indices": (MULTI, at(7, 1)([])),
    "components in another order": (MULTI, at(20)(lambda commands: [*commands[8:], *commands[:8]])),
    "the images of two components swapped": (
        MULTI,
        at(3, 4)(lambda commands: [*commands[:6], *commands[10:12], *commands[8:10], *commands[6:8], *commands[12:]]),
    ),
    "the install of the second component left out": (MULTI, at(20)(lambda commands: commands[:8])),
    "a try-each of nothing": (MULTI, at(3, 4, 17)([])),
    "a try-each of one": (MULTI, at(3, 4, 17)(lambda choices: choices[:1])),
    "a try-each that may find nothing": (MULTI, at(3, 4, 17)(lambda choices: [*choices, None])),
    "a try-each of one class twice": (MULTI, at(3, 4, 17)(lambda choices: choices[:1] * 2)),
    "a try-each without its component index": (
        MULTI,
        at(3, 4, 17, 0)(encode([20, {2: CLASS_1}, 2, 15])),
    ),
    "a try-each without its condition": (MULTI, at(3, 4, 17, 0)(encode([12, True, 20, {2: CLASS_1}]))),
    "a try-each that goes on": (MULTI, at(3, 4, 17, 0)(encode([12, True, 20, {2: CLASS_1}, 2, 15, 23, 2]))),
    "a try-each that changes the image": (
        MULTI,
        at(3, 4, 17, 0)(encode([12, True, 20, {2: CLASS_1, 3: encode([-16, bytes(32)])}, 2, 15])),
    ),
    "a class and a try-each": (MULTI, at(3, 4, 3)({1: VENDOR, 2: CLASS_1})),
}


@pytest.mark.parametrize(("content", "change"), REFUSED.values(), ids=REFUSED.keys())
def test_a_signed_manifest_outside_of_the_profile_is_refused(content: bytes, change: Callable[[Members], None]) -> None:
    members = unpack_manifest(content)
    change(members)
    changed = pack_manifest(members)

    with pytest.raises(ManifestError):
        verify_envelope(envelope(changed), ROOT)
    assert changed != content


@pytest.mark.parametrize(
    "content", [b"", b"\xff", SINGLE + b"\x00", SINGLE[:-1], b"\x80"], ids=["no", "break", "long", "short", "list"]
)
def test_signed_bytes_that_are_no_manifest_are_refused(content: bytes) -> None:
    with pytest.raises(ManifestError):
        verify_envelope(envelope(content), ROOT)


def test_what_the_tests_take_apart_they_put_together_again() -> None:
    for content in (SINGLE, MULTI):
        assert content == pack_manifest(unpack_manifest(content))
        assert verify_envelope(envelope(content), ROOT).digest == suit_digest(content)


# --- envelopes ----------------------------------------------------------------------------------------------------


def test_a_signed_release_verifies() -> None:
    verified = verify_envelope(signed("spring tide"), ROOT)

    assert verified.digest == verified.manifest.digest
    assert verified.kids == {key.public.kid for key in RELEASE}
    assert verified.description == "spring tide"


def test_severing_the_description_keeps_the_signatures() -> None:
    whole = signed("spring tide")

    severed = sever_text(whole)

    assert len(severed) < len(whole)
    assert b"spring tide" not in severed
    assert verify_envelope(severed, ROOT) == replace(verify_envelope(whole, ROOT), description=None)
    assert severed == sever_text(severed)


def test_an_envelope_without_a_description_has_nothing_to_sever() -> None:
    whole = signed()

    assert whole == sever_text(whole)


@pytest.mark.parametrize(
    "signers",
    [(), RELEASE[:1], (RELEASE[0], RELEASE[0]), (RELEASE[0], STRANGER), SIGNERS[RoleName.DIRECTIVE]],
    ids=["nobody", "one of two", "one of two, twice", "one of two and a stranger", "a key of another role"],
)
def test_fewer_release_keys_than_needed_are_not_enough(signers: tuple[SigningKey, ...]) -> None:
    with pytest.raises(SignatureError, match="where 2 are needed"):
        verify_envelope(envelope(SINGLE, signers), ROOT)


def test_a_key_signs_an_envelope_once() -> None:
    with pytest.raises(ConflictError, match="already"):
        sign_envelope(signed(), RELEASE[0])


def test_strangers_may_sign_too_but_not_without_end() -> None:
    crowded = envelope(SINGLE, [*RELEASE, *(SigningKey.generate(Algorithm.ED25519) for _ in range(14))])

    assert verify_envelope(crowded, ROOT).kids == {key.public.kid for key in RELEASE}
    with pytest.raises(ConflictError, match="at most 16"):
        sign_envelope(crowded, STRANGER)
    with pytest.raises(CodecError):
        verify_envelope(envelope(SINGLE, [*RELEASE, *[STRANGER] * 15]), ROOT)


def test_nothing_is_signed_that_would_not_be_accepted() -> None:
    members = unpack_manifest(SINGLE)
    members[9] = []

    with pytest.raises(ManifestError):
        sign_envelope(envelope(pack_manifest(members), ()), RELEASE[0])


SCOPES = {
    "other components": Scope(("radio",), ()),
    "other classes": Scope((), (CLASS_2,)),
    "only one of the components": Scope(("app",), ()),
}


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES.keys())
def test_release_keys_sign_within_their_scope_only(scope: Scope) -> None:
    release = replace(ROOT.roles[RoleName.RELEASE], scopes=(scope,))
    root = replace(ROOT, roles={**ROOT.roles, RoleName.RELEASE: release})

    with pytest.raises(SignatureError, match="may not sign"):
        verify_envelope(signed(content=manifest((APP, ROOTFS))), root)


def test_a_scope_that_covers_everything_named_is_enough() -> None:
    scopes = (Scope(("app", "rootfs"), (CLASS_1,)), Scope((), (CLASS_2,)))
    release = replace(ROOT.roles[RoleName.RELEASE], scopes=scopes)
    root = replace(ROOT, roles={**ROOT.roles, RoleName.RELEASE: release})

    assert verify_envelope(signed(content=MULTI), root).manifest.class_ids == (CLASS_1, CLASS_2)


WHOLE = decode(signed("spring tide")).value
ENVELOPES: dict[str, tuple[Any, type[Exception]]] = {
    "no tag": (WHOLE, CodecError),
    "another tag": (Tag(1070, WHOLE), CodecError),
    "a list": (Tag(107, [WHOLE[2], WHOLE[3]]), CodecError),
    "no authentication": (Tag(107, {3: WHOLE[3]}), CodecError),
    "no manifest": (Tag(107, {2: WHOLE[2]}), CodecError),
    "an unsigned install member": (Tag(107, {**WHOLE, 20: b"\x80"}), CodecError),
    "an integrated payload": (Tag(107, {**WHOLE, "#app": b"payload"}), CodecError),
    "a manifest that is no bytes": (Tag(107, {**WHOLE, 3: decode(WHOLE[3])}), CodecError),
    "text that is no bytes": (Tag(107, {**WHOLE, 23: decode(WHOLE[23])}), CodecError),
    "an empty authentication wrapper": (Tag(107, {**WHOLE, 2: encode([])}), CodecError),
    "a digest that is no bytes": (Tag(107, {**WHOLE, 2: encode([[-16, bytes(32)]])}), CodecError),
    "a digest of another algorithm": (Tag(107, {**WHOLE, 2: encode([encode([-43, bytes(48)])])}), CodecError),
    "a signature that is no bytes": (Tag(107, {**WHOLE, 2: encode([*decode(WHOLE[2])[:1], 0])}), CodecError),
    "a signature of no bytes": (Tag(107, {**WHOLE, 2: encode([*decode(WHOLE[2])[:1], b""])}), SignatureError),
    "another manifest": (Tag(107, {**WHOLE, 3: MULTI}), DigestError),
    "another description": (Tag(107, {**WHOLE, 23: encode({"en-US": {2: "neap tide"}})}), DigestError),
    "an empty description": (Tag(107, {**WHOLE, 23: b""}), DigestError),
}


@pytest.mark.parametrize(("value", "error"), ENVELOPES.values(), ids=ENVELOPES.keys())
def test_another_envelope_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        verify_envelope(encode(value), ROOT)


def test_a_description_that_the_manifest_does_not_bind_is_refused() -> None:
    with pytest.raises(ManifestError, match="does not bind"):
        verify_envelope(envelope(SINGLE, member_23=encode({"en-US": {2: "unsigned"}})), ROOT)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        encode([]),
        encode({"en-US": {1: "x"}}),
        encode({"de": {2: "x"}}),
        encode({"en-US": {2: b"x"}}),
        encode({"en-US": 2}),
    ],
    ids=["no bytes", "a list", "another label", "another language", "bytes", "no map"],
)
def test_a_signed_description_of_another_shape_is_refused(text: bytes) -> None:
    content = encode({**decode(SINGLE), 23: [-16, suit_digest(text)]})

    with pytest.raises(ManifestError, match="description"):
        verify_envelope(envelope(content, member_23=text), ROOT)


def test_the_digest_covers_the_header_of_the_manifests_byte_string() -> None:
    """Signed well, but over the digest of the bare manifest: the first of the draft's two traps."""
    bare = encode([-16, sha256(SINGLE).digest()])

    with pytest.raises(DigestError):
        verify_envelope(encode(Tag(107, {2: encode([bare]), 3: SINGLE})), ROOT)


def test_an_envelope_above_64_kib_is_refused_and_not_built() -> None:
    with pytest.raises(CodecError, match="at most 65536"):
        verify_envelope(envelope(SINGLE, member_23=bytes(65536)), ROOT)
    with pytest.raises(ManifestError, match="description"):
        build_envelope(SINGLE, description="x" * 32768)
    assert len(build_envelope(SINGLE, description="x" * 32000)) > 32000


def test_the_signatures_are_checked_before_the_manifest_is_parsed() -> None:
    with pytest.raises(SignatureError):
        verify_envelope(envelope(b"\xff not even CBOR", RELEASE[:1]), ROOT)


def test_a_manifest_of_another_shape_gets_no_envelope() -> None:
    with pytest.raises(ManifestError):
        build_envelope(encode({}), description="x")
    with pytest.raises(ManifestError):
        build_envelope(encode({}))


# --- versions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1", (1,)),
        ("1.1.0", (1, 1, 0)),
        ("0.0.0.0", (0, 0, 0, 0)),
        ("999999999.0", (999999999, 0)),
        ("1.2.0-rc.3", (1, 2, 0, -1, 3)),
        ("2-beta", (2, -2)),
        ("2.0-alpha.0", (2, 0, -3, 0)),
    ],
)
def test_a_version_is_numbers_for_machines_and_text_for_people(text: str, numbers: tuple[int, ...]) -> None:
    assert numbers == parse_version(text)
    assert text == format_version(numbers)


def test_pre_releases_come_before_the_release() -> None:
    versions = ["1.2.0-alpha.1", "1.2.0-beta.1", "1.2.0-rc.1", "1.2.0-rc.2", "1.2.0-rc.10"]

    assert versions == sorted(versions, key=parse_version)


NO_VERSIONS = ["", "v1", "1.", ".1", "01", "1.2.3.4.5", "1.2-gamma", "1.2-rc.", "1-rc.1.2", "1 ", "1\n", "-1", "1" * 10]


@pytest.mark.parametrize("text", NO_VERSIONS)
def test_other_texts_are_no_versions(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_version(text)


@pytest.mark.parametrize(
    "numbers", [(), (-1,), (1, -4), (1, -1, -1), (1, -1, 1, 1), (1, -1, -2), (1, 2, 3, 4, 5), (1_000_000_000,)], ids=str
)
def test_other_numbers_are_no_versions(numbers: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError):
        format_version(numbers)
