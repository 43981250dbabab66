"""The language of filters: what is one, what is none and where it stops being one, and what it says of an object."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from firmware_store.errors import InvalidInputError
from server.domain.filter import (
    CAMPAIGNS,
    COMPARISONS_MOST,
    DEPTH_MOST,
    DEVICES,
    LIVE,
    Expression,
    fields_of,
    holds,
    ignoring,
    read_filter,
    version_order,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GATEWAY = {
    "id": "gw-0017",
    "region": "eu",
    "version": "1.9.0",
    "online": True,
    "held": False,
    "sequence": 7,
    "last_seen": NOW - timedelta(days=2),
    "labels": {"site": "hamburg", "two words": 'a "quoted" \\ one'},
}
NEW: dict[str, Any] = {"id": "gw-0018", "region": "us", "online": False, "held": True, "labels": {}}


def read(text: str) -> Expression:
    return read_filter(text, DEVICES, NOW)


def passes(text: str, device: dict[str, Any]) -> bool:
    def look(field: str, key: str) -> Any:
        return device["labels"].get(key) if field == "labels" else device.get(field)

    return holds(read(text), look)


@pytest.mark.parametrize(
    ("text", "gateway", "new"),
    [
        ("region = eu", True, False),
        ("region != eu", False, True),
        ("region=eu AND version<1.10.0 AND labels.site:*", True, False),
        ("version < 1.10.0", True, False),
        ("NOT version < 1.10.0", False, True),
        ("version >= 1.9.0-rc.2", True, False),
        ("version = 1.9", True, False),
        ("version != 1.9", False, True),
        ("NOT labels.site = berlin", True, True),
        ("NOT labels.site = hamburg", False, True),
        ("labels.site != hamburg", False, True),
        ("labels:site", True, False),
        ("labels.site = ham*", True, False),
        ('labels.site = "ham*"', False, False),
        ('labels."two words" = "a \\"quoted\\" \\\\ one"', True, False),
        ("id = gw-00*", True, True),
        ("id = *", True, True),
        ("(region = us OR sequence = 7) AND NOT held = true", True, False),
        ("region = eu OR region = us OR region = ap", True, True),
        ("last_seen < now-1d", True, False),
        ("last_seen < now-3d", False, False),
        ("NOT last_seen > now-3d", False, True),
        ("last_seen > 2026-02-27T13:00:00+01:00", False, False),
        ("last_seen >= 2026-02-27T13:00:00+01:00", True, False),
        ("NOT last_seen:*", False, True),
        ("online = true", True, False),
        ("region = NOT", False, False),
    ],
)
def test_a_filter_lets_through_what_it_says(text: str, gateway: bool, new: bool) -> None:
    assert (passes(text, GATEWAY), passes(text, NEW)) == (gateway, new)


@pytest.mark.parametrize(
    ("text", "at", "word"),
    [
        ("region = eu AND held = true OR online = true", 29, "parentheses"),
        ("region = eu OR held = true AND online = true", 28, "parentheses"),
        ("region = eu held = true", 13, "AND, OR or the end"),
        ("region =", 9, "a value"),
        ("region", 7, "one of ="),
        ("(region = eu", 13, "AND, OR or the end"),
        ("region = 'eu'", 10, "a value"),
        ("colour = red", 1, "there is no field colour; there are id, region"),
        ("held = true AND colour = red", 17, "colour"),
        ("region < eu", 1, "region is compared by = != :"),
        ("region.x = eu", 1, "region has no parts"),
        ("version < latest", 11, "version is compared with a version"),
        ("last_seen < yesterday", 13, "last_seen is compared with a time"),
        ("last_seen < 2026-03-01T12:00:00", 13, "a time"),
        ("last_seen = now", 1, "last_seen is compared by <"),
        ("held = yes", 8, "held is compared with true or false"),
        ("sequence = 1.5", 12, "a whole number"),
        ("sequence = 1000000000000000000000000", 12, "a whole number"),
        ("labels = x", 1, "name the label"),
        ("labels:*", 1, "name the label"),
        ("labels. = x", 9, "the name of a label"),
        ("region:eu", 8, "comes *"),
        ("id = *-17", 6, "a * ends a text"),
        ("version = 1.*", 11, "version is not compared"),
        ("NOTregion = eu", 1, "a field"),
    ],
)
def test_what_is_no_filter_is_refused_with_its_place(text: str, at: int, word: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^At character {at} of the filter: ") as refused:
        read(text)

    assert word in str(refused.value)
    assert refused.value.pointer == "?filter"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "region = " + "e" * 2000,
        "(" * (DEPTH_MOST + 1) + "region = eu" + ")" * (DEPTH_MOST + 1),
        "(" * 1900,
        "NOT " * 400 + "region = eu",
        " OR ".join(["region = eu"] * (COMPARISONS_MOST + 1)),
        "region = e\0u",
        "region = \ud800",
    ],
    ids=lambda text: f"{len(text)} characters: {text[:20]!r}",
)
def test_what_is_too_long_too_deep_or_no_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        read(text)


def test_a_word_of_a_state_is_one_that_there_is() -> None:
    with pytest.raises(
        InvalidInputError, match=r"^At character 9 of the filter: state is compared with one of .*running"
    ):
        read_filter("state = runing", CAMPAIGNS, NOW)


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.9.0", "1.10.0"),
        ("1.2.0-rc.1", "1.2.0"),
        ("1.2.0-beta", "1.2.0-rc"),
        ("1.2.0-rc.9", "1.2.0-rc.10"),
        ("1", "1.0.1"),
    ],
)
def test_versions_have_their_order(lower: str, higher: str) -> None:
    first, second = version_order(lower), version_order(higher)

    assert first is not None
    assert second is not None
    assert first < second


def test_what_is_no_version_has_no_order() -> None:
    assert [version_order(text) for text in ("factory", "1.2.3.4.5", "01.2", "1.2-final", "1.2\n", "")] == [None] * 6


@pytest.mark.parametrize(
    "text", ["online = true", "NOT online = true", "region = us AND NOT (online = true OR held = true)", "held = true"]
)
def test_without_what_is_not_known_a_filter_lets_more_through_and_never_less(text: str) -> None:
    known = ignoring(read(text), LIVE)

    assert LIVE.isdisjoint(fields_of(known))
    for device in (GATEWAY, NEW):
        assert holds(known, lambda field, _key, one=device: one.get(field)) >= passes(text, device)
