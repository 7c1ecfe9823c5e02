"""What to doubt about the levels that a result of an experiment names: those that nobody declares or has, and repeated ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from schemas import ExperimentResult, Reach
from schemas.base import shorten
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.filters import conditions
from schemas.interventions import MODERATORS
from schemas.level_meaning import ALIKE, level_hint, meaning_key
from schemas.levels import level_key

__all__ = ["level_warnings"]

_MOST_NEAR, _NEAR = 3, 0.5  # spellings of another language are as near as this


def level_warnings(experiment: ExperimentResult, reach: Reach | None) -> Iterator[str]:
    """Warnings about the levels of an experiment's subgroups and filters, a sentence each; it is taken all the same.

    Args:
        experiment: to doubt.
        reach: of it, with the subgroups that twins of its line belong to; None where there are no such twins.
    """
    spelled: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for group in experiment.subgroups:
        spelled[group.dimension, meaning_key(group.dimension, group.level)].append(group.level)
    for (dimension, key), texts in spelled.items():
        if problem := _unknown(dimension, key, reach, experiment.line):
            yield f"subgroup {dimension} = {shorten(texts[0])} {problem}; it counts as a level of its own"
        if len(texts) > 1:
            yield f"subgroups {dimension} = {', '.join(map(shorten, texts))} are one level: they count together"
    if reach is None:  # else twins satisfy the filters
        yield from _of_filters(experiment)


def _of_filters(experiment: ExperimentResult) -> Iterator[str]:
    members = (condition for condition in conditions(experiment.twin_type, experiment.filters) if condition.operator == "in")
    for column, value in ((condition.column, value) for condition in members for value in condition.values):
        if isinstance(value, str) and (problem := _unknown(column, meaning_key(column, value), None, experiment.line)):
            yield f"filter {column} = {shorten(value)} {problem}"


def _unknown(column: str, key: str, reach: Reach | None, line: str) -> str | None:
    """Why a level may be a slip of the pen; None where it is declared, where twins have it, and where no other one is known."""
    by_key = catalogue_in_effect().spellings.get(column, {})
    of_twins = [group.level for group in (reach.groups if reach else ()) if group.dimension == column]
    if key in by_key or key in {meaning_key(column, level) for level in of_twins}:
        return None
    listed = [level for moderator in MODERATORS if moderator.column == column for level in moderator.levels]
    declared = catalogue_in_effect().levels.get(column, {})
    hint = level_hint(key, [*declared, *of_twins], [*by_key, *listed])
    if hint.startswith(ALIKE):
        return f"is no level that is declared or that twins have: {hint}"
    hint = _nearest(key, by_key) or hint
    if of_twins:
        return f"is of no twin of {line}: {hint}"
    where = "declared" if reach is None else "declared or that twins have"
    return f"is no level that is {where}: {hint}, or declare it under levels.{column}" if declared else None


def _nearest(key: str, by_key: Mapping[str, str]) -> str:
    """The declared levels that are nearest to a text by one of their spellings; empty where none is near."""
    near = {by_key[spelling]: spelling for spelling in reversed(get_close_matches(key, by_key, n=_MOST_NEAR, cutoff=_NEAR))}
    names = [level if level_key(level) == spelling else f"{level} ({spelling})" for level, spelling in reversed(near.items())]
    return f"nearest {'is' if len(names) == 1 else 'are'} {', '.join(names)}" if names else ""
