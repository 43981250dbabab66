"""What an agent does when it boots into something that it did not bring about, or cannot read."""

import pytest

from device_sim.agent.boot_environment import SlotInfo, SlotState
from device_sim.agent.core import Agent
from device_sim.agent.directives import Action
from device_sim.agent.events import Revert
from device_sim.agent.state import AgentState, Held
from device_sim.agent.trust import DEVICE_AUDIENCE, Identity
from server.protocol.messages import Counter
from tests.agent_world import CAMPAIGN, DEVICE, EU, HARDWARE, MAIN, VENDOR, dev_keys

FACTORY = SlotInfo("a", SlotState.CONFIRMED, 0, "1.0.0")


def booted(slot: SlotInfo, state: AgentState) -> Agent:
    return Agent(
        identity=Identity(DEVICE, VENDOR, HARDWARE, "test"),
        root=dev_keys().root,
        state=state,
        slots=(FACTORY, slot) if slot.name == "b" else (slot,),
        booted=slot.name,
        boot_id=b"the boot",
        now=0.0,
    )


@pytest.mark.parametrize(
    "found", [SlotState.TRIAL, SlotState.INSTALLING, SlotState.BOOTABLE, SlotState.UNBOOTABLE, SlotState.CONFIRMED]
)
def test_an_image_that_is_not_confirmed_and_of_which_nothing_is_known_is_left(found: SlotState) -> None:
    agent = booted(SlotInfo("b", found, 1, "1.1.0"), AgentState(EU, MAIN))

    assert (Revert("b", verify=False) in agent.boot()) == (found is not SlotState.CONFIRMED)


def test_a_stored_order_that_cannot_be_read_orders_nothing_and_its_counter_stays() -> None:
    """A later agent has stored it, which has been given up since."""
    held = Held(Counter(1, 7), b"d" * 32, b"of another age")
    agent = booted(FACTORY, AgentState(EU, MAIN, {DEVICE_AUDIENCE: held}))

    agent.boot()

    assert agent.state.held[DEVICE_AUDIENCE].counter == Counter(1, 7)
    assert agent._situation.directives.order(CAMPAIGN, b"r" * 32).action is Action.NONE
