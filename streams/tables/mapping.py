"""Which column of a table is which feature, and how its cells become the feature's values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.base import require_one_of
from schemas.twin_types import TWIN_TYPES, TwinType

__all__ = ["RULES", "ColumnUse", "Rule", "TableMapping", "require_zone"]

RuleName = Literal["value", "us_region", "decile", "tier", "percent", "years_before", "days_before", "change"]

RULES: Mapping[str, str] = {
    "value": "as it is written",
    "us_region": "the Census region of a US state, given by code or name; a spelling of a declared region is that one",
    "decile": "1 to 10 by the deciles of the first file",
    "tier": "5 to 1 by the fifths of the first file, 1 for the largest",
    "percent": "a hundredth of the number",
    "years_before YEAR": "years from that year to YEAR",
    "days_before DATE": "days from that time to the beginning of DATE (UTC)",
    "change from COLUMN": "the column divided by COLUMN, less 1",
}
"""The rules as they are written, and what each makes of a cell."""

_ARGUMENTS = {"years_before": r"\d{4}", "days_before": r"\d{4}-\d\d-\d\d", "change": r"from .+"}
_CUTS = {"decile": 9, "tier": 4}


class Rule(NamedTuple):
    """How cells become values: the name of a rule, and its argument, which is empty for most."""

    name: RuleName
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.argument}".strip()

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a rule as it is written in a mapping.

        Raises:
            ValueError: for an unknown rule, or an argument that it does not take; it names what is allowed.

        >>> Rule.parse("change from Tot Rx 23")
        Rule(name='change', argument='from Tot Rx 23')
        """
        name, _, argument = text.strip().partition(" ")
        require_one_of("rule", name, get_args(RuleName))
        pattern = _ARGUMENTS.get(name, "")
        if not re.fullmatch(pattern, argument.strip()):
            form = next(form for form in RULES if form.startswith(name))
            raise ValueError(f"the rule {text!r} is written {form!r}")
        rule = cls(name, argument.strip())  # type: ignore[arg-type]  # checked above
        if name == "days_before":
            date.fromisoformat(rule.argument)
        return rule

    @property
    def before(self) -> str | None:
        """The second column, which a change is measured from."""
        return self.argument.removeprefix("from ") if self.name == "change" else None


class ColumnUse(BaseModel):
    """The column that a feature is read from.

    Attributes:
        column: header as the first file has it; other files may write it in other case and with other signs.
        by: the rule, see ``RULES``.
        cuts: upper limits of all deciles or tiers but the last, of the first file, so that a value means the same in later ones.
        levels: texts of the column that are written otherwise than the feature's levels, or than its yes and no.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: Annotated[str, Field(min_length=1)]
    by: str = "value"
    cuts: tuple[float, ...] = ()
    levels: dict[str, str] = {}

    @field_validator("levels", mode="before")
    @classmethod
    def _are_texts(cls, levels: Any) -> Any:
        """Refuse what YAML does not read as text: of `yes` without quotes only its truth is left, and not the word."""
        others = [text for text, level in levels.items() if not isinstance(level, str)] if isinstance(levels, dict) else []
        if others:
            explanation = (
                ", as YAML reads yes, no, true and false without quotes as no text" if isinstance(levels[others[0]], bool) else ""
            )
            raise ValueError(f'what {others[0]!r} stands for is to be in quotes, such as {others[0]}: "yes"{explanation}')
        return levels

    @field_validator("by")
    @classmethod
    def _is_rule(cls, by: str) -> str:
        return str(Rule.parse(by))

    @model_validator(mode="after")
    def _has_its_cuts(self) -> Self:
        needed = _CUTS.get(self.rule.name, 0)
        if len(self.cuts) not in {0, needed} or list(self.cuts) != sorted(self.cuts):
            raise ValueError(f"{self.rule.name} of {self.column!r} has {needed} cuts in ascending order, not {list(self.cuts)}")
        return self

    @property
    def rule(self) -> Rule:
        """The rule in its parts."""
        return Rule.parse(self.by)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        before = self.rule.before
        return (self.column,) if before is None else (self.column, before)


def require_zone(name: str) -> None:
    """Refuse what is no name of a time zone.

    Raises:
        ValueError: with names that are.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r}: use a name such as UTC, Europe/Berlin or America/New_York") from None


def _is_zone(name: str | None) -> str | None:
    if name is not None:
        require_zone(name)
    return name


class TableMapping(BaseModel):
    """Which column is which feature, target, id or time.

    Attributes:
        name: of the mapping.
        twin_type: of the entities.
        columns: by the declared name, such as ``entity_id`` or ``decile``; a name that is not declared is a feature of your own.
        left_out: columns that are not used, and why.
        timezone: name of the zone of times that are written without one, unless another one is stated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    twin_type: TwinType
    columns: Annotated[dict[str, ColumnUse], Field(min_length=1)]
    left_out: dict[str, str] = {}
    timezone: Annotated[str | None, AfterValidator(_is_zone)] = None

    def headers(self) -> Iterator[str]:
        """All columns that are read, in the order of the mapping; a column of several uses comes several times."""
        for use in self.columns.values():
            yield from use.columns

    @property
    def targets(self) -> tuple[str, ...]:
        """The names in it that are targets of the twin type."""
        return tuple(name for name in self.columns if name in TWIN_TYPES[self.twin_type].declared)
