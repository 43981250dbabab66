"""Slots as partitions under U-Boot: its environment, its boot script, and what the agent makes of both."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.agent.boot_environment import SlotState
from device_sim.agent.durable_file import StorageError
from device_sim.agent.filesystem import SYSTEM_FILES
from device_sim.agent.uboot_bootloader import boot_uboot
from device_sim.agent.uboot_environment import Copy, UBootStore, Variables, decode_copy, encode_copy
from device_sim.gateway.backends import booted_slot, open_slots, read_copies
from device_sim.gateway.config import read_config
from firmware_store.errors import ConfigurationError
from tests.agent_world import FilePlatform, UBootPlatform, World, make_bundle

SIZE = 4096
SCRIPT = Path(__file__).parents[2] / "deploy/u-boot/boot.cmd"
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="="), min_size=1, max_size=10)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30)
FACTORY = make_bundle(1, "1.0.0", sizes=(("app", 40_000), ("rootfs", 100_000)), seed=5)


def environment(folder: Path, variables: dict[str, str], *, flags: tuple[int, int] = (0, 1)) -> Variables:
    for number, flag in enumerate(flags):
        (folder / f"env{number}").write_bytes(encode_copy(variables, flag=flag, size_bytes=SIZE))
    return Variables([Copy(str(folder / f"env{number}"), 0, SIZE) for number in (0, 1)])


@given(variables=st.dictionaries(NAMES, VALUES, max_size=8), flag=st.integers(0, 255))
def test_a_copy_is_read_as_it_was_written(variables: dict[str, str], flag: int) -> None:
    content = encode_copy(variables, flag=flag, size_bytes=SIZE)

    assert len(content) == SIZE
    assert decode_copy(content) == (flag, variables)
    assert decode_copy(content[:-1] + b"x") is None


def test_variables_of_others_that_are_no_text_stay_as_they_are() -> None:
    found = decode_copy(encode_copy({"vendor": "M\udcfcller"}, flag=1, size_bytes=SIZE))

    assert found == (1, {"vendor": "M\udcfcller"})


def test_what_does_not_fit_is_refused_and_the_old_variables_stay(tmp_path: Path) -> None:
    variables = environment(tmp_path, {"a": "1"})

    with pytest.raises(StorageError, match="too little"):
        variables.write({"a": "x" * SIZE})
    assert variables.read() == {"a": "1"}


@pytest.mark.parametrize("flags", [(0, 1), (1, 0), (254, 255), (255, 254), (255, 0), (0, 255), (7, 7)])
def test_each_write_goes_over_the_older_copy(tmp_path: Path, flags: tuple[int, int]) -> None:
    variables = environment(tmp_path, {"n": "-1"}, flags=flags)

    for number in range(600):
        before = [(tmp_path / f"env{n}").read_bytes() for n in (0, 1)]
        variables.write({"n": str(number)})
        after = [(tmp_path / f"env{n}").read_bytes() for n in (0, 1)]
        assert sum(old != new for old, new in zip(before, after, strict=True)) == 1
        assert variables.read() == {"n": str(number)}
        if number > 3 and flags != (255, 254):
            break


def test_a_copy_that_is_damaged_gives_way_to_the_other_one(tmp_path: Path) -> None:
    variables = environment(tmp_path, {"n": "old"})
    variables.write({"n": "new"})
    newest = next(path for path in (tmp_path / "env0", tmp_path / "env1") if b"new" in path.read_bytes())

    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    assert variables.read() == {"n": "old"}
    variables.write({"n": "newer"})
    assert variables.read() == {"n": "newer"}
    for path in (tmp_path / "env0", tmp_path / "env1"):
        path.write_bytes(bytes(SIZE - 1) + b"!")
    with pytest.raises(StorageError, match="damaged"):
        variables.read()


@pytest.mark.peer
def test_the_real_tools_read_what_we_write_and_we_read_what_they_write(tmp_path: Path) -> None:
    if shutil.which("fw_setenv") is None:
        if os.environ.get("TIDEGATE_REQUIRE_PEERS") == "1":
            pytest.fail("libubootenv-tool is not installed, and TIDEGATE_REQUIRE_PEERS=1 wants it")
        pytest.skip("libubootenv-tool is not installed")
    variables = environment(tmp_path, {"bootdelay": "2"}, flags=(254, 255))
    config = tmp_path / "fw_env.config"
    config.write_text(f"# ours\n{tmp_path}/env0 0x0 {SIZE:#x}\n{tmp_path}/env1 0x0 {SIZE:#x}\n")
    assert read_copies(config) == tuple(Copy(str(tmp_path / f"env{n}"), 0, SIZE) for n in (0, 1))

    def tool(*words: str) -> str:
        return subprocess.run([words[0], "-c", config, *words[1:]], check=True, capture_output=True, text=True).stdout

    variables.write({**variables.read(), "tidegate": '{"slots": "a = b"}', "BOOT_ORDER": "B A"})
    assert tool("fw_printenv", "tidegate", "BOOT_ORDER") == 'tidegate={"slots": "a = b"}\nBOOT_ORDER=B A\n'
    for number in range(3):
        tool("fw_setenv", "BOOT_B_LEFT", str(number))
        assert variables.read()["BOOT_B_LEFT"] == str(number)
        variables.write({**variables.read(), "BOOT_A_LEFT": str(number)})
        assert tool("fw_printenv", "-n", "BOOT_A_LEFT") == f"{number}\n"


HARNESS = """
setenv() { name=$1; shift; if [ $# -eq 0 ]; then unset $name; else eval "$name=\\"\\$*\\""; fi; }
setexpr() { eval "$1=$(($2 $3 $4))"; }
saveenv() { echo "BOOT_ORDER=$BOOT_ORDER"; echo "BOOT_A_LEFT=$BOOT_A_LEFT"; echo "BOOT_B_LEFT=$BOOT_B_LEFT"; }
run() { echo "$*"; }
reset() { exit; }
"""


@pytest.mark.parametrize("order", ["A", "B", "A B", "B A"])
@pytest.mark.parametrize("tries", [(a, b) for a in (0, 1, 3) for b in (0, 1, 3)])
def test_the_script_that_is_shipped_does_what_the_simulated_one_does(
    tmp_path: Path, order: str, tries: tuple[int, int]
) -> None:
    before = {"BOOT_ORDER": order, "BOOT_A_LEFT": str(tries[0]), "BOOT_B_LEFT": str(tries[1])}
    variables = environment(tmp_path, before)
    booted = boot_uboot(variables, boots=lambda _: True)

    told = {**before, "bootargs": "quiet"}
    command = ["sh", "-c", HARNESS + SCRIPT.read_text()]
    ran = subprocess.run(command, check=False, env=told, capture_output=True, text=True)
    lines = ran.stdout.split("\n")

    assert not ran.stderr
    assert dict(line.split("=") for line in lines if "=" in line) == variables.read()
    assert [line for line in lines if line.startswith("boot_")] == ([] if booted is None else [f"boot_{booted}"])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, platform=UBootPlatform(SYSTEM_FILES, FACTORY.images))


def boot_variables(world: World) -> dict[str, str]:
    platform = world.platform
    assert isinstance(platform, UBootPlatform)
    found = platform.variables(world.directory).read()
    return {name: found[name] for name in ("BOOT_ORDER", "BOOT_A_LEFT", "BOOT_B_LEFT")}


def test_a_release_is_written_into_partitions_tried_and_confirmed(world: World) -> None:
    bundle = make_bundle(2)
    world.offer(bundle)
    world.connect()
    world.pass_time(30)
    assert world.booted == "b"
    assert boot_variables(world) == {"BOOT_ORDER": "B A", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "2"}

    world.pass_time(40)

    assert boot_variables(world) == {"BOOT_ORDER": "B", "BOOT_A_LEFT": "0", "BOOT_B_LEFT": "3"}
    for name, image in bundle.images.items():
        assert world.image("b", name)[: len(image)] == image
        assert world.image("a", name)[: len(FACTORY.images[name])] == FACTORY.images[name]
    assert world.platform.variables(world.directory).read()["bootdelay"] == "2"


def test_a_trial_that_crashes_three_times_goes_back(world: World) -> None:
    world.offer(make_bundle(2))
    world.connect()
    world.pass_time(5)
    for _ in range(3):
        world.power_cycle()

    assert world.booted == "a"
    assert world.slot_states()["b"] == SlotState.UNBOOTABLE
    assert boot_variables(world) == {"BOOT_ORDER": "A", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0"}


def test_a_release_larger_than_its_partition_or_without_one_is_refused(world: World) -> None:
    for bundle in (make_bundle(2, sizes=(("app", 400_000),)), make_bundle(3, sizes=(("radio", 1_000),))):
        world.offer(bundle)
        world.connect()
        world.pass_time(30)

        assert world.booted == "a"
        assert world.slot_states() == {"a": SlotState.CONFIRMED, "b": SlotState.EMPTY}


CONFIG = """
state = "state"
vendor = "acme.example"
hardware = "gw100"
[slots]
kind = "u-boot"
environment = "fw_env.config"
kernel_command_line = "cmdline"
a = {app = "app-a"}
b = {app = "app-b"}
"""


def test_a_gateway_finds_its_slots_as_its_files_say(tmp_path: Path) -> None:
    environment(tmp_path, {"BOOT_ORDER": "B A", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "2"})
    (tmp_path / "agent.toml").write_text(CONFIG)
    (tmp_path / "fw_env.config").write_text(f"{tmp_path}/env0 0 {SIZE:x}\n{tmp_path}/env1 0 {SIZE:#x}\n")
    (tmp_path / "cmdline").write_text("console=ttyS0 tidegate.slot=b quiet\n")
    config = read_config(tmp_path / "agent.toml")
    with pytest.raises(StorageError, match="nothing of the slots"):
        open_slots(config)

    slots = open_slots(config, at_start=True)

    assert slots.booted() == "b"
    assert {slot.name: slot.state for slot in slots.slots()} == {"a": SlotState.EMPTY, "b": SlotState.CONFIRMED}
    assert open_slots(config).slots() == slots.slots()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("cmdline", "console=ttyS0", "does not say"),
        ("cmdline", "tidegate.slot=a tidegate.slot=b", "does not say"),
        ("fw_env.config", "/dev/mmcblk0 0x100000 0x2000", "redundant"),
        ("fw_env.config", "/dev/mtd1 0 0x2000\n/dev/mtd2 0 0x2000", "raw flash"),
        ("fw_env.config", "/dev/mmcblk0 here 0x2000", "device offset size"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    reading = {"cmdline": lambda: booted_slot(path, "tidegate.slot"), "fw_env.config": lambda: read_copies(path)}

    with pytest.raises(ConfigurationError, match=said):
        reading[name]()


def test_a_store_that_was_provisioned_is_not_provisioned_again(tmp_path: Path) -> None:
    store = UBootStore(environment(tmp_path, {}), booted="a")
    store.provision("1.0.0")
    trial = replace(store.read().slots["b"], state=SlotState.TRIAL)
    store.write(replace(store.read().with_slot(trial), tries_left=3))

    store.provision("9.9.9")

    assert (store.read().slots["a"].version, store.read().trial, store.read().tries_left) == ("1.0.0", "b", 3)


def test_the_two_kinds_of_slots_end_alike(tmp_path: Path) -> None:
    ends = []
    for platform in (FilePlatform(), UBootPlatform(SYSTEM_FILES, FACTORY.images)):
        directory = tmp_path / type(platform).__name__
        directory.mkdir()
        world = World(directory, platform=platform)
        world.offer(make_bundle(2))
        world.connect()
        world.pass_time(61)
        ends.append((world.states, world.slot_states(), world.booted))

    assert ends[0] == ends[1]
