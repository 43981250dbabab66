"""What an exam signs with: the keys of a lab's server, as they lie in its folder."""

from pathlib import Path

import pytest

from device_sim.conformance.keys import LabKeys
from firmware_store.errors import ConfigurationError
from firmware_store.keys import load_key
from firmware_store.root import RoleName, init_dev_keys, key_file

NOW = 1_750_000_000


def test_public_halves_beside_the_keys_are_in_nobodys_way(tmp_path: Path) -> None:
    root = init_dev_keys(tmp_path, fleet=None, now=NOW)
    for role in (RoleName.DIRECTIVE, RoleName.SESSION):
        public = load_key(key_file(tmp_path, role), None).public
        (tmp_path / f"{role}-1.pub.pem").write_bytes(public.to_pem())

    keys = LabKeys.read(tmp_path)

    assert keys.root == root
    assert keys.directive.public.kid in root.roles[RoleName.DIRECTIVE].kids
    assert keys.session.public.kid in root.roles[RoleName.SESSION].kids


def test_a_key_that_the_root_does_not_name_is_none(tmp_path: Path) -> None:
    init_dev_keys(tmp_path, fleet=None, now=NOW)
    key_file(tmp_path, RoleName.DIRECTIVE).unlink()
    key_file(tmp_path, RoleName.SESSION).rename(key_file(tmp_path, RoleName.DIRECTIVE))

    with pytest.raises(ConfigurationError, match="no directive key here"):
        LabKeys.read(tmp_path)
