"""What a level of a feature means in the catalogue in effect, whatever the spelling: the one rule for all who compare levels.

A text means the level that the catalogue declares it a spelling of, and itself where none is declared for it. Texts are compared as
:func:`schemas.levels.level_key` has them: without surrounding blanks, in any case, accents as written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.interventions import Moderator, moderator_form
from schemas.levels import level_key, level_text
from schemas.twin_types import segment_name

__all__ = ["ALIKE", "LIKENESS", "declared_level", "level_hint", "meaning_key", "moderating_level", "same_segment", "spellings_of"]

ALIKE = "did you mean"
"""Begins the hint of a level that is like another one."""

LIKENESS = 0.88
"""Likeness of a slip, by ``difflib``: urology and neurology are less alike."""

_LISTED = 10


def declared_level(column: str, value: object) -> str:
    """The declared level that a value of a column is, in any spelling; the level as written where none is declared for it.

    >>> declared_level("region", " South"), declared_level("priority_tier", 2.0)
    ('South', '2')
    """
    return catalogue_in_effect().level_of(column, level_text(value) or "")


def meaning_key(column: str, value: object) -> str:
    """The form in which two values of a column are compared: equal for the same level, in any of its spellings.

    >>> meaning_key("region", "SOUTH ") == meaning_key("region", "south")
    True
    """
    return level_key(declared_level(column, value))


def spellings_of(column: str, value: object) -> tuple[str, ...]:
    """Every text that means the level of a value: the declared level, its other spellings, and the text itself."""
    level = declared_level(column, value)
    others = catalogue_in_effect().levels.get(column, {}).get(level, ())
    return tuple(dict.fromkeys((level, *others, level_text(value) or "")))


def moderating_level(moderator: Moderator, value: object) -> str | None:
    """The level of a moderator that a value of its column is; None for a level that it does not list.

    >>> from schemas.interventions import MODERATORS
    >>> moderating_level(MODERATORS[0], "Hematology/Oncology"), moderating_level(MODERATORS[0], "cardiology")
    ('hematology_oncology', None)
    """
    forms = {form for text in spellings_of(moderator.column, value) for form in moderator_form(text)}
    return next((level for level in moderator.levels if level in forms), None)


def level_hint(value: object, levels: Iterable[str], others: Collection[str] = ()) -> str:
    """What may be meant by a level that is none of ``levels``: the one alike, else all of them, or the first ten.

    >>> level_hint("cardiolgy", ["cardiology", "oncology"]), level_hint("x", ["cardiology", "oncology"])
    ('did you mean cardiology', 'use one of cardiology, oncology')
    """
    names = list(dict.fromkeys(levels))
    by_key = {level_key(text): text for text in (*names, *others)}
    alike = get_close_matches(level_key(level_text(value) or ""), by_key, n=1, cutoff=LIKENESS)
    if alike:
        return f"{ALIKE} {by_key[alike[0]]}"
    return f"use one of {', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"


def same_segment(first: str, second: str) -> bool:
    """Whether two names are of the series of one level, in any of its spellings.

    >>> same_segment("region=South", "region=south"), same_segment("region=south", "region=west")
    (True, False)
    """
    return _declared_segment(first) == _declared_segment(second)


def _declared_segment(name: str) -> str:
    dimension, separator, level = name.partition("=")
    return segment_name(dimension, level) if separator else name
