"""One update from its offer to its activation, and every way it can end before that.

The logic is level-triggered: ``reconcile`` compares what the device is doing with what it was told and what it may do,
whatever event came, in whatever order. What was begun and not finished before a restart is taken up by ``resume``.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from device_sim.agent.activation import Activation
from device_sim.agent.boot_environment import Image, SlotState, other
from device_sim.agent.download import Download
from device_sim.agent.events import Activate, Fetched, Install, Reboot, Revert, Step
from device_sim.agent.offers import Offers
from device_sim.agent.reports import Reports, report_update
from device_sim.agent.situation import Situation
from device_sim.agent.slots import Release
from device_sim.agent.state import ACTIVE, Phase, Update
from device_sim.agent.switch import Course, Stage, course
from device_sim.agent.trust import open_release, reason_of
from firmware_store.errors import DigestError, TidegateError
from firmware_store.suit import Manifest, format_version
from server.domain.execution import State
from server.protocol.orders import Action, Deadlines, Directive
from server.protocol.reasons import Reason

RETRY_AFTER_S: Final = 30.0
STEP_AGAIN_S: Final = 10.0
WAKES_MORE: Final = 3
"""So many wake intervals longer are the deadlines of a device that sleeps."""


class Updates:
    """Starts, downloads, installs and activates. ``Trial`` has what comes after the reboot."""

    def __init__(self, situation: Situation, reports: Reports) -> None:
        self._situation = situation
        self._reports = reports
        self._download: Download | None = None
        self._manifest: Manifest | None = None
        self._busy: Step | None = None
        self._activation = Activation(situation, reports)
        self._offers = Offers(situation, reports)
        self._step_again_at: float | None = None

    @property
    def next_at(self) -> float | None:
        """When to look again without an event (monotonic seconds)."""
        times = [self._offers.next_at, self._step_again_at, self._activation.next_at, self._deadline_at]
        if self._download is not None:
            times.append(self._download.next_at)
        return min((time for time in times if time is not None), default=None)

    @property
    def may_sleep(self) -> bool:
        """Whether no update is under way, or one that waits for an order to go on."""
        update = self._situation.update
        if update is None or update.phase not in ACTIVE:
            return True
        is_held = self._situation.order(update).action is Action.HOLD
        return update.phase is Phase.WRITTEN and is_held and self._busy is None

    # --- the whole decision ---

    def resume(self) -> None:
        """Take up, after a boot, what the stored update says was under way."""
        here, update = self._situation, self._situation.update
        if update is None:
            return
        slot = here.slot(update.slot)
        if update.phase is Phase.TRIAL and update.slot != here.booted and slot is not None:
            if slot.state in {SlotState.BOOTABLE, SlotState.TRIAL}:
                self._change(phase=Phase.WRITTEN)  # the power went before the switch, or before the reboot
            else:
                self._end(State.ROLLED_BACK, Reason.BOOT_FAILED, "the new slot did not boot")
        elif update.phase is Phase.WRITTEN and (slot is None or slot.state is SlotState.UNBOOTABLE):
            self._end(State.FAILED, Reason.IMAGE_MISMATCH, "the written slot is damaged")
        elif update.phase is Phase.REVERTING and update.slot != here.booted:
            self._end(State.ROLLED_BACK, update.reason, update.detail)
        elif update.phase is Phase.DISCARDING:
            self._discard(update.reason, update.detail)

    def reconcile(self) -> None:
        """Do what the orders, the welcome and the clock now ask for."""
        self._offers.next_at = self._activation.next_at = None
        update = self._situation.update
        if update is None or update.phase not in ACTIVE:
            self._consider_start()
        elif self._busy is None:
            self._reconcile_update(update)
        else:
            return
        if self._download is not None:
            self._download.request()
            self._heed_download(self._download)

    def _reconcile_update(self, update: Update) -> None:
        self._offers.look_away()
        if update.phase is Phase.DOWNLOADING:
            self._reconcile_download(update)
        elif update.phase is Phase.WRITTEN:
            self._reconcile_written(update)
        elif update.phase is Phase.DISCARDING and self._situation.now >= (self._step_again_at or 0):
            self._discard(update.reason, update.detail)

    def link_lost(self) -> None:
        self._activation.forget()  # it has to be acknowledged in the session that activates
        self._offers.session_ended()
        if self._download is not None:
            self._download.link_lost()

    # --- starting ---

    def _consider_start(self) -> None:
        if self._busy is None:
            offer = self._offers.to_start()
            if offer is not None:
                self._start(offer)

    def _start(self, offer: Directive) -> None:
        here = self._situation
        assert offer.campaign is not None
        assert offer.envelope is not None
        assert here.server_now is not None
        last = here.last_of(offer.campaign)
        update = Update(
            campaign=offer.campaign,
            manifest_digest=offer.manifest_digest,
            sequence_number=offer.sequence_number,
            envelope=offer.envelope,
            deadlines=_with_sleep(offer.deadlines, here.identity.wake_interval_s or 0),
            started_at=int(here.server_now),
            attempt=1 if last is None else last.attempt + 1,
        )
        here.take_up(update)
        self._manifest = None
        self._activation.forget()
        try:
            here.check_release(offer.sequence_number, offer.manifest_digest)
        except TidegateError as exc:
            self._end(State.REJECTED, reason_of(exc), str(exc))
            return
        self._report(State.DOWNLOADING)
        here.note("started")
        self._download = Download(here, update)

    # --- downloading ---

    def _reconcile_download(self, update: Update) -> None:
        order = self._situation.order(update)
        if course(Stage.DOWNLOADING, order.action) is Course.STOP:
            self._end(State.CANCELLED, order.reason)
            return
        server_now = self._situation.server_now
        if server_now is not None and server_now >= update.started_at + update.deadlines.download_s:
            self._end(State.FAILED, Reason.DOWNLOAD_DEADLINE)
            return
        if self._download is None:  # after a restart
            self._download = Download(self._situation, update)

    def blob_came(self, digest: bytes, payload: bytes) -> None:
        """Take a message on a blob's topic."""
        self._let_download(lambda download: download.message(digest, payload))

    def fetched(self, event: Fetched) -> None:
        """Take what answers the download's effects."""
        self._let_download(lambda download: download.take(event))

    def _let_download(self, take: Callable[[Download], None]) -> None:
        if self._download is None:
            return
        try:
            take(self._download)
        except DigestError as exc:
            self._end(State.FAILED, Reason.CHUNK_MISMATCH, str(exc))
            return
        except TidegateError as exc:
            self._end(State.REJECTED, reason_of(exc), str(exc))
        else:
            self._heed_download(self._download)

    def _heed_download(self, download: Download) -> None:
        if download.failure is not None:
            self._end(State.FAILED, download.failure.reason, download.failure.detail)
        elif self._manifest is None and download.envelope is not None:
            self._envelope_came(download.envelope)

    def _envelope_came(self, envelope: bytes) -> None:
        here, update = self._situation, self._situation.update
        assert update is not None
        try:
            verified = open_release(
                envelope, update, trust=here.trust, identity=here.identity, state=here.state, slot=other(here.booted)
            )
        except TidegateError as exc:
            self._end(State.REJECTED, reason_of(exc), str(exc))
            return
        self._manifest = manifest = verified.manifest
        version = format_version(manifest.version)
        images = tuple(Image(one.name, one.image_digest, one.image_size) for one in manifest.components)
        total_bytes = sum(image.size_bytes for image in images)
        self._change(version=version, total_bytes=total_bytes, signers=verified.kids)
        self._busy = Step.INSTALL
        here.journal.emit(Install(Release(manifest.sequence_number, version, manifest.digest, images)))

    # --- what became of work on the slots ---

    def step_done(self, step: Step, slot: str) -> None:
        """``INSTALL``, ``SEAL``, ``ACTIVATE``, or the ``REVERT`` of a written slot."""
        update = self._situation.update
        self._busy = None
        if update is None:
            return
        if step is Step.INSTALL and update.phase is Phase.DOWNLOADING:
            self._change(slot=slot)
            manifest = self._manifest
            if manifest is not None:
                self._let_download(lambda download: download.begin(manifest))
        elif step is Step.SEAL and update.phase is Phase.DOWNLOADING:
            self._download = None
            self._change(phase=Phase.WRITTEN)
            self._report(State.INSTALLING)
            self._situation.note("written")
        elif step is Step.ACTIVATE and update.phase is Phase.TRIAL:
            self._activated(update)
        elif step is Step.REVERT and update.phase is Phase.DISCARDING:
            self._end(State.CANCELLED, update.reason, update.detail)

    def step_failed(self, step: Step, reason: Reason, detail: str) -> None:
        """Nothing was activated; what is in the slot is not bootable, or not booted."""
        update = self._situation.update
        if step is Step.STAGE:  # only one of several ways has come to its end
            self._let_download(lambda download: download.staging_failed(detail))
            return
        self._busy = None
        if update is None:
            return
        if update.phase is Phase.DISCARDING:
            self._step_again_at = self._situation.now + STEP_AGAIN_S
        elif update.phase in ACTIVE:
            self._end(State.FAILED, reason, f"{step}: {detail}")

    # --- written, not yet booted ---

    def _reconcile_written(self, update: Update) -> None:
        order = self._situation.order(update)
        whither = course(Stage.WRITTEN, order.action)
        if whither is Course.DISCARD:
            self._discard(order.reason)
        elif whither is Course.GO_ON and self._may_boot(update):
            # Saved first: whatever the next boot finds, it knows that a switch was under way.
            self._change(phase=Phase.TRIAL)
            self._busy = Step.ACTIVATE
            self._situation.journal.emit(Activate(update.slot))

    def _may_boot(self, update: Update) -> bool:
        ready = self._activation.may_activate(update)
        return ready and self._activation.is_acknowledged(lambda: self._report(State.REBOOTING))

    def _activated(self, update: Update) -> None:
        if self._activation.may_activate(update):
            self._situation.note("rebooting")
            self._situation.journal.emit(Reboot())
        else:  # the order changed while the slot was switched
            self._change(phase=Phase.WRITTEN)

    def _discard(self, reason: Reason, detail: str = "") -> None:
        """Make the written slot unbootable; the running one is not touched."""
        update = self._situation.update
        assert update is not None
        self._change(phase=Phase.DISCARDING, reason=reason, detail=detail)
        self._step_again_at = None
        self._busy = Step.REVERT
        self._situation.journal.emit(Revert(update.slot))

    # --- shared ---

    def _end(self, state: State, reason: Reason, detail: str = "") -> None:
        """The update is over in ``state``: store that, report it, and ask for nothing more."""
        here, update = self._situation, self._situation.update
        assert update is not None
        if self._download is not None:
            self._download.stop()
        self._download = self._manifest = self._busy = None
        self._activation.forget()
        retry_at = 0
        if state is State.FAILED and here.server_now is not None:
            wait_s = RETRY_AFTER_S * 2 ** (update.attempt - 1) * here.rng.uniform(0.5, 1.5)
            retry_at = int(here.server_now + wait_s)
        self._change(phase=Phase.ENDED, ended=state, reason=reason, detail=detail, retry_at=retry_at)
        self._report(state, reason, detail)
        here.note(_NOTES[state], reason, detail)

    def _report(self, state: State, reason: Reason = Reason.NONE, detail: str = "") -> int:
        update = self._situation.update
        assert update is not None
        return report_update(self._reports, update, state, reason=reason, detail=detail)

    def _change(self, **changes: Any) -> None:
        update = self._situation.update
        assert update is not None
        self._situation.journal.update(update=replace(update, **changes))

    @property
    def _deadline_at(self) -> float | None:
        update, offset = self._situation.update, self._situation.clock_offset
        if update is None or update.phase is not Phase.DOWNLOADING or offset is None:
            return None
        return update.started_at + update.deadlines.download_s - offset


def _with_sleep(limits: Deadlines, wake_interval_s: int) -> Deadlines:
    """Return the limits of a device that sleeps: what it is told allows for devices that are always awake."""
    more_s = WAKES_MORE * wake_interval_s
    return replace(limits, download_s=limits.download_s + more_s, confirm_s=limits.confirm_s + more_s)


_NOTES: Final = {
    State.FAILED: "failed",
    State.REJECTED: "refused",
    State.CANCELLED: "stopped",
    State.ROLLED_BACK: "reverted",
}
