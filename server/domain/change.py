"""What people change of devices, of one or of many: where they belong, their labels, and whether they are held."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

PLACE: Final = r"^[a-z0-9][a-z0-9-]{0,31}$"
"""``identity.region`` and ``identity.cohort``; pydantic's ``$`` is the end, and nothing but that."""

LABELS_MOST: Final = 32
"""That people give one device, as many as it may say of itself."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Holding(BaseModel):
    """``for_seconds`` null: until they are released."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
    for_seconds: int | None = Field(None, ge=1, le=366 * 86_400)


class Change(BaseModel):
    """What is not named stays as it is.

    ``labels``: what people say of a device, null takes a label of theirs away; what the device says of itself under the
    same name shows again then. ``release`` ends holds, whoever or whatever made them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: Annotated[str, Field(pattern=PLACE)] | None = None
    cohort: Annotated[str, Field(pattern=PLACE)] | None = None
    labels: dict[Name, Text | None] = Field(default_factory=dict, max_length=LABELS_MOST)
    hold: Holding | None = None
    release: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> "Change":
        if not (self.region or self.cohort or self.labels or self.hold or self.release):
            raise ValueError("it changes nothing: name region, cohort, labels, hold or release")
        if self.hold is not None and self.release:
            raise ValueError("it holds and releases")
        return self

    @property
    def is_move(self) -> bool:
        return self.region is not None or self.cohort is not None
