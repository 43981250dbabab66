"""A scenario's releases: what is wrong with a defective one is wrong with its bundle, and with no other."""

import time
from pathlib import Path
from typing import Any

import pytest

from device_sim.scenario.faults import Defect
from device_sim.scenario.model import Scenario
from firmware_store.bundle import verify_bundle
from firmware_store.errors import SignatureError, TidegateError
from firmware_store.root import Root, init_dev_keys
from firmware_store.suit import class_id, vendor_id
from server.cli.lab.releases import VENDOR, build_release, write_image


def scenario(defect: str) -> Scenario:
    return Scenario.model_validate(
        {
            "name": "small",
            "story": "A scenario for these tests.",
            "duration": "1h",
            "modes": ["wire"],
            "fleet": [{"share": "100%", "region": "eu", "hardware": "rev-b"}],
            "releases": [{"version": "1.1.0"}, {"version": "1.2.0", "defect": defect}],
            "campaigns": [{"release": "1.2.0"}],
        }
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Root]:
    folder = tmp_path_factory.mktemp("keys")
    return folder, init_dev_keys(folder, fleet=None, now=int(time.time()))


async def built(defect: str, keys: tuple[Path, Root], folder: Path) -> Any:
    """Build the second release, and verify it as a server does."""
    small = scenario(defect)
    bundle = build_release(small, small.releases[1], keys=keys[0], folder=folder)
    return (await verify_bundle(bundle, keys[1])).verified.manifest


@pytest.mark.parametrize("defect", [Defect.NONE, Defect.FLIPPED, Defect.TRUNCATED, Defect.REVOKED, Defect.EXPIRED])
async def test_what_is_wrong_later_is_not_wrong_with_the_bundle(
    defect: Defect, keys: tuple[Path, Root], tmp_path: Path
) -> None:
    manifest = await built(defect, keys, tmp_path)

    assert manifest.sequence_number == 20


async def test_a_wrong_digest_is_found_in_the_bytes(keys: tuple[Path, Root], tmp_path: Path) -> None:
    with pytest.raises(TidegateError, match="not the bytes"):
        await built("wrong-digest", keys, tmp_path)


async def test_wrong_keys_are_none_of_the_roots(keys: tuple[Path, Root], tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="0 of our keys"):
        await built("wrong-key", keys, tmp_path)


async def test_a_downgrade_has_a_lower_number_than_the_release_before_it(
    keys: tuple[Path, Root], tmp_path: Path
) -> None:
    small = scenario("downgrade")
    first = build_release(small, small.releases[0], keys=keys[0], folder=tmp_path)
    before = (await verify_bundle(first, keys[1])).verified.manifest

    assert (await built("downgrade", keys, tmp_path)).sequence_number < before.sequence_number


async def test_the_wrong_hardware_is_no_device_of_the_fleet(keys: tuple[Path, Root], tmp_path: Path) -> None:
    ours = class_id(vendor_id(VENDOR), "rev-b")

    assert ours in (await built("none", keys, tmp_path)).class_ids
    assert ours not in (await built("wrong-hardware", keys, tmp_path)).class_ids


def test_versions_of_an_image_are_alike_in_half_of_their_blocks(tmp_path: Path) -> None:
    one, other = (write_image(scenario("none"), version, 40_000, tmp_path).read_bytes() for version in ("1", "2"))

    same = sum(one[at : at + 4096] == other[at : at + 4096] for at in range(0, 40_000, 4096))
    assert (len(one), same) == (40_000, 5)
