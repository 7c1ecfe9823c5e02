"""Which level a twin's value is: by the spellings of the catalogue, or as written, as methods before the fourth took it."""

from __future__ import annotations

from typing import NamedTuple

from schemas.interventions import Moderator, moderator_level
from schemas.level_meaning import meaning_key, moderating_level
from schemas.levels import level_key, level_text

__all__ = ["AS_DECLARED", "LevelReading", "reading_of"]

_BY_DECLARATION = 4  # method


class LevelReading(NamedTuple):
    """How levels are read; answers that are pinned to an earlier method are repeated as they were."""

    by_declaration: bool

    def key(self, column: str, value: object) -> str:
        """The form in which two values of a column are compared."""
        return meaning_key(column, value) if self.by_declaration else level_key(level_text(value) or "")

    def moderating(self, moderator: Moderator, value: object) -> str | None:
        """The level of a moderator that a value of its column is; None for a level that it does not list."""
        if self.by_declaration:
            return moderating_level(moderator, value)
        level = moderator_level(value)
        return level if level in moderator.levels else None


AS_DECLARED = LevelReading(by_declaration=True)
"""Every declared spelling means its level."""

_AS_WRITTEN = LevelReading(by_declaration=False)


def reading_of(method: int) -> LevelReading:
    """How levels are read by a method (:data:`schemas.effect_priors.EFFECTS_METHOD`)."""
    return AS_DECLARED if method >= _BY_DECLARATION else _AS_WRITTEN
