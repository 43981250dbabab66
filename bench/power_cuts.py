"""The power goes at every moment of an update: what boots afterwards, and how does the update end?

    python -m bench.power_cuts [--out bench/results]

A device's whole agent runs on a simulated disk. Each page that is written, each other call that changes the disk,
and each sync, is a cut point; at each the medium may keep several things of what was not synced
(``device_sim.disk.losses``).
From every medium that differs the device is booted again, with the same server, until its update has ended; and once
more the power goes, at a random moment of that. A *brick* is a device of which nothing boots or whose agent does not
start; an *unverified boot* is one into a slot whose bytes are not, to the last one, those of a release that was signed
or of the factory. An update that neither ended as it would have, nor was rolled back and succeeded at a second attempt,
is *unfinished*.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

from bench.power_cut_stories import (
    DEVICE,
    FACTORY,
    PLATFORMS,
    RELEASE,
    STORIES,
    BrickError,
    Story,
    UnverifiedBootError,
    Watched,
)
from device_sim.disk.losses import SCATTERED, losses
from device_sim.disk.medium import Medium
from device_sim.disk.simulated import Moment, SimulatedDisk
from server.domain.execution import State
from tests.agent_world import OTHER_CAMPAIGN, World

LATER_COUNTER: Final = 1000
"""The server goes on counting where a device that comes back has seen it."""
PROBLEMS_SHOWN: Final = 20


@dataclass
class Tally:
    """What came of the cuts of one story."""

    cut_points: int = 0
    media: int = 0
    second_cuts: int = 0
    bricks: list[str] = field(default_factory=list)
    unverified_boots: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def document(self) -> dict[str, Any]:
        return {
            "cut_points": self.cut_points,
            "media": self.media,
            "second_cuts": self.second_cuts,
            "bricks": len(self.bricks),
            "unverified_boots": len(self.unverified_boots),
            "unfinished": len(self.unfinished),
            "ends": dict(sorted(self.ends.items())),
            "calls": dict(sorted(self.calls.items())),
        }


class Enumeration:
    """All cuts of one story."""

    def __init__(
        self, story: Story, *, platform: str = "files", seed: int, scattered: int = SCATTERED, twice: bool = True
    ) -> None:
        self._story = story
        self._platform = PLATFORMS[platform]
        self._seed = seed
        self._scattered = scattered
        self._twice = twice
        self._seen: set[bytes] = set()
        self.tally = Tally()

    def run(self) -> Tally:
        moments = self._record(self._make())
        self.tally.cut_points = len(moments)
        self.tally.calls = Counter(moment.call.partition(" ")[0] for moment, _ in moments)
        for number, (moment, now) in enumerate(moments):
            self._cut(moment, now, seed=f"{self._seed}/{number}")
        return self.tally

    def _make(self) -> Medium:
        """Return the medium of a device as the factory has made it."""
        disk = SimulatedDisk()
        with tempfile.TemporaryDirectory() as folder:
            seeds = {name: Path(folder) / name for name in FACTORY.images}
            for name, path in seeds.items():
                path.write_bytes(FACTORY.images[name])
            self._platform(disk, seeds).provision(DEVICE)
        disk.sync()
        return disk.medium

    def _record(self, medium: Medium) -> list[tuple[Moment, float]]:
        """Tell the story once, and return all moments at which the power could have gone, each with its time."""
        disk = SimulatedDisk(medium)
        world = World(DEVICE, platform=Watched(self._platform(disk, {})))
        moments: list[tuple[Moment, float]] = []
        disk.before = lambda moment: moments.append((moment, world.now))
        self._story.tell(world)
        if _end(world) != (self._story.end, self._story.slot):
            raise AssertionError(f"without any cut, the story ends with {_end(world)}")
        return moments

    def _cut(self, moment: Moment, now: float, *, seed: str) -> None:
        for loss in losses(moment, seed=seed, scattered=self._scattered):
            digest = loss.medium.digest()
            if digest in self._seen:
                continue
            self._seen.add(digest)
            self.tally.media += 1
            where = f"{moment.call}, {loss.way} left ({seed})"
            second = self._live_on(loss.medium, now, where)
            if self._twice and second:
                self.tally.second_cuts += 1
                drawn = random.Random(where)
                again, later = drawn.choice(second)
                left = drawn.choice(list(losses(again, seed=where, scattered=self._scattered)))
                self._live_on(left.medium, later, f"{where}; then {again.call}, {left.way} left")

    def _live_on(self, medium: Medium, now: float, where: str) -> list[tuple[Moment, float]]:
        """Boot from what was left, and see the story to its end; return the moments at which it could be cut again."""
        disk = SimulatedDisk(medium)
        moments: list[tuple[Moment, float]] = []
        worlds: list[World] = []
        disk.before = lambda moment: moments.append((moment, worlds[0].now if worlds else now))
        try:
            world = World(DEVICE, platform=Watched(self._platform(disk, {})), now=now + 1)
            worlds.append(world)
            world.counter = LATER_COUNTER
            self._story.retell(world)
            self._judge(world, where)
        except BrickError as exc:
            self.tally.bricks.append(f"{where}: {exc}")
        except UnverifiedBootError as exc:
            self.tally.unverified_boots.append(f"{where}: {exc}")
        return moments

    def _judge(self, world: World, where: str) -> None:
        end, slot = _end(world)
        if (end, slot) == (self._story.end, self._story.slot):
            self.tally.ends[str(end)] += 1
            return
        if end in {State.ROLLED_BACK, State.FAILED, State.CANCELLED} and slot == "a":
            world.offer(RELEASE, campaign=OTHER_CAMPAIGN)
            world.pass_time(200)
            if _end(world) == (State.CONFIRMED, "b"):
                self.tally.ends[f"{end}, then {State.CONFIRMED}"] += 1
                return
        self.tally.unfinished.append(f"{where}: {end}, slot {slot}")


def _end(world: World) -> tuple[State | None, str]:
    """How the last update has ended on the device, and the slot that runs."""
    update = world.agent.state.update
    return None if update is None else update.ended, world.booted


def main() -> None:
    parser = argparse.ArgumentParser(description="Cut a device's power at every moment of an update.")
    parser.add_argument("--out", type=Path, help="write power_cuts.json into this folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--story", choices=STORIES, action="append")
    arguments = parser.parse_args()
    documents: dict[str, Any] = {}
    problems: list[str] = []
    for platform, name in product(PLATFORMS, arguments.story or STORIES):
        began = time.monotonic()
        tally = Enumeration(STORIES[name], platform=platform, seed=arguments.seed).run()
        documents.setdefault(platform, {})[name] = tally.document()
        problems += [*tally.bricks, *tally.unverified_boots, *tally.unfinished]
        print(
            f"{platform}, {name}: {tally.cut_points} cut points, {tally.media} media, {tally.second_cuts} second cuts;"
            f" {len(tally.bricks)} bricks, {len(tally.unverified_boots)} unverified boots,"
            f" {len(tally.unfinished)} unfinished; ends {dict(tally.ends)}; {time.monotonic() - began:.0f} s"
        )
    made = [document for stories in documents.values() for document in stories.values()]
    counted = ("cut_points", "media", "second_cuts", "bricks", "unverified_boots", "unfinished")
    totals = {name: sum(document[name] for document in made) for name in counted}
    print(f"in all: {totals}")
    for line in problems[:PROBLEMS_SHOWN]:
        print(f"    {line}")
    if arguments.out is not None:
        path = arguments.out / "power_cuts.json"
        path.write_text(
            json.dumps({"seed": arguments.seed, "totals": totals, "platforms": documents}, indent=2) + "\n",
            encoding="utf-8",
        )
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
