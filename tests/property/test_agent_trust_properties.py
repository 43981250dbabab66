"""Whatever order trust documents, orders, sessions and power cuts come in: what must hold after every step."""

import tempfile
from pathlib import Path
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from device_sim.agent.events import Activate, Effect, Install
from firmware_store.roles import RoleName
from firmware_store.status import read_status
from server.domain.identity import CampaignId
from server.protocol.messages import Counter
from server.protocol.orders import Action, Deadlines, StatusRef
from tests.agent_world import EPOCH
from tests.lab_server import digest_of
from tests.trust_world import OWN_CLASS, Authority, TrustWorld, authority, bundle_by

FIRST = authority()
SMALL = (("app", 20_000),)
LIMITS = Deadlines(download_s=300, trial_s=20, confirm_s=120)
LIFETIMES_S = [10, 10, 10_000_000]


def chain() -> list[Authority]:
    """Six roots; each role but the root's changes hands once."""
    roots = [FIRST, FIRST.rotate(RoleName.DIRECTIVE)]
    roots.append(roots[-1].rotate(RoleName.SESSION))
    roots.append(roots[-1].rotate(RoleName.STATUS))
    roots.append(roots[-1].rotate(RoleName.RELEASE))
    roots.append(roots[-1].next(expires=EPOCH + 5000))
    return roots


CHAIN = chain()
BUNDLES = {
    (index, number): bundle_by(signer, number, f"1.{number}.0", sizes=SMALL)
    for index, signer in ((0, FIRST), (4, CHAIN[4]))
    for number in (1, 2)
}


class WatchedWorld(TrustWorld):
    """Checks at the moment of an effect that everything was there which it takes."""

    def _act(self, effect: Effect) -> None:
        if isinstance(effect, Activate | Install):
            here = self.agent._situation
            assert self.is_up
            assert here.welcome is not None, "no welcome"
            assert here.welcome.nonce == self.nonce, "a welcome of another session"
            here.trust.root.check_time(self.server_now)
            update = here.update
            assert update is not None
            status = here.trust.status
            assert status is not None or not here.state.status, "there was a status, and none is in force"
            if status is not None:
                status.check_time(self.server_now)
                assert update.manifest_digest not in status.revoked_digests
                assert update.sequence_number >= status.floors.get(OWN_CLASS, 0)
            taken_back = here.trust.root.dead_kids | here.trust.revoked
            assert not update.signers & taken_back, "signed by a key that was taken back"
        super()._act(effect)


class TrustMachine(RuleBasedStateMachine):
    """The broker shows any document at any time; the server speaks with the keys of any root."""

    @initialize()
    def build(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.world = WatchedWorld(Path(self.folder.name))
        self.world.connect()
        self.version = self.campaigns = 0
        self.statuses: list[bytes] = []
        self.seen = (1, (0, 0))
        self.counters: dict[str, Counter] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def speak(self, *, honest: bool, index: int = 0) -> None:
        """Go by the root that the device goes by; or by another, as a restored server or a thief would."""
        self.world.authority = CHAIN[self.world.root_version - 1 if honest else index]
        self.world.keys = self.world.authority.keys

    @rule(index=st.integers(0, 5))
    def the_server_goes_by_another_root(self, index: int) -> None:
        self.speak(honest=False, index=index)

    @rule(index=st.integers(1, 5), at=st.integers(1, 7))
    def show_a_root(self, index: int, at: int) -> None:
        self.world.retain(f"tg/1/trust/root/{at}", CHAIN[index].sealed)

    @rule(upto=st.integers(1, 5))
    def show_all_roots(self, upto: int) -> None:
        for following in CHAIN[1 : upto + 1]:
            self.world.retain(f"tg/1/trust/root/{following.root.version}", following.sealed)

    @rule(
        lifetime_s=st.sampled_from(LIFETIMES_S),
        revoked=st.sampled_from([[], [], *([bundle.manifest_digest] for bundle in BUNDLES.values())]),
        kids=st.sampled_from([[], [], [], [FIRST.signers[RoleName.RELEASE][1].public.kid]]),
        floor=st.sampled_from([0, 0, 0, 2]),
        tell=st.booleans(),
        honest=st.sampled_from([True, True, False]),
    )
    def sign_a_status(
        self, *, lifetime_s: int, revoked: list, kids: list, floor: int, tell: bool, honest: bool
    ) -> None:
        if honest:
            self.speak(honest=True)
        self.version += 1
        changes = {
            "expires": self.world.server_now + lifetime_s,
            "revoked_digests": frozenset(revoked),
            "revoked_kids": frozenset(kids),
            "floors": {OWN_CLASS: floor},
        }
        self.world.publish_status(self.version, tell=tell, **changes)
        self.statuses.append(self.world.retained["tg/1/trust/status"])

    @precondition(lambda self: self.statuses)
    @rule(data=st.data())
    def show_an_old_status(self, data: st.DataObject) -> None:
        self.world.retain("tg/1/trust/status", data.draw(st.sampled_from(self.statuses)))

    @rule(
        number=st.sampled_from([1, 2]),
        names_status=st.booleans(),
        acknowledged=st.booleans(),
        honest=st.sampled_from([True, True, True, False]),
    )
    def offer(self, number: int, *, names_status: bool, acknowledged: bool, honest: bool) -> None:
        """A new campaign each time, since none is begun again after a rejection."""
        named = StatusRef(self.version, digest_of(self.statuses[-1])) if names_status and self.statuses else None
        if honest:
            self.speak(honest=True)
            self.world.told_root, self.world.told_status = self.world.root_version, self.world.status_version
            if named is not None and self.world.status_version:
                named = StatusRef(self.world.status_version, digest_of(self.world.agent.state.status))
            self.world.welcome()
        self.world.answers_reports = acknowledged
        self.campaigns += 1
        bundle = BUNDLES[4 if self.world.root_version >= 5 else 0, number]
        campaign = CampaignId(UUID(int=self.campaigns))
        self.world.offer(bundle, deadlines=LIMITS, status=named, campaign=campaign)

    @rule(action=st.sampled_from([Action.HOLD, Action.HALT, Action.NONE]))
    def order(self, action: Action) -> None:
        if action is Action.NONE:
            self.world.direct(action)
        else:
            self.world.direct(action, BUNDLES[0, 1], campaign=CampaignId(UUID(int=self.campaigns)))

    @rule(answers=st.sampled_from([True, True, False]))
    def connect(self, *, answers: bool) -> None:
        if self.world.is_up:
            self.world.disconnect()
        self.world.now += 1
        self.world.answers_hello = answers
        self.world.connect()

    @rule(answers=st.booleans())
    def answer_reports(self, *, answers: bool) -> None:
        self.world.answers_reports = answers

    @rule(seconds=st.sampled_from([1, 15, 25, 130, 1000]))
    def wait(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule()
    def lose_power(self) -> None:
        self.world.power_cycle()

    # --- what must hold ---

    @invariant()
    def versions_never_fall(self) -> None:
        """Neither in memory nor, what is more, in the file: the root's, and the status's within its epoch."""
        if not hasattr(self, "world"):
            return
        stored = self.world.storage.load(self.world.agent.state)
        status = read_status(stored.status) if stored.status else None
        now = (self.world.root_version, (0, 0) if status is None else (status.epoch, status.version))
        assert now[0] >= self.seen[0]
        assert now[1] >= self.seen[1]
        self.seen = now

    @invariant()
    def only_roots_of_the_chain_are_kept(self) -> None:
        if hasattr(self, "world"):
            kept = self.world.storage.load(self.world.agent.state).root
            assert kept in {b"", *(one.sealed for one in CHAIN[1:])}

    @invariant()
    def counters_never_fall(self) -> None:
        if not hasattr(self, "world"):
            return
        for audience, held in self.world.storage.load(self.world.agent.state).held.items():
            assert not held.counter < self.counters.get(audience, Counter())
            self.counters[audience] = held.counter

    @invariant()
    def there_is_always_a_confirmed_slot_to_run(self) -> None:
        if hasattr(self, "world"):
            states = self.world.slot_states()
            assert "confirmed" in states.values()
            assert states[self.world.booted] in {"confirmed", "trial"}

    @invariant()
    def nothing_revoked_stays_on_trial(self) -> None:
        if not hasattr(self, "world"):
            return
        here = self.world.agent._situation
        status = here.trust.status
        if status is not None and here.running.state.value == "trial":
            assert here.running.manifest_digest not in status.revoked_digests


TrustMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTrust = TrustMachine.TestCase
