"""The closed, numbered list of reasons that a device or the server gives (``docs/reasons.md``).

A number is chosen once and never used again. Each belongs to a family; the families ``signature``, ``boot`` and
``health`` are explicit failures that the halt rule counts, the others are shown.
"""

from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final


class Family(StrEnum):
    """What kind of thing went wrong."""

    NONE = "none"
    SIGNATURE = "signature"
    POLICY = "policy"
    COMPATIBILITY = "compatibility"
    DOWNLOAD = "download"
    STORAGE = "storage"
    BOOT = "boot"
    HEALTH = "health"
    OPERATOR = "operator"


class Reason(IntEnum):
    """Why an execution is where it is; 0 where there is nothing to explain."""

    NONE = 0
    # signature
    MALFORMED = 10
    BAD_SIGNATURE = 11
    EXPIRED = 12
    REPLAYED = 13
    WRONG_AUDIENCE = 14
    BAD_MANIFEST = 15
    DIGEST_MISMATCH = 16
    BAD_SUCCESSION = 17
    # policy
    OLDER_SEQUENCE = 20
    HELD = 21
    ALREADY_RUNNING = 22
    ATTEMPTS_SPENT = 23
    REVOKED = 24
    TRUST_BEHIND = 25
    LATE = 26
    OUTSIDE_WINDOW = 27
    # compatibility
    WRONG_VENDOR = 30
    WRONG_CLASS = 31
    UNKNOWN_COMPONENT = 32
    # download
    CHUNK_MISMATCH = 40
    DOWNLOAD_DEADLINE = 41
    WITHDRAWN = 42
    TOO_SLOW = 43
    # storage
    STORAGE_FULL = 50
    STORAGE_ERROR = 51
    IMAGE_MISMATCH = 52
    # boot
    BOOT_FAILED = 60
    TRIAL_DEADLINE = 61
    NO_BROKER = 62
    NO_WELCOME = 63
    LINE_LOST = 64
    # health
    HEALTH_CHECK_FAILED = 70
    # operator
    HALTED = 80
    ROLLED_BACK = 81
    CAMPAIGN_ENDED = 82
    SUPERSEDED = 83
    NO_WAY_BACK = 84
    # what the server concludes
    WENT_SILENT = 90

    @property
    def family(self) -> Family:
        """The family this reason belongs to."""
        return _FAMILIES[self.value // 10]


_FAMILIES: Final = MappingProxyType(
    {
        0: Family.NONE,
        1: Family.SIGNATURE,
        2: Family.POLICY,
        3: Family.COMPATIBILITY,
        4: Family.DOWNLOAD,
        5: Family.STORAGE,
        6: Family.BOOT,
        7: Family.HEALTH,
        8: Family.OPERATOR,
        9: Family.HEALTH,
    }
)

EXPLICIT_FAILURES: Final = frozenset(
    reason
    for reason in Reason
    if reason.family in {Family.SIGNATURE, Family.BOOT, Family.HEALTH}
    and reason not in {Reason.NO_BROKER, Reason.NO_WELCOME, Reason.LINE_LOST, Reason.WENT_SILENT}
)
"""Failures a device says itself. Going silent, and being off line, is judged by comparison instead."""
