"""Effects that an experiment measured in parts of its people: the levels of one feature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from schemas.base import Finite, Frozen, Name, Whole, shorten
from schemas.levels import level_key, level_text

__all__ = ["MAX_PARTICIPANTS", "MAX_SUBGROUPS", "SubgroupResult", "require_parts_of"]

MAX_PARTICIPANTS = 1_000_000_000
"""Most people in an arm of an experiment."""

MAX_SUBGROUPS = 200
"""Most subgroups of one experiment."""


def _level(value: Any) -> Any:
    return level_text(value) if isinstance(value, str | bool | int | float) else value


class SubgroupResult(Frozen):
    """The effect in one level of a feature, in the unit of the experiment's own effect.

    Attributes:
        dimension: name of the feature, such as ``specialty``.
        level: its value in this subgroup, as text (``schemas.levels``).
        effect, standard_error: of the people of this level alone, not shrunk toward the others.
        n_treated, n_control: people of this level in each arm.
    """

    dimension: Name
    level: Annotated[Name, BeforeValidator(_level)]
    effect: Finite
    standard_error: Finite = Field(gt=0)
    n_treated: Whole = Field(ge=2, le=MAX_PARTICIPANTS)
    n_control: Whole = Field(ge=2, le=MAX_PARTICIPANTS)


def require_parts_of(n_treated: int, n_control: int, subgroups: Sequence[SubgroupResult]) -> None:
    """Check that every level is there once, and that the levels of a feature hold at most the people of each arm.

    Raises:
        ValueError: naming the feature, and the level or the numbers.
    """
    levels = Counter((group.dimension, level_key(group.level)) for group in subgroups)
    for group in subgroups:
        if levels[group.dimension, level_key(group.level)] > 1:
            raise ValueError(f"subgroup {group.dimension} = {shorten(group.level)} is there more than once")
    for dimension in dict.fromkeys(group.dimension for group in subgroups):
        parts = [group for group in subgroups if group.dimension == dimension]
        for arm, n in (("n_treated", n_treated), ("n_control", n_control)):
            total = sum(getattr(part, arm) for part in parts)
            if total > n:
                raise ValueError(f"subgroups by {dimension} hold {arm} {total:,}, more than the {n:,} of the experiment")
