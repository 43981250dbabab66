"""Whatever happens to a device, in whatever order: what must hold after every single step."""

import hashlib
import tempfile
from functools import cached_property
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from device_sim.agent.events import Activate, Effect, Install, Note, Received
from server.domain.execution import TERMINAL, may_follow
from server.domain.gate import DEAD_MAN_S, FULL, Ramp, height, is_due
from server.domain.identity import CampaignId
from server.protocol.messages import Counter
from server.protocol.orders import Action, Deadlines
from server.protocol.topics import DeviceAudience
from tests.agent_world import CAMPAIGN, DEVICE, EU, OTHER_CAMPAIGN, Bundle, World, chunk_digests, make_bundle

SMALL = (("app", 20_000),)
BUNDLES = [
    make_bundle(1, "1.1.0", sizes=SMALL),
    make_bundle(2, "1.2.0", sizes=SMALL),
    make_bundle(3, "1.3.0", sizes=SMALL),
    make_bundle(9, "9.9.9", sizes=SMALL, signatures=1),
]
SIGNED = 3
"""As many of them are signed by enough keys. Rules take numbers: the bundles themselves would fill the memory."""
CAMPAIGNS = [CAMPAIGN, OTHER_CAMPAIGN]
LIMITS = Deadlines(download_s=300, trial_s=20, confirm_s=120)
SIGNED_IMAGES = {hashlib.sha256(data).digest() for bundle in BUNDLES[:SIGNED] for data in bundle.images.values()}


class WatchedWorld(World):
    """Checks what must hold at the moment of an effect."""

    def _act(self, effect: Effect) -> None:
        if isinstance(effect, Activate | Install):
            assert self.welcomed == (self.reboots, self.nonce), "no welcome of this session"
            assert self.is_up
        if isinstance(effect, Note) and effect.event == "started":
            assert effect.campaign is not None
            self._check_start(effect.campaign)
        super()._act(effect)

    welcomed: tuple[int, bytes] | None = None

    def welcome(self, **changes: object) -> None:  # type: ignore[override]
        super().welcome(**changes)
        self.welcomed = (self.reboots, self.nonce)

    def direct(self, action: Action, bundle: Bundle | None = None, **changes: object) -> bytes:
        directive = self.make_directive(action, bundle, **changes)
        self.counter -= 1
        if directive.ramp is not None and directive.campaign is not None and action is Action.OFFER:
            is_own = isinstance(directive.audience, DeviceAudience)
            self.offered.setdefault(directive.campaign, []).append((self.server_now, directive.ramp, is_own))
        return super().direct(action, bundle, **changes)

    @cached_property
    def offered(self) -> dict[CampaignId, list[tuple[int, Ramp, bool]]]:
        """The campaigns' ramps, and when each of them was published."""
        return {}

    def _check_start(self, campaign: CampaignId) -> None:
        """Nobody starts for the first time who was due all the last two minutes, unless it was asked."""
        update = self.agent.state.update
        assert update is not None
        admit = self.agent._situation.welcome and self.agent._situation.welcome.admit
        is_asked = admit is not None and admit.campaign == campaign and admit.until > self.server_now
        ramps = self.offered[campaign]
        if update.attempt > 1 or is_asked or any(is_own for *_, is_own in ramps):
            return
        since = self.server_now - DEAD_MAN_S - 2  # the welcome's clock, and the slack after the line, are so far off
        ends = [published for published, *_ in ramps[1:]] + [self.server_now]
        own = height(campaign, DEVICE)
        levels = [
            ramp.l0 if ramp.t0 >= since else ramp.level(max(published, since))
            for (published, ramp, _), end in zip(ramps, ends, strict=True)
            if end >= since
        ]
        assert since <= ramps[0][0] or not all(is_due(own, level) for level in levels)


class DeviceMachine(RuleBasedStateMachine):
    """One device, and everything that a broker, a server, an operator and the mains can do to it."""

    @initialize()
    def build(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.world = WatchedWorld(Path(self.folder.name))
        self.sealed: list[bytes] = []
        self.counters: dict[str, Counter] = {}
        self.highest = 0
        self.proven = {"1.0.0"}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()
            del self.world  # hypothesis keeps the machines of all examples

    # --- the operator and the signer ---

    @rule(
        action=st.sampled_from(Action),
        bundle=st.sampled_from(range(len(BUNDLES))),
        campaign=st.sampled_from(CAMPAIGNS),
        level=st.sampled_from([0, FULL // 2, FULL, FULL, FULL]),
        rises=st.booleans(),
        own=st.booleans(),
        lifetime_s=st.sampled_from([10, 86_400, 86_400]),
        keep=st.booleans(),
    )
    def direct(
        self, *, action: Action, bundle: int, campaign, level: int, rises: bool, own: bool, lifetime_s: int, keep: bool
    ) -> None:
        self.world.hold_blobs(BUNDLES[bundle])
        now = self.world.server_now
        changes: dict[str, object] = {"expires": now + lifetime_s}
        if own:
            changes["audience"] = DeviceAudience(EU, DEVICE)
        if action is Action.NONE:
            self.sealed.append(self.world.direct(action, **changes))
            return
        ramp = Ramp(now, 0, now + 60, level) if rises else Ramp.flat(level, now)
        changes |= {"campaign": campaign, "ramp": ramp, "deadlines": LIMITS, "keep_on_halt": keep}
        self.sealed.append(self.world.direct(action, BUNDLES[bundle], **changes))

    @rule(bundle=st.sampled_from(range(SIGNED)), campaign=st.sampled_from(CAMPAIGNS))
    def offer(self, bundle: int, campaign) -> None:
        self.world.hold_blobs(BUNDLES[bundle])
        changes: dict[str, object] = {"campaign": campaign, "deadlines": LIMITS}
        self.sealed.append(self.world.direct(Action.OFFER, BUNDLES[bundle], **changes))

    @precondition(lambda self: self.sealed)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        self.world.feed(Received("tg/1/eu/cohort/main/directive", data.draw(st.sampled_from(self.sealed))))

    @rule(payload=st.binary(max_size=64), topic=st.sampled_from(["welcome", "ack", "directive"]))
    def say_garbage(self, payload: bytes, topic: str) -> None:
        self.world.feed(Received(f"tg/1/eu/device/gw-0001/down/{topic}", payload))

    # --- the server and the broker ---

    @rule(answers=st.booleans())
    def answer_reports(self, answers: bool) -> None:
        self.world.answers_reports = answers

    @rule(admits=st.booleans())
    def admit_or_not(self, admits: bool) -> None:
        self.world.admits = admits

    @rule(held=st.booleans())
    def hold_device(self, held: bool) -> None:
        self.world.held = held

    @rule(bundle=st.sampled_from(range(SIGNED)), how=st.sampled_from([b"", b"\x00", b"wrong bytes"]))
    def spoil_a_chunk(self, bundle: int, how: bytes) -> None:
        self.world.retained[self.world.topics.blob(chunk_digests(BUNDLES[bundle])[-1])] = how

    @rule(answers=st.sampled_from([True, True, False]))
    def connect(self, answers: bool) -> None:
        if self.world.is_up:
            self.world.disconnect()
        self.world.now += 1
        self.world.answers_hello = answers
        self.world.connect()

    @rule()
    def disconnect(self) -> None:
        if self.world.is_up:
            self.world.disconnect()

    # --- the device's own fate ---

    @rule(seconds=st.sampled_from([1, 15, 25, 130, 1000]))
    def wait(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule()
    def lose_power(self) -> None:
        self.world.power_cycle()

    @rule(healthy=st.booleans())
    def fall_ill(self, healthy: bool) -> None:
        self.world.healthy = healthy

    @rule(boots=st.booleans())
    def refuse_to_boot(self, boots: bool) -> None:
        self.world.boots = lambda version: boots or version in self.proven

    # --- what must hold ---

    @invariant()
    def the_running_slot_is_one_that_may_run(self) -> None:
        if hasattr(self, "world"):
            assert self.world.slot_states()[self.world.booted] in {"confirmed", "trial"}

    @invariant()
    def there_is_always_a_confirmed_slot(self) -> None:
        if hasattr(self, "world"):
            assert "confirmed" in self.world.slot_states().values()

    @invariant()
    def what_was_confirmed_has_booted_and_will_again(self) -> None:
        if hasattr(self, "world"):
            self.proven |= {slot.version for slot in self.world.slots.slots() if slot.state == "confirmed"}

    @invariant()
    def only_signed_bytes_are_bootable(self) -> None:
        if not hasattr(self, "world"):
            return
        for slot in self.world.slots.slots():
            if slot.state in {"bootable", "trial", "confirmed"} and slot.version != "1.0.0":
                data = self.world.image(slot.name, "app")
                assert hashlib.sha256(data).digest() in SIGNED_IMAGES

    @invariant()
    def counters_and_sequence_numbers_never_fall(self) -> None:
        if not hasattr(self, "world"):
            return
        state = self.world.agent.state
        assert state.highest_sequence >= self.highest
        self.highest = state.highest_sequence
        for slot in self.world.slots.slots():
            if slot.name == self.world.booted and slot.state == "trial":
                assert slot.sequence_number >= self.highest

    @invariant()
    def a_stored_counter_never_falls(self) -> None:
        if not hasattr(self, "world"):
            return
        stored = self.world.storage.load(self.world.agent.state).held
        for audience, held in stored.items():
            assert not held.counter < self.counters.get(audience, Counter())
            self.counters[audience] = held.counter

    @invariant()
    def the_server_understands_every_report(self) -> None:
        """Reports, in the order of their numbers, are a path through the server's own state machine."""
        if not hasattr(self, "world"):
            return
        reports = {report.sequence: report for report in self.world.reports}
        last: dict[object, object] = {}
        for _, report in sorted(reports.items()):
            before = last.get(report.campaign)
            last[report.campaign] = report
            if before is None or before == report:
                continue
            same = before.attempt == report.attempt
            if before.state in TERMINAL and same and report.state is before.state:
                continue  # confirmed, and no way back
            assert before.attempt <= report.attempt
            assert may_follow(before.state, report.state, same_attempt=same), (before, report)


DeviceMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestDevice = DeviceMachine.TestCase
