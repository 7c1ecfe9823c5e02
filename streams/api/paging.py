"""Pages of a list: a cursor names the last row of a page, so that rows which come meanwhile shift nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import Query

from schemas.base import shorten
from streams.api.problems import Problem

__all__ = ["Cursor", "Limit", "page", "read_cursor"]

T = TypeVar("T")
R = TypeVar("R")
Limit = Annotated[int, Query(ge=1, le=500, description="Most items of the answer.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next` of the answer before; without it the newest items.")]


def page(rows: Sequence[T], limit: int, place: Callable[[T], tuple[datetime, object]], item: Callable[[T], Any]) -> dict[str, Any]:
    """A page of rows, of which there is one more than the limit where another page follows."""
    shown = rows[:limit]
    cursor = _write_cursor(*place(shown[-1])) if len(rows) > limit else None
    return {"items": [item(row) for row in shown], "next": cursor}


def _write_cursor(at: datetime, row_id: object) -> str:
    return base64.urlsafe_b64encode(json.dumps([at.isoformat(), str(row_id)]).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, row_id_of: Callable[[str], R]) -> tuple[datetime, R] | None:
    """The time and the id of the row that a cursor names; ``row_id_of`` reads the id.

    Raises:
        Problem: when it is not one that an answer had.
    """
    if cursor is None:
        return None
    try:
        at, row_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        time = datetime.fromisoformat(at)
        return time.astimezone(UTC), row_id_of(row_id)
    except (ValueError, TypeError, AttributeError):
        raise Problem(422, f"cursor {shorten(cursor)} is not the next of an earlier answer") from None
