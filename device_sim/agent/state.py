"""What the agent remembers over restarts: one value, saved before anything is done that rests on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Final
from uuid import UUID

from firmware_store.codec import Encodable, Value, decode, encode
from firmware_store.errors import CodecError, InvalidInputError
from firmware_store.keys import Kid
from server.domain.execution import State
from server.domain.identity import CampaignId, Cohort, Region, cohort, region
from server.protocol.messages import Counter, Report, decode_report, encode_report
from server.protocol.orders import Deadlines, Envelope
from server.protocol.reasons import Reason

FORMAT: Final = 2
MAX_BYTES: Final = 1 << 20  # the directives of two audiences, and a counter for each audience of a device's life


class Phase(IntEnum):
    """Where an update is, as far as the next boot must know."""

    DOWNLOADING = 1
    WRITTEN = 2
    TRIAL = 3  # saved before the slot is activated
    DISCARDING = 4  # a written slot that must not be booted
    REVERTING = 5  # on the way back to the old slot
    CONFIRMED = 6
    ENDED = 7


OFFLINE: Final = CampaignId(UUID(int=0))
"""Stands for the campaign of a release that somebody has installed from a file: no server knows of it."""

ACTIVE: Final = frozenset({Phase.DOWNLOADING, Phase.WRITTEN, Phase.TRIAL, Phase.DISCARDING, Phase.REVERTING})


@dataclass(frozen=True, slots=True)
class Update:
    """The execution of one campaign: the current one, or how the last one ended."""

    campaign: CampaignId
    manifest_digest: bytes
    sequence_number: int
    envelope: Envelope
    deadlines: Deadlines
    started_at: int
    """Server time, Unix seconds."""
    attempt: int = 1
    phase: Phase = Phase.DOWNLOADING
    slot: str = ""
    version: str = ""
    total_bytes: int = 0
    trial_elapsed_s: int = 0
    ended: State | None = None
    reason: Reason = Reason.NONE
    detail: str = ""
    retry_at: int = 0
    """Server time of the next attempt after ``failed``."""
    was_confirmed: bool = False
    """An operator's rollback is under way."""
    no_way_back: bool = False
    signers: frozenset[Kid] = frozenset()
    """The release keys whose signatures counted; empty until the envelope has come."""

    @property
    def is_offline(self) -> bool:
        """Whether it came from a file: it is reported to nobody, and proves itself without a server."""
        return self.campaign == OFFLINE


@dataclass(frozen=True, slots=True)
class Held:
    """The last directive accepted for one audience. ``sealed`` is empty for an audience that is no longer ours."""

    counter: Counter
    payload_digest: bytes
    sealed: bytes = b""


@dataclass(frozen=True, slots=True)
class AgentState:
    """Region and cohort are as the last welcome told; ``held`` is keyed by audience and never loses a key."""

    region: Region
    cohort: Cohort
    held: Mapping[str, Held] = field(default_factory=lambda: MappingProxyType({}))
    highest_sequence: int = 0
    """Of the releases ever confirmed here; ``highest_digest`` is its manifest."""
    highest_digest: bytes = b""
    report_sequence: int = 0
    last_report: Report | None = None
    unacked: tuple[Report, ...] = ()
    update: Update | None = None
    past: tuple[Update, ...] = ()
    """How other campaigns ended here, the oldest first: none of them is begun again as if nothing had happened."""
    root: bytes = b""
    """The root document that was walked to; empty where the pinned one is in force."""
    status: bytes = b""
    """The newest status document that was accepted."""


PAST_MOST: Final = 16


def encode_state(state: AgentState) -> bytes:
    """Return the bytes to store."""
    held: dict[str, Encodable] = {
        audience: [one.counter.epoch, one.counter.counter, one.payload_digest, one.sealed]
        for audience, one in state.held.items()
    }
    return encode(
        {
            0: FORMAT,
            1: state.region,
            2: state.cohort,
            3: held,
            4: [state.highest_sequence, state.highest_digest],
            5: state.report_sequence,
            6: None if state.last_report is None else encode_report(state.last_report),
            7: [encode_report(report) for report in state.unacked],
            8: None if state.update is None else _encode_update(state.update),
            9: [_encode_update(update) for update in state.past],
            10: [state.root, state.status],
        }
    )


def decode_state(data: bytes) -> AgentState:
    """Read what ``encode_state`` wrote.

    Raises:
        CodecError: it is damaged, or of another format.
    """
    try:
        match decode(data, max_bytes=MAX_BYTES):
            case {
                0: 2,
                1: str(in_region),
                2: str(name),
                3: dict(held),
                4: [int(highest), bytes(digest)],
                5: int(report_sequence),
                6: bytes() | None as last,
                7: [*unacked],
                8: [*_] | None as update,
                9: [*past],
                10: [bytes(root), bytes(status)],
            }:
                return AgentState(
                    region=region(in_region),
                    cohort=cohort(name),
                    held=MappingProxyType({str(audience): _decode_held(one) for audience, one in held.items()}),
                    highest_sequence=highest,
                    highest_digest=digest,
                    report_sequence=report_sequence,
                    last_report=None if last is None else decode_report(last),
                    unacked=tuple(decode_report(report) for report in unacked if isinstance(report, bytes)),
                    update=None if update is None else _decode_update(update),
                    past=tuple(_decode_update(one) for one in past),
                    root=root,
                    status=status,
                )
    except (InvalidInputError, ValueError) as exc:
        raise CodecError(f"the agent's state is damaged: {exc}") from exc
    raise CodecError("the agent's state is not of this format")


def _decode_held(value: Value) -> Held:
    match value:
        case [int(epoch), int(counter), bytes(payload_digest), bytes(sealed)]:
            return Held(Counter(epoch, counter), payload_digest, sealed)
    raise CodecError("a held directive is damaged")


def _encode_update(update: Update) -> Encodable:
    limits = update.deadlines
    return [
        update.campaign.bytes,
        update.manifest_digest,
        update.sequence_number,
        [update.envelope.digest, update.envelope.size_bytes],
        [limits.download_s, limits.trial_s, limits.confirm_s],
        update.started_at,
        update.attempt,
        update.phase.value,
        update.slot,
        update.version,
        update.total_bytes,
        update.trial_elapsed_s,
        None if update.ended is None else update.ended.value,
        update.reason.value,
        update.detail,
        update.retry_at,
        update.was_confirmed,
        update.no_way_back,
        sorted(update.signers),
    ]


def _decode_update(value: Value) -> Update:
    match value:
        case [
            bytes(campaign),
            bytes(manifest_digest),
            int(sequence_number),
            [bytes(envelope_digest), int(envelope_size)],
            [int(download_s), int(trial_s), int(confirm_s)],
            int(started_at),
            int(attempt),
            int(phase),
            str(slot),
            str(version),
            int(total_bytes),
            int(trial_elapsed_s),
            str() | None as ended,
            int(reason),
            str(detail),
            int(retry_at),
            bool(was_confirmed),
            bool(no_way_back),
            [*signers],
        ]:
            return Update(
                CampaignId(UUID(bytes=campaign)),
                manifest_digest,
                sequence_number,
                Envelope(envelope_digest, envelope_size),
                Deadlines(download_s, trial_s, confirm_s),
                started_at,
                attempt=attempt,
                phase=Phase(phase),
                slot=slot,
                version=version,
                total_bytes=total_bytes,
                trial_elapsed_s=trial_elapsed_s,
                ended=None if ended is None else State(ended),
                reason=Reason(reason),
                detail=detail,
                retry_at=retry_at,
                was_confirmed=was_confirmed,
                no_way_back=no_way_back,
                signers=frozenset(Kid(kid) for kid in signers if isinstance(kid, bytes)),
            )
    raise CodecError("the update in the agent's state is damaged")
