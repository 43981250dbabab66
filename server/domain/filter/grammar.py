"""The grammar of filters, a subset of AIP-160, and the tree that a text becomes: nothing in it has a meaning yet.

Two deviations keep a filter from being read in two ways: ``AND`` and ``OR`` side by side need parentheses (in AIP-160
``OR`` binds tighter, in SQL ``AND`` does), and no operator is implied between two comparisons.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from firmware_store.errors import InvalidInputError

POINTER: Final = "?filter"
CHARACTERS_MOST: Final = 2000
DEPTH_MOST: Final = 12
"""Parentheses and NOTs in each other: what walks the tree walks it by recursion."""
COMPARISONS_MOST: Final = 50

_GRAMMAR: Final = r"""
    ?start: expression
    ?expression: operand
               | operand (AND operand)+ -> conjunction
               | operand (OR operand)+ -> disjunction
    ?operand: NOT operand -> negation
            | "(" expression ")" -> parentheses
            | comparison
    comparison: FIELD ["." key] OPERATOR value
    key: NAME | QUOTED
    value: BARE | QUOTED

    AND: /AND(?![A-Za-z0-9_])/
    OR: /OR(?![A-Za-z0-9_])/
    NOT: /NOT(?![A-Za-z0-9_])/
    FIELD: /[a-z][a-z0-9_]*/
    NAME: /[A-Za-z0-9_-]+/
    OPERATOR: "<=" | ">=" | "!=" | "=" | "<" | ">" | ":"
    QUOTED: /"(?:[^"\\]|\\["\\])*"/
    BARE: /[^\s()"'=<>!,\\]+/

    %ignore /[ \t\r\n]+/
"""

_ESCAPED: Final = re.compile(r"\\(.)")
_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Control characters, which no column holds and nobody can see in a message."""


@dataclass(frozen=True, slots=True)
class Words:
    """One comparison as it is written; ``at`` and ``value_at`` count characters from 1.

    ``key`` is empty where the field has none. ``is_quoted``: the value stood in quotes, where ``*`` is just a star.
    """

    field: str
    key: str
    operator: str
    value: str
    is_quoted: bool
    at: int
    value_at: int
    depth: int = 1
    size: int = 1


@dataclass(frozen=True, slots=True)
class Joined:
    """``word`` is ``AND``, ``OR`` or ``NOT``; the last has one part."""

    word: str
    parts: tuple["Tree", ...]
    depth: int
    size: int


Tree = Words | Joined


def parse(text: str) -> Tree:
    """Return the tree of a filter.

    Raises:
        InvalidInputError: it is no filter, or a longer or deeper one than is taken; the text says where.
    """
    if len(text) > CHARACTERS_MOST:
        raise InvalidInputError(f"A filter has at most {CHARACTERS_MOST} characters.", pointer=POINTER)
    if (found := _FORBIDDEN.search(text)) is not None:
        raise InvalidInputError(f"Character {found.start() + 1} of the filter is no text.", pointer=POINTER)
    if not text.strip():
        raise InvalidInputError("A filter says something, such as: region = eu.", pointer=POINTER)
    try:
        # The parser calls _Build while it reads, without recursion: what is too deep ends there.
        return cast("Tree", _PARSER.parse(text))
    except UnexpectedInput as exc:
        raise _explained(exc, text) from None


class _Build(Transformer[Token, Tree]):
    """Makes the tree from below."""

    @v_args(inline=True)
    def comparison(self, field: Token, key: Token | None, operator: Token, value: Token) -> Words:
        return Words(
            field=str(field),
            key="" if key is None else _unquoted(key),
            operator=str(operator),
            value=_unquoted(value),
            is_quoted=value.type == "QUOTED",
            at=_place(field),
            value_at=_place(value),
        )

    @v_args(inline=True)
    def key(self, token: Token) -> Token:
        return token

    value = key

    @v_args(inline=True)
    def parentheses(self, inner: Tree) -> Tree:
        return _joined("AND", inner)

    def conjunction(self, children: list[Any]) -> Tree:
        return _joined("AND", *children[::2])

    def disjunction(self, children: list[Any]) -> Tree:
        return _joined("OR", *children[::2])

    def negation(self, children: list[Any]) -> Tree:
        return _joined("NOT", children[1])


def _joined(word: str, *parts: Tree) -> Joined:
    made = Joined(word, parts, 1 + max(part.depth for part in parts), sum(part.size for part in parts))
    if made.depth > DEPTH_MOST:
        raise InvalidInputError(f"A filter is at most {DEPTH_MOST} levels deep.", pointer=POINTER)
    if made.size > COMPARISONS_MOST:
        raise InvalidInputError(f"A filter has at most {COMPARISONS_MOST} comparisons.", pointer=POINTER)
    return made


_PARSER: Final = Lark(_GRAMMAR, parser="lalr", lexer="contextual", maybe_placeholders=True, transformer=_Build())


def _unquoted(token: Token) -> str:
    if token.type != "QUOTED":
        return str(token)
    return _ESCAPED.sub(r"\1", token[1:-1])


def _place(token: Token) -> int:
    return (token.start_pos or 0) + 1


def _explained(error: UnexpectedInput, text: str) -> InvalidInputError:
    """Say where a filter stops being one, and what is missing there."""
    at = len(text) + 1
    if isinstance(error, UnexpectedCharacters) or (isinstance(error, UnexpectedToken) and error.token.type != "$END"):
        at = (error.pos_in_stream or 0) + 1
    if isinstance(error, UnexpectedToken) and error.token.type in {"AND", "OR"} and "$END" in error.accepts:
        what = "AND and OR side by side need parentheses"
    else:
        what = next(say for is_it, say in _WANTED if is_it(error))
    return InvalidInputError(f"At character {at} of the filter: {what}.", pointer=POINTER)


def _wants(error: UnexpectedInput) -> set[str]:
    if isinstance(error, UnexpectedToken):
        return error.accepts or error.expected
    return error.allowed or set() if isinstance(error, UnexpectedCharacters) else set()


_WANTED: Final[tuple[tuple[Callable[[UnexpectedInput], bool], str], ...]] = (
    (lambda error: "BARE" in _wants(error), 'a value is expected, such as eu, 1.10.0 or "two words"'),
    (lambda error: "OPERATOR" in _wants(error), "one of = != < <= > >= : is expected"),
    (lambda error: "NAME" in _wants(error), "the name of a label is expected"),
    (lambda error: "FIELD" in _wants(error), "a field is expected, such as region"),
    (lambda _error: True, "AND, OR or the end is expected"),
)
