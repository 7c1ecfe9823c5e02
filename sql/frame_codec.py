"""A population's frame as rows that Postgres keeps, and back: values, dtypes and order are the same again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from schemas.twin_models import BEHAVIOUR, LOWER, UPPER, TwinPopulation

__all__ = ["columns_of", "features_as_json", "floats", "frame_from", "own_columns"]


def own_columns(target: str) -> dict[str, str]:
    """Columns of a frame that are columns of ``digital_twins`` too: the database's name of each."""
    return {target: "outcome", BEHAVIOUR: "baseline_behavior", LOWER: "baseline_lower", UPPER: "baseline_upper"}


def columns_of(population: TwinPopulation) -> list[dict[str, Any]]:
    """Names and dtypes of the frame, in order.

    Raises:
        ValueError: for a column that is neither a feature nor one of the four of every population.
    """
    frame = population.frame
    known = {*population.features, *own_columns(population.model.target)}
    unknown = [str(name) for name in frame if name not in known]
    if unknown:
        raise ValueError(f"a population has no column {', '.join(unknown)}: use {', '.join(sorted(known))}")
    return [{"name": str(name), **_dtype(frame[name])} for name in frame]


def features_as_json(frame: pd.DataFrame, features: Sequence[str]) -> str:
    """A JSON array with one object of features a row; a missing value is null."""
    columns = [_values(frame[name]) for name in features]
    rows = [dict(zip(features, row, strict=True)) for row in zip(*columns, strict=True)] if columns else [{}] * len(frame)
    return json.dumps(rows, allow_nan=False, default=_plain)


def floats(frame: pd.DataFrame, name: str) -> list[float | None]:
    """A numeric column with null for missing; all null where the frame lacks it."""
    return _values(frame[name].astype("float64")) if name in frame else [None] * len(frame)


def frame_from(columns: Iterable[Mapping[str, Any]], features: Iterable[str], kept: Mapping[str, list[Any]]) -> pd.DataFrame:
    """The frame again.

    Args:
        columns: what :func:`columns_of` said.
        features: each row's features as JSON text.
        kept: values of the other columns, by their name in the frame.
    """
    rows = json.loads(f"[{','.join(features)}]")
    found = {
        column["name"]: _series(kept[column["name"]] if column["name"] in kept else [row[column["name"]] for row in rows], column)
        for column in columns
    }
    return pd.DataFrame(found, index=pd.RangeIndex(len(rows)))


def _dtype(column: pd.Series[Any]) -> dict[str, Any]:
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return {"dtype": str(column.dtype)}
    categories = column.dtype.categories
    return {
        "dtype": "category",
        "categories": categories.tolist(),
        "categories_dtype": str(categories.dtype),
        "ordered": bool(column.dtype.ordered),
    }


def _series(values: list[Any], column: Mapping[str, Any]) -> pd.Series[Any]:
    data: Any = values
    if column["dtype"] == "category":
        categories = pd.Index(column["categories"], dtype=_known(column["categories_dtype"]))
        data = pd.Categorical(values, categories=categories, ordered=column["ordered"])
    series: pd.Series[Any] = pd.Series(data, dtype=None if column["dtype"] == "category" else _known(column["dtype"]))
    return series


def _known(dtype: str) -> Any:
    """The dtype itself, but text as this pandas keeps it: ``str`` is of version 3, version 2 has objects."""
    return pd.Series(["text"]).dtype if dtype == "str" else dtype


def _values(column: pd.Series[Any]) -> list[Any]:
    missing = column.isna().to_numpy(dtype=bool)
    values = column.tolist()
    return [None if gone else value for value, gone in zip(values, missing, strict=True)] if missing.any() else values


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a feature cannot be a {type(value).__name__}: {value!r}")
