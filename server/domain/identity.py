"""The ids of the domain and the one rule that keeps each of them safe in a topic, a URL and a file name.

A device called ``*`` or ``+`` would be an attack on every broker's access rules, so every door checks these.
"""

import re
from typing import Final, NewType
from uuid import UUID

from firmware_store.errors import InvalidInputError

CAMPAIGN: Final = "cmp_"
BUNDLE: Final = "bun_"
REVOCATION: Final = "rev_"
FREEZE: Final = "frz_"
WEBHOOK: Final = "whk_"
OPERATION: Final = "op_"
"""What the ids of these begin with where they are shown."""

DeviceId = NewType("DeviceId", str)
Region = NewType("Region", str)
Cohort = NewType("Cohort", str)
HardwareClass = NewType("HardwareClass", str)
CampaignId = NewType("CampaignId", UUID)
BundleId = NewType("BundleId", UUID)

# ASCII only, and \Z rather than $, which would let a trailing newline through.
_DEVICE_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{2,63}\Z", re.ASCII)
_REGION_OR_COHORT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z", re.ASCII)
_HARDWARE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._|-]{0,63}\Z", re.ASCII)


def device_id(text: str) -> DeviceId:
    """Check ``text``: 3 to 64 of ``a-z 0-9 _ -``, the first a letter or digit.

    Raises:
        InvalidInputError: it is not a device id.
    """
    if not _DEVICE_ID.match(text):
        raise InvalidInputError("A device id is 3 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit.")
    return DeviceId(text)


def region(text: str) -> Region:
    """Check ``text``: 1 to 32 of ``a-z 0-9 -``, the first a letter or digit.

    Raises:
        InvalidInputError: it is not a region.
    """
    if not _REGION_OR_COHORT.match(text):
        raise InvalidInputError("A region is 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit.")
    return Region(text)


def cohort(text: str) -> Cohort:
    """Check ``text``; the rule of ``region``.

    Raises:
        InvalidInputError: it is not a cohort.
    """
    if not _REGION_OR_COHORT.match(text):
        raise InvalidInputError("A cohort is 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit.")
    return Cohort(text)


def hardware_class(text: str) -> HardwareClass:
    """Check ``text``: the model and revision whose UUIDv5 a manifest's class condition names.

    Raises:
        InvalidInputError: it is not a hardware class.
    """
    if not _HARDWARE.match(text):
        raise InvalidInputError("A hardware class is 1 to 64 of letters, digits, '.', '_', '|' and '-'.")
    return HardwareClass(text)


def show(prefix: str, value: UUID) -> str:
    """Return an id as it is shown: what it names, and 32 hexadecimal digits."""
    return prefix + value.hex
