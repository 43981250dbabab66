"""What a campaign's file says, against a campaign that is there."""

from typing import Any

import pytest

from server.cli.campaign_file import CampaignFile
from server.domain.plan import Policy

BUNDLE = "bun_0123456789abcdef0123456789abcdef"
LEAST = {"kind": "campaign", "name": "spring", "bundle": BUNDLE, "cohort": "main", "regions": ["eu", "us"]}


def file(**more: Any) -> CampaignFile:
    return CampaignFile.model_validate({**LEAST, **more})


def there(approvals: int = 0, **policy: Any) -> dict[str, Any]:
    return {
        "bundle": BUNDLE,
        "cohort": "main",
        "membership": "dynamic",
        "regions": [{"region": "eu"}, {"region": "us"}],
        "policy": Policy(approvals=approvals, **policy).model_dump(mode="json"),
        "policy_from": "",
    }


@pytest.mark.parametrize("approvals", [0, 1])
def test_approvals_that_a_server_demands_are_no_difference(approvals: int) -> None:
    assert file(policy={"watch_s": 300}).differences(there(approvals, watch_s=300)) == []


def test_fewer_approvals_than_the_file_asks_for_are_one() -> None:
    assert file(policy={"approvals": 2}).differences(there(1)) == ["policy"]


def test_another_policy_is_one() -> None:
    assert file(policy={"watch_s": 300}).differences(there(watch_s=301)) == ["policy"]


def test_a_policy_that_is_left_out_is_not_compared() -> None:
    assert file().differences(there(1, watch_s=301)) == []


def test_regions_in_another_order_are_a_difference() -> None:
    assert file(regions=["us", "eu"]).differences(there()) == ["regions"]
