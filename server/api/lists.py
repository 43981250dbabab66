"""What every list takes, and how its pages follow each other."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from server.api.parameters import Cursor, Limit
from server.api.routing import Call, Model
from server.domain.filter import Expression, Fields, read_filter

_T = TypeVar("_T")


class PageQuery(Model):
    """Which page of a list."""

    limit: Limit = 100
    cursor: Cursor = ""


class FilterQuery(PageQuery):
    """Which ones, and which page of them."""

    filter: str | None = Field(
        None, min_length=1, max_length=2000, description="which ones, such as `region = eu AND NOT labels.site:*`"
    )

    def only(self, fields: Fields) -> Expression | None:
        """Return what the filter lets through of objects with these fields; None: everything.

        Raises:
            InvalidInputError: it is no filter; the text says where.
        """
        return None if self.filter is None else read_filter(self.filter, fields, datetime.now(UTC))


class Page(BaseModel):
    """``next`` is the cursor of the following page, null on the last."""

    next: str | None


def begin_page(call: Call[Any, PageQuery], of: str, read: Callable[[str], _T]) -> _T | None:
    """Return what the page of the list ``of`` begins after, None on the first one.

    Raises:
        InvalidInputError: the cursor is not one of this list's.
    """
    after = call.after(of, call.query.cursor)
    return read(after) if after else None


def end_page(call: Call[Any, PageQuery], of: str, shown: Sequence[_T], key: Callable[[_T], object]) -> str | None:
    """Return the cursor of the page that follows; None where fewer are shown than there could be."""
    return call.following(of, str(key(shown[-1])) if len(shown) == call.query.limit else None)
