"""Approvals of a campaign (pure): whose word counts for which run, and how much of it is missing.

The creator's never counts, nor that of whoever resumes by it. A halted campaign is approved for its next run. An
emergency starts without: its approvals come afterwards, and until then they are shown as missing.
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Final

from firmware_store.errors import ConflictError, ForbiddenError
from server.db.approvals import ApprovalRecord
from server.db.campaign_records import CampaignRecord
from server.domain.campaign import Event, State, next_state

EMERGENCY_RUN: Final = 1
"""Only a start can be an emergency; what was halted since is resumed with approval alone."""

_BEFORE_START: Final = frozenset({State.DRAFT, State.AWAITING_APPROVAL, State.SCHEDULED})


def given(campaign: CampaignRecord, run: int, *, besides: Collection[str] = ()) -> int:
    """Return how many people's approvals count for this run; those of ``besides`` do not."""
    silent = {campaign.created_by, *besides}
    return len({entry.who for entry in campaign.approvals if entry.run == run} - silent)


def missing(campaign: CampaignRecord) -> int:
    """Return how many approvals somebody should still give: before the start, before a resume, or after the fact."""
    run = asked(campaign)
    return 0 if run is None else max(0, campaign.policy.approvals - given(campaign, run))


def asked(campaign: CampaignRecord) -> int | None:
    """Return the run that approvals are asked for now; None if for no run."""
    if campaign.state is State.HALTED:
        return campaign.run + 1
    if campaign.state in _BEFORE_START or (campaign.emergency and campaign.state is not State.CANCELLED):
        return EMERGENCY_RUN
    return None


def approved(campaign: CampaignRecord, who: str, reason: str, *, now: datetime) -> CampaignRecord:
    """Return the campaign with one more approval; the last one that it waits for schedules it.

    Raises:
        ForbiddenError: ``who`` has created it.
        ConflictError: ``who`` has approved this already.
        IllegalTransitionError: nobody asks for approvals of it.
    """
    run = asked(campaign)
    after_the_fact = bool(campaign.emergency) and run == EMERGENCY_RUN and missing(campaign) > 0
    state = campaign.state if after_the_fact else next_state(campaign.state, Event.APPROVE)
    assert run is not None
    if who == campaign.created_by:
        raise ForbiddenError("Whoever has created a campaign does not approve it.")
    if any((entry.run, entry.who) == (run, who) for entry in campaign.approvals):
        raise ConflictError(f"{who} has approved this already.")
    changed = replace(campaign, approvals=(*campaign.approvals, ApprovalRecord(run, who, now, reason)))
    return replace(changed, state=campaign.state if missing(changed) else state)


def check_resume(campaign: CampaignRecord, caller: str) -> None:
    """Return if a halted campaign may be resumed by ``caller`` as far as approvals are concerned.

    Raises:
        ConflictError: there are too few.
    """
    wanted, counted = campaign.policy.approvals, given(campaign, campaign.run + 1, besides=(caller,))
    if counted < wanted:
        raise ConflictError(
            f"This resume needs the approval of {wanted} people other than {caller} and the campaign's creator; "
            f"it has {counted}."
        )
