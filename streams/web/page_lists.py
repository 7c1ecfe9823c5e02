"""What a list shows, from the parameters of its address: search, state, time range and page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlencode

from schemas.base import shorten
from schemas.twin_types import ALL_ROWS
from sql.page_store import ListQuery
from streams.reporting.overview import LineChoice

__all__ = [
    "HISTORY",
    "MAX_CHOSEN",
    "PAGE_SIZE",
    "RANGES",
    "BadParameter",
    "ListChoice",
    "PairParameters",
    "Parameters",
    "line_choice",
    "list_choice",
]

PAGE_SIZE = 50
MAX_CHOSEN = 6
_MAX_PAGE = 100_000
HISTORY: Mapping[int, str] = MappingProxyType({6: "6 hours", 24: "a day", 168: "7 days", 720: "30 days", 2160: "90 days"})
"""Time ranges of a line's charts, by hours."""
RANGES: Mapping[int, str] = MappingProxyType(
    {0: "any", 1: "the last hour", 24: "the last day", 168: "the last 7 days", 720: "the last 30 days"}
)
"""Time ranges of lists, by hours; 0 for all."""


class Parameters(Protocol):
    """The parameters of an address, each with all of its values."""

    def get(self, name: str, default: str, /) -> str:
        """The first value of a parameter."""
        ...

    def getall(self, name: str, default: list[str], /) -> list[str]:
        """All values of a parameter."""
        ...


class PairParameters:
    """Parameters as the pairs of name and value that an address has."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = list(pairs)

    def get(self, name: str, default: str, /) -> str:
        """The first value of a parameter."""
        return next((value for key, value in self._pairs if key == name), default)

    def getall(self, name: str, default: list[str], /) -> list[str]:
        """All values of a parameter."""
        return [value for key, value in self._pairs if key == name] or default


class BadParameter(ValueError):
    """A parameter of an address has a value that it does not take."""


@dataclass(frozen=True)
class ListChoice:
    """What the reader of a list has chosen.

    Attributes:
        q: what to search for.
        hours: how far back; 0 for all.
        page: the number of the page, from 1 on.
        ranged: whether the list can be limited to a time range.
    """

    q: str = ""
    state: str = ""
    hours: int = 0
    page: int = 1
    ranged: bool = True

    @property
    def is_filtered(self) -> bool:
        """Whether something may be left out."""
        return bool(self.q or self.state or self.hours)

    @property
    def skipped(self) -> int:
        """Rows on the pages before."""
        return (self.page - 1) * PAGE_SIZE

    def pages(self, n: int) -> int:
        """The number of pages of ``n`` rows, one where there are none."""
        return max(1, ceil(n / PAGE_SIZE))

    def address(self, page: int) -> str:
        """The parameters of another page of the same list.

        >>> ListChoice("south & west", "deploy").address(2)
        'q=south+%26+west&state=deploy&page=2'
        """
        values = {"q": self.q, "state": self.state, "hours": self.hours, "page": page}
        return urlencode({name: value for name, value in values.items() if value})

    def query(self, at: datetime) -> ListQuery:
        """The query of the page's rows, at a time."""
        since = at - timedelta(hours=self.hours) if self.hours else None
        return ListQuery(self.q, self.state, since, PAGE_SIZE, self.skipped)


def list_choice(parameters: Parameters, states: Collection[str], *, ranged: bool) -> ListChoice:
    """What a list shows.

    Raises:
        BadParameter: with the value that is refused and what is allowed.
    """
    state = parameters.get("state", "").strip()
    if state and state not in states:
        raise BadParameter(f"there is no state {shorten(state)} in this list: use {', '.join(states)}, or none")
    hours = _whole("hours", parameters.get("hours", "") or "0", RANGES) if ranged else 0
    page = _whole("page", parameters.get("page", "") or "1", range(1, _MAX_PAGE + 1))
    return ListChoice(parameters.get("q", "").strip(), state, hours, page, ranged)


def line_choice(parameters: Parameters) -> LineChoice:
    """What the charts of a line show.

    Raises:
        BadParameter: with the value that is refused and what is allowed.
    """
    segments = tuple(dict.fromkeys(parameters.getall("segment", [ALL_ROWS])))
    if len(segments) > MAX_CHOSEN:
        raise BadParameter(f"{len(segments)} segments are more than the {MAX_CHOSEN} that a chart shows: choose fewer")
    hours = parameters.get("hours", "")
    return LineChoice(segments, _whole("hours", hours, HISTORY) if hours else None)


def _whole(name: str, text: str, allowed: Collection[int]) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if value not in allowed:
        texts = f"from {min(allowed)} to {max(allowed)}" if isinstance(allowed, range) else f"one of {', '.join(map(str, allowed))}"
        raise BadParameter(f"the parameter {name} is {shorten(text)}: it has to be a whole number, {texts}")
    return value
