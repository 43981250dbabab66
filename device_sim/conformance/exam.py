"""An exam: every rule is tried on one device that runs, and what it did is written down."""

from collections.abc import Callable

from device_sim.conformance.examiner import Examiner
from device_sim.conformance.keys import LabKeys
from device_sim.conformance.order_checks import check_orders
from device_sim.conformance.release import Release
from device_sim.conformance.rules import Finding, Sheet
from device_sim.conformance.session_checks import check_session
from device_sim.conformance.update_checks import Update
from server.domain.identity import Cohort, DeviceId
from server.mqtt.link import MqttLink

NO_RELEASE = "no bundle for this device was given"


async def examine(
    link: Callable[..., MqttLink],
    keys: LabKeys,
    device: DeviceId,
    *,
    cohort: Cohort,
    topic_root: str,
    release: Release | None,
    patience_s: float = 120.0,
    on_ready: Callable[[], None] = lambda: None,
) -> list[Finding]:
    """Take the server's place at the broker for one device, and return what became of each rule.

    ``link`` makes the examiner's link, given what it calls. ``release``: one that the device would take; it is
    installed. ``patience_s``: so long the device may take to connect, once ``on_ready`` was called.

    Raises:
        BrokerUnavailableError: the broker does not answer.
    """
    examiner, sheet = Examiner(link, keys, device, cohort, topic_root), Sheet()
    async with examiner.listening():
        on_ready()
        if await check_session(examiner, sheet, patience_s=patience_s):
            await check_orders(examiner, sheet)
            if release is None:
                sheet.why_not = NO_RELEASE
            else:
                await Update(examiner, sheet, release).check()
    _judge_all(examiner, sheet)
    return sheet.findings()


def _judge_all(examiner: Examiner, sheet: Sheet) -> None:
    """Judge what only the whole exam shows."""
    if not examiner.hellos:
        return
    unreadable = examiner.unreadable
    sheet.note("telemetry.well-formed", not unreadable, unreadable[0] if unreadable else "all of it")
    if not examiner.reports:
        return
    first: dict[int, object] = {}
    order = []
    for report in examiner.reports:
        if first.setdefault(report.sequence, report) == report and report.sequence not in order:
            order.append(report.sequence)
    is_one = all(first[report.sequence] == report for report in examiner.reports)
    seen = f"{len(order)} numbers" if is_one else f"{len(order)} numbers, one of them for two reports"
    sheet.note("report.rising", is_one and order == sorted(order), seen)
    again = examiner.sent_again
    sheet.note("report.acknowledged", not again, f"{len(again)} came again" if again else "none came again")
