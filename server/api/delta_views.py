"""What the API shows of a campaign's deltas."""

from typing import Literal

from pydantic import BaseModel

from server.db.deltas import CampaignDelta


class DeltaView(BaseModel):
    """A delta that the campaign would like, from an image that ``devices`` may run, to its bundle's.

    ``state``: ``making``, ``made`` (its pieces are not where devices fetch yet), ``offered``, or ``useless``, with the
    reason ``why``. ``bytes`` are what a device fetches of it, ``otherwise_bytes`` what it fetches without.
    """

    component: str
    source_version: str
    devices: int
    state: Literal["making", "made", "offered", "useless"]
    codec: str
    bytes: int | None
    otherwise_bytes: int | None
    why: str


def view_of(delta: CampaignDelta) -> DeltaView:
    return DeltaView(
        component=delta.component_name,
        source_version=delta.source_version,
        devices=delta.devices,
        state="offered" if delta.is_there else "made" if delta.offer else "useless" if delta.codec else "making",
        codec=delta.codec,
        bytes=None if delta.offer is None else delta.offer.wire_bytes,
        otherwise_bytes=delta.otherwise_bytes or None,
        why=delta.why,
    )
