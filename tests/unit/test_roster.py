"""The devices of a campaign as arrays."""

from uuid import UUID

import numpy as np

from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.services.fleet import Device, Fleet
from server.services.roster import Roster

CAMPAIGN = CampaignId(UUID(int=7))
EU, US = Region("eu"), Region("us")


def device(name: str, region: Region = EU, *, site: str = "") -> Device:
    return Device(DeviceId(name), region, Cohort("main"), 0.0, site=site)


def roster(*devices: Device) -> Roster:
    made = Roster(CAMPAIGN, [EU, US], Fleet(heartbeat_s=10), (), ())
    for each in devices:
        made.meet(each)
    return made


def test_devices_of_a_site_share_it_and_one_that_names_none_is_alone() -> None:
    devices = [
        device("a", site="mill"),
        device("b", site="mill"),
        device("c", site="dam"),
        device("d", US, site="mill"),
        device("e"),
        device("f"),
    ]

    site = roster(*devices).population.site

    assert site is not None
    assert site[0] == site[1]
    assert len(np.unique(site)) == 5


def test_a_device_keeps_its_index_and_one_that_is_not_known_any_more_its_place() -> None:
    known = Roster(CAMPAIGN, [EU, US], Fleet(heartbeat_s=10), (DeviceId("gone"),), ())

    assert known.meet(device("a")) == 1
    assert known.meet(device("a")) == 1
    assert known.ids == ["gone", "a"]
    assert known.population.region.tolist() == [0, 0]
