"""Carrying out the effects that touch the device's storage: one call, one answer, errors turned into events."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from device_sim.agent.durable_file import StorageError, read_file, replace_file
from device_sim.agent.events import (
    Activate,
    Adopt,
    Confirm,
    Effect,
    Event,
    ImageDone,
    Install,
    Make,
    Persist,
    Reuse,
    Reused,
    Revert,
    Seal,
    Stage,
    Staged,
    Step,
    StepDone,
    StepFailed,
    Write,
)
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.agent.slots import STAGED, Installation, SlotBackend
from device_sim.agent.state import AgentState, decode_state, encode_state
from firmware_store.errors import CodecError, DigestError, TidegateError
from server.protocol.reasons import Reason

STATE_FILE: Final = "agent.cbor"

log = structlog.get_logger(__name__)


class Storage:
    """The state file and the slots of one device. Calls may block."""

    def __init__(
        self, directory: Path, slots: SlotBackend, *, durable: bool = True, files: Filesystem = SYSTEM_FILES
    ) -> None:
        self._path = directory / STATE_FILE
        self._slots = slots
        self._durable = durable
        self._files = files
        self._installation: Installation | None = None

    def load(self, factory: AgentState) -> AgentState:
        """Return what was stored; ``factory`` when nothing was, or nothing readable.

        A lost state loses no safety: nothing starts without a welcome, and the slots know what was confirmed.
        """
        return self.read() or factory

    def read(self) -> AgentState | None:
        """Return what was stored, if anything was that can be read."""
        try:
            return decode_state(read_file(self._path, files=self._files))
        except FileNotFoundError:
            return None
        except (OSError, CodecError):
            log.exception("agent_state_lost", path=str(self._path))
            return None

    def perform(self, effect: Effect) -> Event | None:
        """Carry out a storage effect; others are none of ours, and answer nothing.

        Raises:
            StorageError: the state could not be stored; nothing after it may happen.
        """
        match effect:
            case Persist(state):
                self._persist(state)
            case Install(release):
                return self._step(Step.INSTALL, lambda: self._install(self._slots.install(release)))
            case Reuse(image, pieces, moved):
                return Reused(self._open.reuse(image, pieces, moved=moved))
            case Adopt(image):
                return self._image_step(image, lambda: self._open.adopt(image))
            case Stage(name):
                return self._stage(name)
            case Make(image, codec):
                return self._image_step(image, lambda: self._open.make(image, codec))
            case Write(image, parts):
                step = Step.STAGE if image == STAGED else Step.WRITE
                done = self._step(step, lambda: self._open.write(image, parts))
                return done if isinstance(done, StepFailed) else None
            case Seal():
                return self._step(Step.SEAL, self._open.seal)
            case Activate(slot):
                return self._step(Step.ACTIVATE, lambda: self._slots.activate(slot))
            case Confirm():
                return self._step(Step.CONFIRM, self._slots.confirm)
            case Revert(slot, verify):
                return self._step(Step.REVERT, lambda: self._slots.revert(slot, verify=verify))
        return None

    @property
    def _open(self) -> Installation:
        assert self._installation is not None, "the core writes into a slot only after it has opened one"
        return self._installation

    def _install(self, installation: Installation) -> None:
        self._installation = installation

    def _persist(self, state: AgentState) -> None:
        try:
            replace_file(self._path, encode_state(state), durable=self._durable, files=self._files)
        except OSError as exc:
            raise StorageError(f"cannot store the agent's state: {exc.strerror}") from exc

    def _stage(self, name: bytes) -> Event:
        sizes: list[int] = []
        done = self._step(Step.STAGE, lambda: sizes.append(self._open.stage(name)))
        return done if isinstance(done, StepFailed) else Staged(*sizes)

    def _image_step(self, image: int, call: Callable[[], bool | None]) -> Event:
        """What could not be put in place is fetched in another way, so that no failure here is the update's."""
        try:
            whole = call()
        except TidegateError as exc:
            return ImageDone(image, whole=False, detail=str(exc))
        return ImageDone(image, whole=whole is not False)

    def _step(self, step: Step, call: Callable[[], object]) -> Event:
        try:
            call()
        except TidegateError as exc:
            return StepFailed(step, _reason(exc), str(exc), self._slots.slots())
        slot = self._installation.slot if self._installation is not None else ""
        return StepDone(step, slot, self._slots.slots())


def _reason(error: TidegateError) -> Reason:
    if isinstance(error, StorageError):
        return error.reason
    if isinstance(error, DigestError):
        return Reason.IMAGE_MISMATCH
    return Reason.STORAGE_ERROR
