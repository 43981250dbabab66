"""After the reboot: a new image on trial until it has proved itself, and the ways back to the old one."""

from dataclasses import replace
from enum import Enum, auto
from typing import Any, Final

from device_sim.agent.boot_environment import SlotState, other
from device_sim.agent.events import CheckHealth, Confirm, HealthChecked, Reboot, Revert, Step
from device_sim.agent.reports import Reports, report_update
from device_sim.agent.situation import Situation
from device_sim.agent.state import ACTIVE, Phase, Update
from device_sim.agent.switch import Course, Stage, course
from server.domain.execution import State
from server.protocol.reasons import Reason

STEP_AGAIN_S: Final = 10.0
SAVES_PER_TRIAL: Final = 16
"""How often the time on trial is stored: it counts over reboots, and flash wears out."""


class _Health(Enum):
    UNKNOWN = auto()
    ASKED = auto()
    GOOD = auto()


class Trial:
    """The running slot, while it is on trial and while an operator may still send it back."""

    def __init__(self, situation: Situation, reports: Reports) -> None:
        self._situation = situation
        self._reports = reports
        self._busy: Step | None = None
        self._health = _Health.UNKNOWN
        self._checked_at = float("-inf")
        self._was_up = self._was_welcomed = False
        self._elapsed_before_s = 0
        self._step_again_at: float | None = None
        self._is_orphaned = False

    @property
    def next_at(self) -> float | None:
        """When to look again without an event (monotonic seconds)."""
        update, booted_at = self._situation.update, self._situation.booted_at
        if self._step_again_at is not None:
            return self._step_again_at
        if update is None or update.phase is not Phase.TRIAL or update.slot != self._situation.booted:
            return None
        limits, now = update.deadlines, self._situation.now
        deadline_at = booted_at + limits.confirm_s - self._elapsed_before_s
        times = [deadline_at, booted_at + limits.trial_s, self._save_at(update)]
        return min((time for time in times if time > now), default=deadline_at)

    def resume(self) -> None:
        """Find out, after a boot, whether this slot is on trial, and for which update."""
        here, update = self._situation, self._situation.update
        if update is None or update.slot != here.booted or update.phase not in {Phase.TRIAL, Phase.REVERTING}:
            # Not confirmed, and nobody knows for which update, or how it was allowed: the way back is the safe one.
            self._is_orphaned = here.running.state is not SlotState.CONFIRMED
        elif update.phase is Phase.REVERTING:
            self._revert(verify=update.was_confirmed)  # the power went before the switch
        elif here.running.state is SlotState.CONFIRMED:
            self._confirmed()  # the power went after the switch
        else:
            self._elapsed_before_s = update.trial_elapsed_s
            report_update(self._reports, update, State.TRIAL)
            here.note("trial")

    def reconcile(self) -> None:
        """Do what the orders, the welcome, the health check and the clock now ask for."""
        here, update = self._situation, self._situation.update
        self._was_up |= here.is_up
        self._was_welcomed |= here.welcome is not None
        if self._busy is not None or (self._step_again_at is not None and here.now < self._step_again_at):
            return
        self._step_again_at = None
        if self._is_orphaned:
            self._revert()
            return
        if update is None or update.phase not in ACTIVE:
            self._consider_going_back()
        elif update.slot != here.booted:
            return
        elif update.phase is Phase.REVERTING:
            self._revert(verify=update.was_confirmed)
        elif update.phase is Phase.TRIAL:
            self._reconcile_trial(update)

    def health_checked(self, event: HealthChecked) -> None:
        """The platform has answered."""
        update = self._situation.update
        if self._health is not _Health.ASKED or update is None or update.phase is not Phase.TRIAL:
            return
        if event.healthy:
            self._health = _Health.GOOD
        else:
            self._health = _Health.UNKNOWN
            self._leave(Reason.HEALTH_CHECK_FAILED, event.detail)

    def step_done(self, step: Step) -> None:
        """``CONFIRM``, or the ``REVERT`` of the running slot."""
        here, update = self._situation, self._situation.update
        self._busy = None
        if step is Step.CONFIRM and update is not None and update.phase is Phase.TRIAL:
            self._confirmed()
        elif step is Step.REVERT:
            here.note("reverting", Reason.NONE if update is None else update.reason)
            here.journal.emit(Reboot())

    def step_failed(self, step: Step, detail: str) -> None:
        """A rollback that is impossible is over; anything else is tried again, and the deadline still stands."""
        update = self._situation.update
        self._busy = None
        if step is Step.REVERT and update is not None and update.was_confirmed:
            self._stay(detail)
        else:
            self._step_again_at = self._situation.now + STEP_AGAIN_S

    def owns(self, step: Step) -> bool:
        """Tell whether the outcome of ``step`` is for the trial."""
        return self._busy is step

    # --- on trial ---

    def _reconcile_trial(self, update: Update) -> None:
        here = self._situation
        order = here.order(update)
        elapsed_s = here.now - here.booted_at
        if course(Stage.TRIAL, order.action, keep_on_halt=order.keep_on_halt) is Course.REVERT:
            self._leave(order.reason)
        elif self._elapsed_before_s + elapsed_s >= update.deadlines.confirm_s:
            self._leave(self._why_not_confirmed())
        elif (update.is_offline or self._is_welcome) and self._health is not _Health.ASKED:
            self._prove(update, elapsed_s)
        if here.now >= self._save_at(update):
            self._change(trial_elapsed_s=int(self._elapsed_before_s + elapsed_s))

    @property
    def _is_welcome(self) -> bool:
        return self._situation.is_up and self._situation.welcome is not None

    def _prove(self, update: Update, elapsed_s: float) -> None:
        """Check the health as soon as we are welcome, and again at the end of the trial: that one counts."""
        here = self._situation
        is_over = elapsed_s >= update.deadlines.trial_s
        checked_late = self._checked_at >= here.booted_at + update.deadlines.trial_s
        if self._health is _Health.UNKNOWN or (is_over and not checked_late):
            self._health = _Health.ASKED
            self._checked_at = here.now
            here.journal.emit(CheckHealth())
        elif is_over:
            self._busy = Step.CONFIRM
            here.journal.emit(Confirm())

    def _confirmed(self) -> None:
        here, update = self._situation, self._situation.update
        assert update is not None
        here.journal.update(
            highest_sequence=max(update.sequence_number, here.state.highest_sequence),
            highest_digest=update.manifest_digest,
        )
        self._change(phase=Phase.CONFIRMED, ended=State.CONFIRMED)
        assert here.update is not None
        report_update(self._reports, here.update, State.CONFIRMED)
        here.note("confirmed")

    def _why_not_confirmed(self) -> Reason:
        if not self._was_up:
            return Reason.NO_BROKER
        if not self._was_welcomed:
            return Reason.NO_WELCOME
        return Reason.TRIAL_DEADLINE if self._situation.is_up else Reason.LINE_LOST

    def _save_at(self, update: Update) -> float:
        step_s = max(update.deadlines.confirm_s / SAVES_PER_TRIAL, 1)
        return self._situation.booted_at + update.trial_elapsed_s - self._elapsed_before_s + step_s

    # --- the way back ---

    def _leave(self, reason: Reason, detail: str = "") -> None:
        """Give the trial up. Always allowed, whatever has expired: the old slot is the confirmed one."""
        self._change(phase=Phase.REVERTING, reason=reason, detail=detail)
        self._revert()

    def _consider_going_back(self) -> None:
        confirmed = self._situation.confirmed_here
        if confirmed is None or confirmed.no_way_back:
            return
        order = self._situation.directives.order(confirmed.campaign, confirmed.manifest_digest)
        if course(Stage.CONFIRMED, order.action) is Course.GO_BACK:
            self._situation.take_up(confirmed)
            self._go_back()

    def _go_back(self) -> None:
        """An operator's rollback of a confirmed image: only to an intact, confirmed slot that no floor forbids."""
        here = self._situation
        previous = here.slot(other(here.booted))
        if previous is None or previous.state is not SlotState.CONFIRMED:
            self._stay("the other slot is not a confirmed one")
        elif previous.sequence_number < here.floor:
            self._stay("the other slot is below the fleet's floor")
        elif here.is_revoked(previous.manifest_digest):
            self._stay("the release in the other slot has been revoked")
        else:
            self._change(phase=Phase.REVERTING, reason=Reason.ROLLED_BACK, was_confirmed=True)
            self._revert(verify=True)

    def _stay(self, detail: str) -> None:
        self._change(phase=Phase.CONFIRMED, was_confirmed=False, no_way_back=True, reason=Reason.NO_WAY_BACK)
        update = self._situation.update
        assert update is not None
        report_update(self._reports, update, State.CONFIRMED, reason=Reason.NO_WAY_BACK, detail=detail)
        self._situation.note("no_way_back", Reason.NO_WAY_BACK, detail)

    def _revert(self, *, verify: bool = False) -> None:
        self._busy = Step.REVERT
        self._situation.journal.emit(Revert(self._situation.booted, verify=verify))

    def _change(self, **changes: Any) -> None:
        update = self._situation.update
        assert update is not None
        self._situation.journal.update(update=replace(update, **changes))
