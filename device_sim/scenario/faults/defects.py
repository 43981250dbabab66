"""What may be wrong with a release as it is published."""

from enum import StrEnum
from typing import Final


class Defect(StrEnum):
    """What is wrong with a release as it is published."""

    NONE = "none"
    FLIPPED = "flipped"
    TRUNCATED = "truncated"
    WRONG_DIGEST = "wrong-digest"
    WRONG_KEY = "wrong-key"
    EXPIRED = "expired"
    REVOKED = "revoked"
    DOWNGRADE = "downgrade"
    WRONG_HARDWARE = "wrong-hardware"
    WRONG_DELTA_BASE = "wrong-delta-base"


DEFECTS: Final = {
    Defect.NONE: "Nothing is wrong with it.",
    Defect.FLIPPED: "As `flipped` below, for every device and as long as the scenario lasts.",
    Defect.TRUNCATED: "As `truncated` below, for every device and as long as the scenario lasts.",
    Defect.WRONG_DIGEST: "The manifest names an image's digest that the image does not have.",
    Defect.WRONG_KEY: "It is signed by a key that the trust root does not name.",
    Defect.EXPIRED: "The trust documents under which it was signed have expired.",
    Defect.REVOKED: "It is revoked when its campaign has reached its first devices.",
    Defect.DOWNGRADE: "Its sequence number is below that of the release that devices run.",
    Defect.WRONG_HARDWARE: "It is for a hardware class that no device has.",
    Defect.WRONG_DELTA_BASE: "As `wrong-delta-base` below, for every device.",
}
"""What each defect does."""


DEFECTS_ON_THE_WIRE: Final = frozenset(
    {Defect.EXPIRED, Defect.REVOKED, Defect.DOWNGRADE, Defect.WRONG_HARDWARE, Defect.WRONG_DELTA_BASE}
)
"""Those that virtual time has not: what they are about is how a server is told, and not what devices do."""
