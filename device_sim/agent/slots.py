"""A/B slots: the six calls the agent makes of its platform.

Three rules hold for every backend, whatever its caller does: the running slot is never written to, no slot becomes
bootable before all of its bytes have been read back and compared with the signed digests, and the last confirmed slot
is never given up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from device_sim.agent.boot_environment import Image, SlotInfo

STAGED: Final = -1
"""Stands for the staged file where an image is named by its number."""


@dataclass(frozen=True, slots=True)
class Release:
    """What an installation will put into a slot."""

    sequence_number: int
    version: str
    manifest_digest: bytes
    images: tuple[Image, ...]


class Piece(NamedTuple):
    """A chunk's place in its image and the SHA-256 of its raw bytes."""

    offset: int
    size_bytes: int
    digest: bytes


class Installation(Protocol):
    """The inactive slot while it is written, and one staged file beside it.

    ``image`` is an index into the release's images, or ``STAGED`` where pieces are concerned.
    """

    slot: str

    def adopt(self, image: int) -> bool:
        """Tell whether an image is in place to the last byte; it is copied where the running slot has the same."""

    def reuse(self, image: int, pieces: Sequence[Piece], *, moved: bool = False) -> tuple[bool, ...]:
        """For each piece: it is in place, already there or copied from the running slot, and its digest holds."""

    def write(self, image: int, parts: Sequence[tuple[int, bytes]]) -> None:
        """Put verified bytes in their places, by offset."""

    def stage(self, name: bytes) -> int:
        """Open the staged file of this name, and return its size in bytes: a restart takes nothing away from it.

        There is one at a time: those of other names are gone from now on.
        """

    def make(self, image: int, codec: str | None) -> None:
        """Turn the staged file into an image: by ``codec`` from the running slot's image, or as it is.

        Raises:
            TrustError, StorageError: it is not the image that was signed; the slot is as before, the staged file gone.
        """

    def seal(self) -> None:
        """Read everything back and make the slot bootable. Raises: DigestError, and the slot is unbootable."""


class SlotBackend(Protocol):
    """What an update needs of a platform (RAUC, MCUboot, files)."""

    def slots(self) -> tuple[SlotInfo, ...]: ...

    def booted(self) -> str:
        """The name of the slot that runs."""

    def install(self, release: Release) -> Installation:
        """Open the inactive slot, from now on unbootable; bytes in it that fit are kept."""

    def activate(self, slot: str) -> None:
        """Boot ``slot`` on trial next time, after its digests have been checked once more."""

    def confirm(self) -> None:
        """Keep the running slot, which was on trial."""

    def revert(self, slot: str, *, verify: bool = False) -> None:
        """Never boot ``slot`` again; the other one, which is confirmed, boots next.

        With ``verify`` the other slot is read back first. Raises: ConflictError: there is no way back.
        """
