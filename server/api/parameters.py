"""The parameters of paths and queries, and members that several bodies have: what they may be, said once for all."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple

from pydantic import AwareDatetime, BeforeValidator, Discriminator, Field, Tag

from firmware_store.errors import InvalidInputError
from server.domain.choices import choice
from server.domain.identity import Cohort, DeviceId, Region, cohort, device_id, region
from server.domain.plan import Policy

DEVICE: Final = "^[a-z0-9][a-z0-9_-]{2,63}$"
REGION_OR_COHORT: Final = "^[a-z0-9][a-z0-9-]{0,31}$"
PRINTABLE: Final = r"^[^\x00-\x1f\x7f]*$"
NO_NUL: Final = r"^[^\x00]*$"
"""Texts are kept in PostgreSQL, which holds any character but this one."""


class PathParameter(NamedTuple):
    """What the text between two slashes may be; ``example`` stands for it in the examples of all routes."""

    pattern: str
    said: str
    example: str


PATH: Final[Mapping[str, PathParameter]] = MappingProxyType(
    {
        "device": PathParameter(DEVICE, "a device's id", "gw-17"),
        "bundle": PathParameter("^bun_[0-9a-f]{32}$", "a bundle's id", "bun_019aabbe1b2c7a01b3c45d6e7f809102"),
        "campaign": PathParameter("^cmp_[0-9a-f]{32}$", "a campaign's id", "cmp_019aabbe2c3d7b12845d6e7f80910213"),
        "freeze": PathParameter("^frz_[0-9a-f]{32}$", "a freeze's id", "frz_019aabbe3d4e7c2396e7f8091021324f"),
        "revocation": PathParameter("^rev_[0-9a-f]{32}$", "a revocation's id", "rev_019aabbe4e5f7d34a7f8091021324350"),
        "operation": PathParameter("^op_[0-9a-f]{32}$", "an operation's id", "op_019aabbe5f607e45b809102132435465"),
        "policy": PathParameter(REGION_OR_COHORT, "a policy's name", "careful"),
        "version": PathParameter("^[0-9]{1,18}$", "a root's version", "1"),
        "token_id": PathParameter("^[0-9a-f]{8}$", "a token's id: what stands between its underscores", "5f0c1a2b"),
        "webhook": PathParameter("^whk_[0-9a-f]{32}$", "a webhook's id", "whk_019aabbe6a7b7f56a9091021324354a5"),
        "delivery": PathParameter("^[0-9]{1,18}$", "a delivery's number", "271828"),
        "sha256": PathParameter("^[0-9a-f]{64}$", "a SHA-256, in hexadecimal", "9f" * 32),
    }
)
"""Every parameter that a path has."""


def _digits(text: object) -> object:
    # By its length first: Python refuses to read a number of thousands of digits.
    if isinstance(text, str) and not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError("This is a number of up to nine digits.")
    return text


def _truth(text: object) -> object:
    if isinstance(text, str) and text not in {"true", "false"}:
        raise ValueError("This is true or false.")
    return text


def _instant(text: object) -> object:
    if isinstance(text, str) and not _RFC3339.fullmatch(text):
        raise ValueError("This is a time with an offset, such as 2026-11-22T14:00:00Z.")
    return text


_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

Digits = BeforeValidator(_digits)
"""Of a number in a query, after its bounds: what its schema says, and nothing that merely looks like it."""

Flag = Annotated[bool, BeforeValidator(_truth)]

Instant = Annotated[AwareDatetime, BeforeValidator(_instant)]
"""RFC 3339, with an offset; no number of seconds."""

Cursor = Annotated[str, Field(max_length=400, description="the `next` of the page before")]

Limit = Annotated[int, Field(ge=1, le=1000, description="so many at most"), Digits]


def _checked(check: Callable[[str], str]) -> BeforeValidator:
    """Say what is wrong with a name in our words rather than by its pattern."""

    def validate(text: object) -> object:
        if isinstance(text, str):
            try:
                check(text)
            except InvalidInputError as exc:
                raise ValueError(str(exc)) from exc
        return text

    return BeforeValidator(validate)


DeviceName = Annotated[DeviceId, Field(pattern=DEVICE), _checked(device_id)]
RegionName = Annotated[Region, Field(pattern=REGION_OR_COHORT), _checked(region)]
CohortName = Annotated[Cohort, Field(pattern=REGION_OR_COHORT), _checked(cohort)]
Reason = Annotated[str, Field(min_length=1, max_length=500, pattern=NO_NUL)]

CampaignName = Annotated[str, Field(min_length=1, max_length=128, pattern=NO_NUL)]

RegionNames = Annotated[
    tuple[RegionName, ...], Field(min_length=1, max_length=256, json_schema_extra={"uniqueItems": True})
]
"""Those of a campaign, in the order of its rollout."""

PolicyName = Annotated[str, Field(pattern=PATH["policy"].pattern)]

AnyPolicy = Annotated[
    Annotated[Policy, Tag(choice("policy"))] | Annotated[PolicyName, Tag(choice("name"))],
    Discriminator(lambda value: choice("name" if isinstance(value, str) else "policy")),
]
"""A policy, or the name of one: its newest version counts."""
