"""Whether a release is for a device at all (pure)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """What a bundle is for: a vendor's UUID and the hardware classes' UUIDs (16 bytes each), and what it becomes."""

    vendor_id: bytes
    class_ids: frozenset[bytes]
    manifest_digest: bytes


def fits(target: Target, *, vendor_id: bytes, class_id: bytes) -> bool:
    """The vendor is the bundle's, and the hardware class is one of its classes."""
    return vendor_id == target.vendor_id and class_id in target.class_ids
