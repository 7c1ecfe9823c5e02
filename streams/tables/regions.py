"""Regions of rows by a column of states or of regions: those that the catalogue declares, else Census regions of US states."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.level_meaning import declared_level
from schemas.levels import level_key
from streams.tables.report import count_of
from streams.tables.us_regions import OTHER_REGION, region_of

__all__ = ["REGION", "other_regions_notes", "regions_as_declared", "regions_of_states", "undeclared_regions_notes"]

REGION = "region"
"""The feature whose levels are declared, unless another one is named."""

_SHOWN = 5


def regions_of_states(states: pd.Series[Any], column: str = REGION) -> pd.Series[Any]:
    """Region of each state, shape ``(n,)``: the level that the catalogue declares it a spelling of, else its Census region.

    A missing state stays missing; what is neither is ``other``, see :func:`other_regions_notes`.

    Args:
        states: as written.
        column: the feature whose levels are declared.
    """
    spellings = catalogue_in_effect().spellings.get(column, {})
    return _by_value(states, lambda text: spellings.get(level_key(text)) or region_of(text))


def regions_as_declared(regions: pd.Series[Any], column: str = REGION) -> pd.Series[Any]:
    """Each region as the declared level that it is in any spelling; as written where none is declared for it."""
    return _by_value(regions, lambda text: declared_level(column, text))


def other_regions_notes(states: pd.Series[Any], column: str = REGION) -> list[str]:
    """Which states have no region, the most frequent first, and how many rows; nothing where each has one."""
    others = states[(regions_of_states(states, column) == OTHER_REGION).to_numpy(dtype=bool, na_value=False)]
    if others.empty:
        return []
    counts = others.astype(str).value_counts()
    shown = ", ".join(f"{text!r} {n:,}" for text, n in counts.iloc[:_SHOWN].items())
    more = f" and {len(counts) - _SHOWN:,} more" if len(counts) > _SHOWN else ""
    return [
        (
            f"{count_of(len(others), 'row')} of {len(states):,} with the {column} {OTHER_REGION}, as no US state and no declared "
            f"spelling: {shown}{more}; own ones are declared in the catalogue under levels: {column}"
        )
    ]


def undeclared_regions_notes(regions: pd.Series[Any], column: str = REGION) -> list[str]:
    """Which regions the catalogue does not declare, the most frequent first; nothing where it declares none at all."""
    spellings = catalogue_in_effect().spellings.get(column)
    if not spellings:
        return []
    counts = regions.dropna().astype(str).value_counts()
    undeclared = {str(text): n for text, n in counts.items() if level_key(str(text)) not in spellings}
    if not undeclared:
        return []
    shown = ", ".join(f"{text!r} {n:,}" for text, n in list(undeclared.items())[:_SHOWN])
    rows = count_of(sum(undeclared.values()), "row")
    return [f"{rows} of {len(regions):,} with a {column} that the catalogue does not declare, as written: {shown}"]


def _by_value(column: pd.Series[Any], meaning: Any) -> pd.Series[Any]:
    """The column with each different value replaced once; missing ones stay."""
    by_value: dict[Hashable, str] = {value: meaning(str(value)) for value in column.dropna().unique()}
    return column.map(by_value)
