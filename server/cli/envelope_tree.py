"""An envelope as a tree, command by command: what is in the bytes, whether or not it is of our profile."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final
from uuid import UUID

from firmware_store.codec import Tag, Value, decode
from firmware_store.errors import InvalidInputError
from firmware_store.suit import OpenEnvelope
from firmware_store.suit_labels import SHA256_ID, Command, Common, Envelope, FetchArgument, Member, Parameter
from server.cli.words import SLOT_LETTERS, printable

_CONDITIONS: Final = frozenset({Command.VENDOR_ID, Command.CLASS_ID, Command.IMAGE_MATCH, Command.COMPONENT_SLOT})
_MAX_DEPTH: Final = 4  # byte strings in byte strings would get around the limit of the codec
_DIRECTIVES: Final = frozenset({Command.FETCH, Command.INVOKE})
_HEADERS: Final[Mapping[object, str]] = {1: "1 algorithm", 4: "4 key id"}  # RFC 9052 section 3.1
_SEQUENCES: Final = frozenset({Member.VALIDATE, Member.INVOKE, Member.INSTALL})


@dataclass(slots=True)
class Node:
    text: str
    children: list["Node"] = field(default_factory=list)


def draw(node: Node) -> Iterator[str]:
    """Yield the lines of a tree."""
    yield node.text
    yield from _draw_below(node, "")


def envelope_tree(opened: OpenEnvelope) -> Node:
    """Return an envelope as a tree; only what it is made of was checked, nothing of what it says."""
    authentication = Node(
        f"{Envelope.AUTHENTICATION:d} authentication",
        [Node(f"digest SHA-256 {opened.digest.hex()}"), *(_signature(block) for block in opened.blocks)],
    )
    manifest = Node(f"{Envelope.MANIFEST:d} manifest, {len(opened.manifest)} bytes", _manifest(opened.manifest))
    members = [authentication, manifest]
    if opened.text is not None:
        members.append(_plain(f"{Envelope.TEXT:d} text, severable", _decoded(opened.text)))
    return Node(f"{Envelope.TAG:d} envelope", members)


def _draw_below(node: Node, indent: str) -> Iterator[str]:
    for child in node.children:
        last = child is node.children[-1]
        yield f"{indent}{'└─' if last else '├─'} {child.text}"
        yield from _draw_below(child, indent + ("   " if last else "│  "))


def _signature(block: bytes) -> Node:
    match _decoded(block):
        case Tag(number=18, value=[bytes(protected), _, _, bytes()]):
            header = _decoded(protected)
            if isinstance(header, dict):
                parts = [_plain(_HEADERS.get(label, _scalar(label)), part) for label, part in header.items()]
                return Node("18 signature", parts)
    return Node(f"signature of no known form, {len(block)} bytes")


def _manifest(data: bytes) -> list[Node]:
    members = _decoded(data)
    if not isinstance(members, dict):
        return [_plain("value", members)]
    return [_member(label, value) for label, value in members.items()]


def _member(label: object, value: Value) -> Node:
    name = _name(Member, label)
    content = _decoded(value)
    if label in _SEQUENCES and isinstance(content, list) and isinstance(value, bytes):
        return Node(name, _commands(content))
    if label == Member.COMMON and isinstance(content, dict):
        return Node(name, [_common(key, part) for key, part in content.items()])
    return _plain(name, content)


def _common(label: object, value: Value) -> Node:
    name, content = _name(Common, label), _decoded(value)
    if label == Common.SHARED and isinstance(content, list):
        return Node(name, _commands(content))
    if label == Common.COMPONENTS and isinstance(value, list):
        return Node(name, [Node(f"{index} {_component(part)}") for index, part in enumerate(value)])
    return _plain(name, content)


def _component(identifier: Value) -> str:
    if isinstance(identifier, list):
        return " / ".join(_component(part) for part in identifier)
    if isinstance(identifier, bytes) and identifier.isascii() and identifier.decode().isprintable():
        return identifier.decode()
    return _scalar(identifier)


def _commands(commands: Sequence[Value], depth: int = 0) -> list[Node]:
    """A sequence is one flat array of command, argument, command, argument."""
    pairs = zip(commands[::2], commands[1::2], strict=False)
    nodes = [_command(code, argument, depth) for code, argument in pairs]
    if len(commands) % 2:
        nodes.append(Node(f"{_scalar(commands[-1])} without an argument"))
    return nodes


def _command(code: Value, argument: Value, depth: int) -> Node:
    name = _name(Command, code)
    command = code if isinstance(code, int) and not isinstance(code, bool) else None
    if command == Command.OVERRIDE_PARAMETERS and isinstance(argument, dict):
        return Node(name, [_parameter(label, value) for label, value in argument.items()])
    if command == Command.TRY_EACH and isinstance(argument, list):
        return Node(name, [_choice(number, choice, depth) for number, choice in enumerate(argument, start=1)])
    if command in _CONDITIONS:
        return Node(f"{name} must hold (report {_scalar(argument)})")
    if command in _DIRECTIVES:
        return Node(f"{name} (report {_scalar(argument)})")
    if command == Command.SET_COMPONENT_INDEX:
        return Node(f"{name}: {'all' if argument is True else _scalar(argument)}")
    return Node(f"{name}: {_scalar(argument)}")


def _choice(number: int, choice: Value, depth: int) -> Node:
    content = _decoded(choice) if depth < _MAX_DEPTH else choice
    if isinstance(content, list):
        return Node(f"choice {number}", _commands(content, depth + 1))
    return Node(f"choice {number}: {_scalar(choice)}")


def _parameter(label: object, value: Value) -> Node:
    name = _name(Parameter, label)
    if label in (Parameter.VENDOR_ID, Parameter.CLASS_ID) and isinstance(value, bytes) and len(value) == 16:
        return Node(f"{name}: {UUID(bytes=value)}")
    if label == Parameter.COMPONENT_SLOT and isinstance(value, int) and 0 <= value < len(SLOT_LETTERS):
        return Node(f"{name}: {value} (slot {SLOT_LETTERS[value]})")
    if label == Parameter.FETCH_ARGUMENTS:
        content = _decoded(value)
        if isinstance(content, dict):
            return Node(name, [_plain(_name(FetchArgument, key), part) for key, part in content.items()])
    return _plain(name, _decoded(value))


def _plain(name: str, value: Value) -> Node:
    """A value that has no names of its own: maps and lists become branches."""
    if isinstance(value, list) and len(value) == 2 and value[0] == SHA256_ID and isinstance(value[1], bytes):
        return Node(f"{name}: SHA-256 {value[1].hex()}")
    if isinstance(value, list) and not any(isinstance(item, list | dict | Tag) for item in value):
        return Node(f"{name}: {', '.join(map(_scalar, value))}")
    if isinstance(value, list):
        return Node(name, [_plain(str(number), item) for number, item in enumerate(value)])
    if isinstance(value, dict):
        return Node(name, [_plain(_scalar(key), item) for key, item in value.items()])
    if isinstance(value, Tag):
        return Node(name, [_plain(f"tag {value.number}", value.value)])
    return Node(f"{name}: {_scalar(value)}")


def _scalar(value: object) -> str:
    match value:
        case bytes():
            return value.hex() or "no bytes"
        case str():
            return printable(value)
        case bool() | None:
            return {True: "true", False: "false", None: "nil"}[value]
        case int():
            return str(value)
    return f"a {type(value).__name__}"


def _name(labels: type[IntEnum], label: object) -> str:
    """``3 common``, or the number alone where it is none of ours."""
    if isinstance(label, int) and not isinstance(label, bool) and label in set(labels):
        return f"{label} {labels(label).name.lower().replace('_', '-')}"
    return f"{_scalar(label)} (unknown)"


def _decoded(value: Value) -> Value:
    """What is inside of a byte string, where there is CBOR inside: the members of SUIT are nested this way."""
    if not isinstance(value, bytes):
        return value
    try:
        return decode(value)
    except InvalidInputError:
        return value
