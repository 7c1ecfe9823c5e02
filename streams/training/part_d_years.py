"""The years of Medicare Part D files: their order by the names of the files, and pairs of years as features and target."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import pandas as pd

from sql.training_data_store import ENTITY
from streams.tables import TableRefused

__all__ = ["change_between", "pairs_of_years", "require_order", "year_notes", "year_of"]

_YEAR = re.compile(r"(?<![A-Za-z])DY(\d\d)(?!\d)|(?<!\d)20(\d\d)(?!\d)|PUF_[A-Za-z_]*_(\d\d)(?!\d)", re.IGNORECASE)


def year_of(name: str) -> int | None:
    """The year of the data in the name of a file, in the forms of CMS; None without one.

    >>> year_of("MUP_DPR_RY24_P04_V10_DY13_NPIBN.csv"), year_of("PartD_Prescriber_PUF_NPI_Drug_14.txt"), year_of("claims.csv")
    (2013, 2014, None)
    """
    match = _YEAR.search(name)
    return None if match is None else 2000 + int(next(filter(None, match.groups())))


def require_order(names: Sequence[str]) -> None:
    """Refuse files whose names have their years in the wrong order.

    Raises:
        TableRefused: when a later file is of no later year.
    """
    years = [(year, name) for name in names if (year := year_of(name)) is not None]
    for (before, earlier), (after, later) in pairwise(years):
        if before >= after:
            raise TableRefused(later, [f"its name says {after}, not later than {before} of {earlier}: give the earlier year first"])


def year_notes(names: Sequence[str], target: str) -> list[str]:
    """Notes on pairs of files that are more than a year apart by their names."""
    years = [(year_of(before), year_of(after)) for before, after in pairwise(names)]
    return [
        f"{target} is over {after - before} years, from {before} to {after}"
        for before, after in years
        if before is not None and after is not None and after - before > 1
    ]


def pairs_of_years(years: Sequence[pd.DataFrame], join: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Rows of each year with the change to the next one, one year after the other; an entity of several pairs has several rows."""
    return pd.concat([join(before, after) for before, after in pairwise(years)], ignore_index=True)


def change_between(before: pd.Series[float], after: pd.Series[float]) -> pd.Series[float]:
    """The relative change of volumes by entity; missing where one of the two is missing or the earlier one is 0.

    >>> change_between(pd.Series({"a": 4.0, "b": 0.0}), pd.Series({"a": 5.0})).to_dict()
    {'a': 0.25, 'b': nan}
    """
    return (after.reindex(before.index) / before.where(before > 0) - 1).rename_axis(ENTITY)
