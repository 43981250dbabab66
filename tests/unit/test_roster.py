"""The devices of a campaign as arrays."""

from datetime import UTC, datetime
from uuid import UUID

import numpy as np

from server.db.devices import DeviceRecord
from server.domain.gate import height
from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.services.columns import Rows
from server.services.fleet import Fleet
from server.services.heights import Heights
from server.services.roster import Roster
from server.services.sites import SITE_LABEL

HEIGHTS_OF = CampaignId(UUID(int=7))
EU, US = Region("eu"), Region("us")
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def fleet_of(*places: tuple[str, Region, str]) -> Fleet:
    fleet = Fleet(heartbeat_s=10)
    for name, region, site in places:
        labels = {SITE_LABEL: site} if site else {}
        fleet.add(DeviceRecord(DeviceId(name), region, Cohort("main"), SINCE, operator_labels=labels))
    return fleet


def roster(fleet: Fleet, *known: str) -> Roster:
    return Roster([EU, US], fleet, Heights(HEIGHTS_OF, fleet), [DeviceId(name) for name in known])


def everybody(fleet: Fleet) -> Rows:
    return np.arange(len(fleet.columns))


def test_devices_of_a_site_share_it_and_one_that_names_none_is_alone() -> None:
    fleet = fleet_of(
        *[("a", EU, "mill"), ("b", EU, "mill"), ("c", EU, "dam"), ("d", US, "mill"), ("e", EU, ""), ("f", EU, "")]
    )
    made = roster(fleet)
    made.meet(everybody(fleet))

    site = made.population.site

    assert site is not None
    assert site[0] == site[1]
    assert len(np.unique(site)) == 5


def test_a_device_keeps_its_index_and_one_that_is_not_known_any_more_its_place() -> None:
    fleet = fleet_of(("a", US, ""))
    known = roster(fleet, "gone")

    assert known.meet(everybody(fleet)).tolist() == [1]
    assert known.meet(everybody(fleet)).tolist() == [1]
    assert known.ids == ["gone", "a"]
    assert known.population.region.tolist() == [0, 1]
    assert known.population.height.tolist() == [height(HEIGHTS_OF, DeviceId(name)) for name in ("gone", "a")]
    assert known.sight([known.meet(everybody(fleet))], 0.0).present.tolist() == [False, True]


def test_a_wake_interval_that_changes_makes_another_population() -> None:
    fleet = fleet_of(("a", EU, ""), ("b", EU, ""))
    made = roster(fleet)
    made.meet(everybody(fleet))
    before = made.population
    made.meet(everybody(fleet))
    assert made.population is before
    fleet.at(1).wake_interval_s = 900

    made.meet(everybody(fleet))

    assert made.population.wake_s is not None
    assert made.population.wake_s.tolist() == [0, 900]
