"""A scenario's releases as signed bundles: images that are alike as versions are, and what is wrong with them."""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Final

from device_sim.scenario.faults import Defect
from device_sim.scenario.model import ReleaseUnderTest, Scenario
from firmware_store.bundle import build_bundle, read_envelope, replace_envelope
from firmware_store.errors import InvalidInputError
from firmware_store.keys import SigningKey, load_key
from firmware_store.suit import parse_version, sign_envelope

VENDOR: Final = "lab.tidegate.dev"
COMPONENT: Final = "app"
FACTORY: Final = "1.0.0"
RELEASE_KEYS: Final = ("release-1.pem", "release-2.pem")

_BLOCK_BYTES: Final = 4096
_STEP: Final = 10
"""Between the sequence numbers of releases that follow each other."""
_NO_SUCH_HARDWARE: Final = "no-such-hardware"


def write_image(scenario: Scenario, version: str, size_bytes: int, folder: Path) -> Path:
    """Write a version's image: of each two blocks one is that of every version, the other its own."""
    path = folder / f"{version}.img"
    if not path.exists():
        shared, own = Random(scenario.name), Random(f"{scenario.name}|{version}")
        blocks = -(-size_bytes // _BLOCK_BYTES)
        content = b"".join((own if block % 2 else shared).randbytes(_BLOCK_BYTES) for block in range(blocks))
        path.write_bytes(content[:size_bytes])
    return path


def build_release(scenario: Scenario, release: ReleaseUnderTest, *, keys: Path, folder: Path) -> Path:
    """Build and sign a release's bundle, with its defect as far as that lies in the bundle.

    Raises:
        InvalidInputError: the keys are not there.
    """
    output = folder / f"{release.version}.tgb"
    images: Mapping[str, Path] = {COMPONENT: write_image(scenario, release.version, release.size, folder)}
    build_bundle(
        output,
        images=images,
        vendor=VENDOR,
        models=[_NO_SUCH_HARDWARE] if release.defect is Defect.WRONG_HARDWARE else list(scenario.hardware),
        version=parse_version(release.version),
        sequence_number=_sequence(scenario, release),
        description=f"{scenario.name} {release.version}",
    )
    envelope = read_envelope(output)
    for key in _signers(release, keys):
        envelope = sign_envelope(envelope, key)
    replace_envelope(output, envelope)
    if release.defect is Defect.WRONG_DIGEST:
        _flip_last_bit(output)
    return output


def _sequence(scenario: Scenario, release: ReleaseUnderTest) -> int:
    place = scenario.releases.index(release) + 1
    return place * _STEP - (_STEP + 1 if release.defect is Defect.DOWNGRADE else 0)


def _signers(release: ReleaseUnderTest, keys: Path) -> list[SigningKey]:
    try:
        known = [load_key(keys / name, None) for name in RELEASE_KEYS]
    except OSError as exc:
        raise InvalidInputError(f"Releases are signed with {' and '.join(RELEASE_KEYS)} in {keys}: {exc}.") from exc
    if release.defect is Defect.WRONG_KEY:
        return [SigningKey.generate(key.public.algorithm) for key in known]
    return known


def _flip_last_bit(bundle: Path) -> None:
    """The last bytes of a bundle are those of an image: from now on it has not the digest that was signed."""
    with bundle.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
