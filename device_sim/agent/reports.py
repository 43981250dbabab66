"""Reports: numbered, stored, and sent again until the server says that they are in its database."""

from typing import Final

from device_sim.agent.events import Publish
from device_sim.agent.situation import Situation
from device_sim.agent.state import Phase, Update
from server.domain.execution import State
from server.domain.identity import CampaignId
from server.protocol.messages import MAX_DETAIL_CHARACTERS, Report, encode_report
from server.protocol.reasons import Reason
from server.protocol.topics import Up

RESEND_S: Final = 5.0
RESEND_LONGEST_S: Final = 60.0
MOST_UNACKED: Final = 4
"""Executions whose last report waits for its acknowledgement; the oldest gives way."""


class Reports:
    """A report carries absolute state, so only the last one of an execution need ever arrive."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._resend_at: float | None = None
        self._interval_s = RESEND_S

    @property
    def next_at(self) -> float | None:
        """When there is something to send again (monotonic seconds)."""
        return self._resend_at if self._situation.state.unacked and self._situation.is_up else None

    def add(
        self,
        state: State,
        *,
        campaign: CampaignId,
        manifest_digest: bytes,
        attempt: int,
        reason: Reason = Reason.NONE,
        detail: str = "",
        done_bytes: int = 0,
        total_bytes: int = 0,
        slot: str = "",
    ) -> int:
        """Store a report, send it if there is a session, and return its sequence number."""
        held = self._situation.state
        report = Report(
            sequence=self._next_sequence(),
            campaign=campaign,
            manifest_digest=manifest_digest,
            attempt=attempt,
            state=state,
            reason=reason,
            detail=detail[:MAX_DETAIL_CHARACTERS].replace("\0", ""),
            done_bytes=done_bytes,
            total_bytes=total_bytes,
            slot=slot,
        )
        others = [waiting for waiting in held.unacked if waiting.campaign != campaign]
        self._situation.journal.update(
            report_sequence=report.sequence,
            last_report=report,
            unacked=(*others, report)[-MOST_UNACKED:],
        )
        self._interval_s = RESEND_S
        self._send(report)
        return report.sequence

    def acknowledged(self, sequence: int) -> None:
        """The server has stored everything up to ``sequence``."""
        waiting = tuple(report for report in self._situation.state.unacked if report.sequence > sequence)
        if len(waiting) != len(self._situation.state.unacked):
            self._situation.journal.remember(unacked=waiting)  # forgotten: it is sent once more, which does no harm

    def is_acknowledged(self, sequence: int) -> bool:
        return all(report.sequence != sequence for report in self._situation.state.unacked)

    def session_began(self) -> None:
        """Send again whatever is not acknowledged."""
        self._interval_s = RESEND_S
        self._send_all()

    def tick(self) -> None:
        if self.next_at is not None and self._situation.now >= self.next_at:
            self._interval_s = min(2 * self._interval_s, RESEND_LONGEST_S)
            self._send_all()

    def _send_all(self) -> None:
        for report in self._situation.state.unacked:
            self._send(report)

    def _send(self, report: Report) -> None:
        here = self._situation
        if not here.is_up:
            return
        topic = here.topics.up(here.state.region, here.identity.device, Up.REPORT)
        here.journal.emit(Publish(topic, encode_report(report), 1))
        self._resend_at = here.now + self._interval_s

    def _next_sequence(self) -> int:
        """Count on from the last one; by the server's clock where it is ahead.

        A device that lost its storage would otherwise begin at 1 again, and everything it said would be taken for old.
        """
        server_now = self._situation.server_now
        by_clock = 0 if server_now is None else int(server_now * 1000)
        return max(self._situation.state.report_sequence + 1, by_clock)


def report_update(
    reports: Reports, update: Update, state: State, *, reason: Reason = Reason.NONE, detail: str = ""
) -> int:
    """Report where an update is, and return the report's number; 0 where there is nobody to report to."""
    if update.is_offline:
        return 0
    written = update.phase not in {Phase.DOWNLOADING, Phase.ENDED}
    return reports.add(
        state,
        campaign=update.campaign,
        manifest_digest=update.manifest_digest,
        attempt=update.attempt,
        reason=reason,
        detail=detail,
        done_bytes=update.total_bytes if written else 0,
        total_bytes=update.total_bytes,
        slot=update.slot,
    )
