"""What was typed into a form: read as numbers and choices, with a sentence beside each field that cannot be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable

from schemas.base import shorten

__all__ = ["TypedFields"]

_MOST_DIGITS = 12


class TypedFields:
    """The fields of a form by their names, as they were typed.

    Args:
        pairs: name and value of each field, as a browser sends them.

    Attributes:
        typed: the values of each field.
        errors: what is wrong with a field, a sentence each; that of the whole form under the empty name.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.typed: dict[str, list[str]] = {}
        for name, value in pairs:
            self.typed.setdefault(name, []).append(value.strip())
        self.errors: dict[str, str] = {}

    def text(self, name: str, default: str = "") -> str:
        """What was typed into a field; the default where the form did not have it."""
        return next(iter(self.typed.get(name, ())), default)

    def chosen(self, name: str) -> list[str]:
        """Everything that was picked of a field."""
        return [value for value in self.typed.get(name, ()) if value]

    def one_of(self, name: str, what: str, allowed: Collection[str], default: str) -> str:
        """A choice of these."""
        text = self.text(name) or default
        if text and text not in allowed:
            self.errors[name] = f"There is no {what} {shorten(text)}: choose one of {', '.join(allowed)}."
        return str(text)

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number, which may have separators; None where nothing was typed, and beside an error.

        >>> fields = TypedFields([("weeks", "200"), ("twins", "10,000")])
        >>> fields.whole("twins", 100, 1_000_000), fields.whole("weeks", 1, 104), fields.errors["weeks"]
        (10000, None, "'200' is not possible here: a whole number from 1 to 104.")
        """
        text = self.text(name).replace(",", "").replace(" ", "")
        if not text:
            return None
        if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and low <= int(text) <= high:
            return int(text)
        self.errors[name] = f"{shorten(self.text(name))} is not possible here: a whole number from {low:,} to {high:,}."
        return None

    def number(self, name: str, is_allowed: Callable[[float], bool], allowed: str) -> float | None:
        """A number, described by ``allowed``; None where nothing was typed, and beside an error."""
        text = self.text(name).removesuffix("%").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and is_allowed(value):
            return value
        self.errors[name] = f"{shorten(self.text(name))} is not possible here: {allowed}."
        return None

    def percent(self, name: str, low: float, high: float) -> float | None:
        """A percentage as a fraction; None where nothing was typed, and beside an error."""
        value = self.number(name, lambda typed: low <= typed <= high, f"a percentage from {low:g} to {high:g}")
        return None if value is None else round(value / 100, 10)
