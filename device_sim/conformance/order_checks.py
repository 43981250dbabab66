"""What a device takes for an order, and what it does not: two beats after a forgery tell.

All of them are shown at once; where the device has taken one, each is shown once more, alone.
"""

import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final
from uuid import UUID

from device_sim.conformance.examiner import Examiner
from device_sim.conformance.release import Release
from device_sim.conformance.rules import Sheet
from firmware_store.keys import Algorithm, SigningKey
from firmware_store.roles import RoleName
from server.domain.execution import State
from server.domain.gate import FULL, Ramp, height
from server.domain.identity import CampaignId, Cohort
from server.protocol.messages import Counter, Report
from server.protocol.orders import Action, Deadlines, Directive, Envelope
from server.protocol.topics import CohortAudience

LIMITS: Final = Deadlines(download_s=600, trial_s=1, confirm_s=120)
"""A trial is over after a second at the least, and after two minutes at the most."""

_EVERYBODY: Final = Ramp.flat(FULL)


def offer_of(examiner: Examiner, release: Release | None, *, ahead: int = 1, **members: object) -> Directive:
    """Return an offer of the release, or of one that is nowhere."""
    named = (
        {
            "manifest_digest": release.manifest_digest,
            "sequence_number": release.sequence_number,
            "envelope": release.named,
        }
        if release is not None
        else {"manifest_digest": os.urandom(32), "sequence_number": 1 << 40, "envelope": Envelope(os.urandom(32), 512)}
    )
    offered = {"campaign": campaign_for(examiner), "ramp": _EVERYBODY, "deadlines": LIMITS}
    return examiner.directive(Action.OFFER, ahead=ahead, **{**offered, **named, **members})


def campaign_for(examiner: Examiner) -> CampaignId:
    """Return a new campaign in which the device is neither among the lowest nor among the highest."""
    while True:
        campaign = CampaignId(UUID(bytes=os.urandom(16)))
        if FULL // 4 < height(campaign, examiner.device) < FULL // 4 * 3:
            return campaign


async def check_orders(examiner: Examiner, sheet: Sheet) -> None:
    """Show the device what it must not take; the last good order that it holds orders nothing."""
    epoch = examiner.keys.root.roles[RoleName.DIRECTIVE].epoch
    newest = max(int(time.time() * 1000), examiner.hellos[-1].cohort_counter.counter)
    examiner.counter = Counter(epoch, newest)
    await examiner.order(examiner.directive())
    is_taken = await examiner.until(lambda: examiner.held == examiner.counter, within_s=5)
    if not sheet.note("order.taken", is_taken, f"holds {_shown(examiner.held)} of {_shown(examiner.counter)}"):
        sheet.why_not = "it takes no order, so none that it refuses tells anything"
        return
    stranger = SigningKey.generate(Algorithm.ED25519)
    region = examiner.region
    elsewhere = CohortAudience(region, Cohort("another-cohort"))
    forgeries: dict[str, Callable[[], Awaitable[None]]] = {
        "order.counter-lower": lambda: examiner.publish(offer_of(examiner, None, ahead=-1)),
        "order.counter-equal": lambda: examiner.publish(offer_of(examiner, None, ahead=0)),
        "order.signature": lambda: examiner.publish(offer_of(examiner, None), signer=stranger),
        "order.role": lambda: examiner.publish(offer_of(examiner, None), signer=examiner.keys.session),
        "order.audience": lambda: examiner.publish(offer_of(examiner, None, audience=elsewhere)),
        "order.fleet": lambda: examiner.publish(offer_of(examiner, None, fleet=os.urandom(16))),
        "order.unknown-key": lambda: examiner.publish(offer_of(examiner, None), further={23: 0}),
        "order.not-deterministic": lambda: examiner.publish(offer_of(examiner, None), shuffled=True),
        "order.empty": lambda: examiner.retain(examiner.topics.directive(CohortAudience(region, examiner.cohort)), b""),
    }
    said = len(examiner.reports)
    for show in forgeries.values():
        await show()
    if await examiner.beat() and examiner.held == examiner.counter and not begun(examiner.reports[said:]):
        for rule in forgeries:
            sheet.note(rule, True, f"holds {_shown(examiner.held)}, as before")
    else:
        for rule, show in forgeries.items():
            await _restored(examiner)
            await _refused(examiner, sheet, rule, show)
        await _restored(examiner)
    await _starts_nothing(examiner, sheet)


async def _refused(examiner: Examiner, sheet: Sheet, rule: str, show: Callable[[], Awaitable[None]]) -> None:
    """Show a forgery, and note whether the device holds and does what it did before."""
    said = len(examiner.reports)
    await show()
    if not await examiner.beat():
        sheet.note(rule, False, "it does not beat any more")
        return
    started = begun(examiner.reports[said:])
    seen = f"holds {_shown(examiner.held)}" + (f", and says {', '.join(started)}" if started else "")
    sheet.note(rule, examiner.held == examiner.counter and not started, seen)


async def _restored(examiner: Examiner) -> None:
    """Bring a device that has taken something wrong back to where the next forgery can be judged."""
    examiner.counter = max(examiner.counter, examiner.held, key=lambda one: one.counter)
    await examiner.order(examiner.directive())
    examiner.welcome()
    await examiner.until(lambda: examiner.held == examiner.counter, within_s=5)


async def _starts_nothing(examiner: Examiner, sheet: Sheet) -> None:
    said, now = len(examiner.reports), int(time.time())
    await examiner.order(offer_of(examiner, None, issued=now - 3600, expires=now - 60))
    await examiner.beat()
    started = begun(examiner.reports[said:])
    sheet.note("offer.expired", not started, f"says {', '.join(started) or 'nothing'}")


def begun(reports: Iterable[Report]) -> list[str]:
    """Return what these say, but for ``due``, which says that it waits."""
    return [report.state.value for report in reports if report.state is not State.DUE]


def _shown(counter: Counter) -> str:
    return f"{counter.epoch}/{counter.counter}"
