"""A whole update of the device: halted in the middle of its download first, and then brought to its end."""

import time
from typing import Final

from device_sim.conformance.examiner import Examiner
from device_sim.conformance.order_checks import LIMITS, begun, campaign_for, offer_of
from device_sim.conformance.release import Release
from device_sim.conformance.rules import Sheet
from server.domain.execution import State
from server.domain.gate import FULL, Ramp, height
from server.domain.identity import CampaignId
from server.protocol.messages import Report
from server.protocol.orders import Action, Admit
from server.protocol.reasons import Reason

REPEATED_S: Final = 15.0
REBOOT_S: Final = 300.0


class Update:
    """One campaign of an exam."""

    def __init__(self, examiner: Examiner, sheet: Sheet, release: Release) -> None:
        self._examiner, self._sheet, self._release = examiner, sheet, release
        self._campaign: CampaignId = campaign_for(examiner)

    async def check(self) -> None:
        """Try all that an update shows; stops where the device does not go on."""
        await self._hold_below()
        if not await self._start():
            self._sheet.why_not = "it has not started"
            return
        await self._halt()
        if await self._finish():
            await self._reboot()

    async def _hold_below(self) -> None:
        examiner, release = self._examiner, self._release
        await examiner.retain(examiner.topics.blob(release.named.digest), release.envelope)
        low = Ramp.flat(height(self._campaign, examiner.device) - 1, int(time.time()))
        await examiner.order(offer_of(examiner, release, campaign=self._campaign, ramp=low))
        examiner.welcome()
        await examiner.beat()
        started = begun(self._mine())
        self._sheet.note("offer.below-level", not started, f"says {', '.join(started) or 'nothing'}")

    async def _start(self) -> bool:
        examiner, now = self._examiner, int(time.time())
        below = height(self._campaign, examiner.device) - 1
        examiner.answers = lambda report: report.state is not State.DOWNLOADING
        line = Ramp(now, below, now + 1, FULL)
        await examiner.order(offer_of(examiner, self._release, campaign=self._campaign, ramp=line))
        examiner.welcome(admit=Admit(self._campaign, now + 600) if self._is_asleep() else None)
        began = await examiner.until(lambda: self._has(State.DOWNLOADING), within_s=REPEATED_S)
        if not self._sheet.note("offer.starts", began, self._said()):
            return False
        (first, *_) = [report for report in self._mine() if report.state is State.DOWNLOADING]
        again = await examiner.until(lambda: self._repeats(first), within_s=REPEATED_S)
        in_beats = any(beat.execution == first for _, beat in examiner.beats)
        seen = f"{'came again' if again else 'came once'}, and beats {'repeat' if in_beats else 'lack'} it"
        self._sheet.note("report.repeated", again and in_beats, seen)
        examiner.answers = lambda report: report.state is not State.REBOOTING
        examiner.acknowledge(first.sequence)
        return True

    async def _halt(self) -> None:
        examiner, release = self._examiner, self._release
        if not self._has_ended():
            halt = examiner.directive(
                Action.HALT,
                campaign=self._campaign,
                manifest_digest=release.manifest_digest,
                sequence_number=release.sequence_number,
                deadlines=LIMITS,
            )
            await examiner.order(halt)
            await examiner.until(self._has_ended, within_s=REPEATED_S)
        last = self._mine()[-1]
        is_so = (last.state, last.reason) == (State.CANCELLED, Reason.HALTED)
        self._sheet.note("halt.download", is_so, f"says {last.state.value}({last.reason.name.lower()})")

    async def _finish(self) -> bool:
        examiner, release, now = self._examiner, self._release, int(time.time())
        attempt = max(report.attempt for report in self._mine())
        self._campaign = campaign_for(examiner) if self._mine()[-1].state is not State.CANCELLED else self._campaign
        for digest, blob in release.blobs.items():
            await examiner.retain(examiner.topics.blob(digest), blob)
        everybody = Ramp.flat(FULL, now)
        await examiner.order(offer_of(examiner, release, campaign=self._campaign, ramp=everybody))
        examiner.welcome(admit=Admit(self._campaign, now + 600))
        written = await examiner.until(lambda: self._has(State.REBOOTING), within_s=REBOOT_S)
        later = [report.attempt for report in self._mine() if report.state is State.REBOOTING]
        seen = f"attempt {attempt}, then {later[-1] if later else 'none'}"
        self._sheet.note("attempt.counted", bool(later) and later[-1] == attempt + 1, seen)
        if not written:
            self._sheet.why_not = f"it has not come to its reboot: {self._said()}"
        return written

    async def _reboot(self) -> None:
        examiner, sheet = self._examiner, self._sheet
        before, hellos = examiner.hellos[-1], len(examiner.hellos)
        stayed = await examiner.beat() and examiner.hellos[-1].boot_id == before.boot_id
        sheet.note("reboot.acknowledged", stayed, "two beats more" if stayed else "it was gone before")
        examiner.answers = lambda _: True
        for report in self._mine():
            if report.state is State.REBOOTING:
                examiner.acknowledge(report.sequence)
        if not await examiner.until(lambda: len(examiner.hellos) > hellos, within_s=REBOOT_S):
            sheet.note("reboot.boot-id", False, f"no hello within {REBOOT_S:.0f} s of the reboot")
            return
        after = examiner.hellos[-1]
        is_new = after.boot_id != before.boot_id and after.nonce != before.nonce
        sheet.note("reboot.boot-id", is_new, "both are new" if is_new else "one of them is that of before")
        self._judge_will(before.boot_id, before.nonce)
        ended = await examiner.until(
            lambda: self._has(State.CONFIRMED, State.ROLLED_BACK), within_s=LIMITS.confirm_s + 60
        )
        sheet.note("trial.ends", ended and self._has(State.TRIAL, State.ROLLED_BACK), self._said())
        slots = {slot.name: slot for slot in after.slots}
        running = slots.get(after.booted)
        if self._has(State.TRIAL):
            fits = running is not None and running.manifest_digest == self._release.manifest_digest
            seen = "none" if running is None else f"{running.name}: {running.version} {running.state}"
            sheet.note("trial.slots", fits and running is not None and running.state == "trial", seen)
        else:
            sheet.skip("trial.slots", "it never said that it is on trial")

    def _judge_will(self, boot_id: bytes, nonce: bytes) -> None:
        wills = [(will.boot_id, will.nonce) for will in self._examiner.goodbyes]
        if wills:
            is_right = wills[-1] == (boot_id, nonce)
            self._sheet.note("session.will", is_right, "its own session's" if is_right else "another session's")
        else:
            self._sheet.skip("session.will", "it took its leave in order, or the broker has published no will")

    # --- what it has said of this release ---

    def _mine(self) -> list[Report]:
        return [one for one in self._examiner.reports if one.manifest_digest == self._release.manifest_digest]

    def _has(self, *states: State) -> bool:
        return any(report.state in states for report in self._mine())

    def _has_ended(self) -> bool:
        over = {State.CANCELLED, State.FAILED, State.REJECTED}
        return bool(self._mine()) and self._mine()[-1].state in over

    def _repeats(self, report: Report) -> bool:
        return sum(one.sequence == report.sequence for one in self._examiner.reports) > 1

    def _said(self) -> str:
        told = [
            f"{one.state.value}({one.reason.name.lower()})" if one.reason else one.state.value for one in self._mine()
        ]
        return ", ".join(dict.fromkeys(told)) or "nothing"

    def _is_asleep(self) -> bool:
        return self._examiner.hellos[-1].wake_interval_s is not None
