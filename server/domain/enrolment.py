"""How long what a device proves itself with is good for, and when it asks for the next."""

from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

CREDENTIAL_LIFE: Final = timedelta(days=90)
"""Of a device's certificate and of its broker credential: short, because revocation may come late or not at all."""

RENEW_AFTER: Final = Fraction(2, 3)
"""The part of its life after which a certificate is renewed; the rest is for trying again."""

CLAIM_LIFE: Final = timedelta(days=1)
CLAIM_LIFE_MOST: Final = timedelta(days=90)
"""Of a claim token: as long as it takes to bring it to the device, at most from the factory to the site."""


def renewal_time(issued: datetime, expires: datetime) -> datetime:
    """Return when a certificate becomes due for renewal."""
    life = expires - issued
    return issued + life * RENEW_AFTER.numerator / RENEW_AFTER.denominator
