"""Converts a population's frame to database rows and back; values, dtypes and order are the same again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from schemas.twin_models import BEHAVIOUR, LOWER, UPPER, TwinPopulation

__all__ = ["columns_of", "features_as_json", "floats", "frame_from", "own_columns"]


def own_columns(target: str) -> dict[str, str]:
    """Columns of a frame that have a column of ``digital_twins``, each with the name of that column."""
    return {target: "outcome", BEHAVIOUR: "baseline_behavior", LOWER: "baseline_lower", UPPER: "baseline_upper"}


def columns_of(population: TwinPopulation) -> list[dict[str, Any]]:
    """Names and dtypes of the frame's columns, in order.

    Raises:
        ValueError: for a column that is neither a feature nor one of the four of every population.
    """
    frame = population.frame
    allowed = {*population.features, *own_columns(population.target)}
    unknown = [str(name) for name in frame if name not in allowed]
    if unknown:
        raise ValueError(f"a population has no column {', '.join(unknown)}: use {', '.join(sorted(allowed))}")
    return [{"name": str(name), **_dtype(frame[name])} for name in frame]


def features_as_json(frame: pd.DataFrame, features: Sequence[str]) -> str:
    """A JSON array with one object of features per row; a missing value is null."""
    columns = [_values(frame[name]) for name in features]
    rows = [dict(zip(features, row, strict=True)) for row in zip(*columns, strict=True)] if columns else [{}] * len(frame)
    return json.dumps(rows, allow_nan=False, default=_plain)


def floats(frame: pd.DataFrame, name: str) -> list[float | None]:
    """A numeric column with None for missing values; all None when the frame has no such column."""
    return _values(frame[name].astype("float64")) if name in frame else [None] * len(frame)


def frame_from(columns: Iterable[Mapping[str, Any]], features: Iterable[str], own: Mapping[str, list[Any]]) -> pd.DataFrame:
    """The frame from database rows.

    Args:
        columns: result of :func:`columns_of`.
        features: each row's features as JSON text.
        own: values of the columns of :func:`own_columns`, by their name in the frame.
    """
    rows = json.loads(f"[{','.join(features)}]")
    series = {
        column["name"]: _series(own[column["name"]] if column["name"] in own else [row[column["name"]] for row in rows], column)
        for column in columns
    }
    return pd.DataFrame(series, index=pd.RangeIndex(len(rows)))


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
        categories = pd.Index(column["categories"], dtype=_installed_dtype(column["categories_dtype"]))
        data = pd.Categorical(values, categories=categories, ordered=column["ordered"])
    series: pd.Series[Any] = pd.Series(data, dtype=None if column["dtype"] == "category" else _installed_dtype(column["dtype"]))
    return series


def _installed_dtype(dtype: str) -> Any:
    """The dtype by its name; text has the dtype of the installed pandas: ``str`` in version 3, ``object`` in version 2."""
    return pd.Series(["text"]).dtype if dtype == "str" else dtype


def _values(column: pd.Series[Any]) -> list[Any]:
    missing = column.isna().to_numpy(dtype=bool)
    values = column.tolist()
    return [None if is_missing else value for value, is_missing in zip(values, missing, strict=True)] if missing.any() else values


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a feature cannot be a {type(value).__name__}: {value!r}")
