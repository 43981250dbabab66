"""One attack after the other: do it, wait until every device has answered, and count what the answers were."""

from collections import Counter
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, field
from typing import Final

from server.cli.drill.ledger import INSTALLS, REFUSALS
from server.cli.drill.scene import Scene
from server.cli.drill.table import Must, Row
from server.domain.identity import CampaignId, DeviceId

ANSWER_S: Final = 20.0
"""By then every device has refused, or installed."""

Attack = Awaitable[CampaignId | None]
"""Gives the campaign it was made in; None for what belongs to no campaign, as a forged document."""


@dataclass
class Attempts:
    """The rows so far."""

    scene: Scene
    rows: list[Row] = field(default_factory=list)

    async def make(
        self,
        name: str,
        attack: Attack,
        *,
        must: Must = Must.FAIL,
        by: Collection[str] = (),
        on: Collection[DeviceId] | None = None,
        may_be_silent: bool = False,
        note: str = "",
    ) -> Row:
        """Attack the devices ``on`` (None: all of them), which must answer with one of the reasons ``by``.

        ``may_be_silent``: it is enough that nothing was installed.
        """
        scene = self.scene
        targets = scene.everybody if on is None else {str(device) for device in on}
        mark = scene.ledger.mark()
        done = await attack
        campaign = "" if done is None else str(done)
        if not may_be_silent:
            await scene.ledger.until(lambda: targets <= self._answered(mark, campaign), within_s=ANSWER_S)
        installed = targets & self._installed(mark, campaign)
        answered = targets & self._answered(mark, campaign)
        row = Row(
            attack=name,
            must=must,
            devices=len(targets),
            installed=len(installed),
            stopped_by=self._reasons(mark, campaign, targets),
            expected=frozenset(by),
            silent=0 if may_be_silent else len(targets - answered),
            note=note,
        )
        self.rows.append(row)
        scene.say(f"  {row.attack}: {row.problem or row.outcome}")
        return row

    def _answered(self, mark: int, campaign: str) -> set[str]:
        ends = REFUSALS | {"confirmed"}
        return {event["device"] for event in self.scene.ledger.since(mark, campaign) if event["event"] in ends}

    def _installed(self, mark: int, campaign: str) -> set[str]:
        return {event["device"] for event in self.scene.ledger.since(mark, campaign) if event["event"] in INSTALLS}

    def _reasons(self, mark: int, campaign: str, targets: Collection[str]) -> Counter[str]:
        found = {
            (event["device"], event.get("reason", event["event"]))
            for event in self.scene.ledger.since(mark, campaign)
            if event["event"] in REFUSALS and event["device"] in targets
        }
        return Counter(reason for _, reason in found)
