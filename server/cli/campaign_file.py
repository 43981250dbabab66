"""Campaigns as files: YAML 1.2, one document for each. The JSON Schema is `docs/reference/campaign.schema.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from firmware_store.errors import InvalidInputError
from server.api.parameters import PATH, AnyPolicy, CampaignName, CohortName, Reason, RegionNames
from server.domain.campaign import NO_REASON, Membership
from server.domain.plan import Plan, Policy
from server.domain.yaml_text import MAX_BYTES, read_documents, validated


class CampaignFile(BaseModel):
    """A campaign as it should be. What is left out has its default, and is not compared with what is there."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Tidegate campaign")

    kind: Literal["campaign"] = Field(description="what this document is of")
    name: CampaignName = Field(description="its name, by which it is found again")
    bundle: str = Field(pattern=PATH["bundle"].pattern, description="its id, as `tidegate bundle push` prints it")
    cohort: CohortName = Field(description="which part of the fleet")
    regions: RegionNames = Field(description="in the order of the rollout")
    reason: Reason = Field(NO_REASON, description="why, or a ticket")
    membership: Membership = Field(
        Membership.DYNAMIC, description="whether devices that join the cohort later are of the campaign, too"
    )
    plan: Plan | None = Field(None, description="the waves; without it the default plan is made")
    policy: AnyPolicy = Field(Policy(), description="pace and judgement, or the name of a policy that the server keeps")
    start: bool = Field(False, description="start it, or ask for the approvals that it needs")

    @property
    def draft(self) -> dict[str, Any]:
        """The body of ``POST /v1/campaigns``."""
        left_out = {"kind", "start"} | ({"plan"} if self.plan is None else set())
        return self.model_dump(mode="json", exclude=left_out)

    def differences(self, there: Mapping[str, Any]) -> list[str]:
        """Name the members in which a campaign, as ``GET /v1/campaigns/{id}`` shows it, is not as this file says."""
        found = [name for name in ("bundle", "cohort", "membership") if there[name] != getattr(self, name)]
        if [region["region"] for region in there["regions"]] != list(self.regions):
            found.append("regions")
        if self.plan is not None and Plan.model_validate(there["plan"]) != self.plan:
            found.append("plan")
        if isinstance(self.policy, str):
            is_same = there["policy_from"].partition("@")[0] == self.policy  # which version there was is the server's
        elif "policy" not in self.model_fields_set:
            is_same = True
        else:
            stored = Policy.model_validate(there["policy"])
            asked = self.policy.model_copy(update={"approvals": max(self.policy.approvals, stored.approvals)})
            is_same = stored == asked  # a server may want more approvals than are asked for
        if not is_same:
            found.append("policy")
        return found


def read_campaigns(path: Path) -> list[CampaignFile]:
    """Read every document of a file.

    Raises:
        InvalidInputError: it cannot be read, is not YAML, or is not of campaigns; the text says where.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise InvalidInputError(f"Cannot read {path}: {exc.strerror}.") from exc
    return [
        validated(CampaignFile, document, claim=f"{path}, document {number}, is not a campaign")
        for number, document in enumerate(read_documents(data, name=str(path)), 1)
    ]
