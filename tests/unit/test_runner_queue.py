"""What a device drops when more comes in than it can look at."""

from pathlib import Path

from device_sim.agent.device import DeviceConfig
from device_sim.agent.events import Activate, Received, StepFailed
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.runner import OTHERS_MOST, QUEUE_MOST, Runner
from server.domain.identity import Cohort, DeviceId, Region
from server.mqtt.packets import Incoming
from server.protocol.topics import CohortAudience, Topics
from tests.agent_world import HARDWARE, VENDOR, dev_keys


def a_runner(folder: Path, slots: FileSlots) -> Runner:
    config = DeviceConfig(
        device_id=DeviceId("gw-0001"),
        host="127.0.0.1",
        port=1,
        username=None,
        password=None,
        vendor=VENDOR,
        hardware_class=HARDWARE,
        root_bytes=dev_keys().root_bytes,
        directory=folder,
        region=Region("eu"),
        cohort=Cohort("main"),
        durable=False,
    )
    return Runner(config, slots)


TOPICS = Topics()
ORDER = TOPICS.directive(CohortAudience(Region("eu"), Cohort("main")))


async def test_a_halt_that_comes_while_a_slot_is_switched_is_heard_before_the_switch_has_ended(tmp_path: Path) -> None:
    class Switching(FileSlots):
        def activate(self, slot: str) -> None:
            runner._on_message(Incoming(ORDER, b"halt", 0, True, 0))
            super().activate(slot)

    provision(tmp_path, durable=False)
    runner = a_runner(tmp_path, Switching(tmp_path, durable=False))

    await runner._carry_out([Activate("b")])

    assert [type(event) for event in runner._queue] == [Received, StepFailed]  # nothing is in that slot


async def test_a_halt_is_not_dropped_among_blobs_that_nobody_gets_round_to(tmp_path: Path) -> None:
    provision(tmp_path, durable=False)
    runner = a_runner(tmp_path, FileSlots(tmp_path, durable=False))

    for number in range(QUEUE_MOST + 10):
        runner._on_message(Incoming(TOPICS.blob(number.to_bytes(32, "big")), b"blob", 0, True, 0))
    runner._on_message(Incoming(ORDER, b"halt", 0, True, 0))

    assert runner.shed == 10
    assert runner._queue[-1] == Received(ORDER, b"halt")
    for _ in range(OTHERS_MOST):
        runner._on_message(Incoming(ORDER, b"flood", 0, True, 0))
    assert len(runner._queue) == OTHERS_MOST
