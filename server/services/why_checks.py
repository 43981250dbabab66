"""Why one device does not update: every check in its order, each passed, failed or not known (pure).

The order is that of decisiveness: without a campaign nothing else matters, and what a device itself has said of its
attempt says more than whether it is online. The first check that failed is the reason.
"""

from collections.abc import Callable
from typing import Final

from server.services import why_campaign as campaign
from server.services import why_device as device
from server.services.why_facts import Check, Facts

CHECKS: Final[tuple[Callable[[Facts], Check], ...]] = (
    campaign.audience,
    campaign.outcome,
    campaign.running,
    campaign.membership,
    device.enrolled,
    device.held,
    device.seen,
    device.hardware,
    device.version,
    campaign.trust,
    campaign.server,
    campaign.blobs,
    device.online,
    campaign.level,
    device.directive,
    device.window,
    device.said,
    campaign.admitted,
    campaign.room,
    device.site,
    device.space,
    device.power,
)
"""In their order: the first that fails is the reason."""
