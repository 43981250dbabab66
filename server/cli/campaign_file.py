"""Campaigns as files: YAML 1.2, one document for each. The JSON Schema is `docs/reference/campaign.schema.json`.

YAML 1.2 by `ruamel.yaml`: a region called ``no`` stays a text, and a key that is there twice is an error.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from firmware_store.errors import InvalidInputError
from server.api.parameters import PATH, CampaignName, CohortName, Reason, RegionNames
from server.domain.campaign import NO_REASON, Membership
from server.domain.plan import Plan, Policy

MAX_BYTES: Final = 1 << 20


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
    policy: Policy = Field(Policy(), description="pace and judgement")
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
        if Policy.model_validate(there["policy"]) != self.policy:
            found.append("policy")
        return found


def read_campaigns(path: Path) -> list[CampaignFile]:
    """Read every document of a file.

    Raises:
        InvalidInputError: it cannot be read, is not YAML, or is not of campaigns; the text says where.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise InvalidInputError(f"{path} has more than {MAX_BYTES} bytes.")
        documents = list(YAML(typ="safe", pure=True).load_all(text.decode()))
    except OSError as exc:
        raise InvalidInputError(f"Cannot read {path}: {exc.strerror}.") from exc
    except (YAMLError, ValueError, RecursionError) as exc:
        raise InvalidInputError(f"{path} is not YAML: {exc}") from exc
    if not documents:
        raise InvalidInputError(f"{path} has no document.")
    return [_campaign(path, number, document) for number, document in enumerate(documents, 1)]


def _campaign(path: Path, number: int, document: object) -> CampaignFile:
    try:
        return CampaignFile.model_validate(document)
    except ValidationError as exc:
        wrong = [
            f"  {'.'.join(map(str, entry['loc'])) or 'the document'}: {entry['msg']}"
            for entry in exc.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidInputError("\n".join((f"{path}, document {number}, is not a campaign:", *wrong))) from exc
