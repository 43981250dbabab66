"""What every list takes."""

from datetime import UTC, datetime

from pydantic import Field

from server.api.parameters import Limit
from server.api.routing import Model
from server.domain.filter import Expression, Fields, read_filter


class NewestQuery(Model):
    """How many are listed."""

    limit: Limit = 100


class FilterQuery(NewestQuery):
    """Which ones, and how many."""

    filter: str | None = Field(
        None, min_length=1, max_length=2000, description="which ones, such as `region = eu AND NOT labels.site:*`"
    )

    def only(self, fields: Fields) -> Expression | None:
        """Return what the filter lets through of objects with these fields; None: everything.

        Raises:
            InvalidInputError: it is no filter; the text says where.
        """
        return None if self.filter is None else read_filter(self.filter, fields, datetime.now(UTC))
