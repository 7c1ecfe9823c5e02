"""Tell identifiers from features: columns that only number or name rows and entities.

An identifier teaches a model nothing that holds for other rows, and a forest splits on it all the same. A column that the catalogue
declares is never taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kstest

from schemas.arrays import Floats
from schemas.identifiers import is_named_like_identifier
from schemas.twin_types import TWIN_TYPES, TwinType

__all__ = ["identifier_columns"]

_HASH = re.compile(r"[0-9a-fA-F]{16,}|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_FEW_LEVELS = 50  # codes of no more levels are a category, whatever they look like
_NEARLY_ALL = 0.95
_DENSE = 1.1  # the range of numbers that count rows, in their number
_CODE_DIGITS = 6  # fewest digits of unique numbers of one length that are codes
_UNIFORM_P = 0.01


def identifier_columns(frame: pd.DataFrame, names: Iterable[str], twin_type: TwinType, n_entities: int) -> dict[str, str]:
    """Identifiers among the columns ``names``, each with the reason.

    Args:
        frame: rows that a model is trained on.
        names: columns to look at; those that the catalogue declares are left out.
        twin_type: of the rows.
        n_entities: number of different entities in the rows.

    Example:
        >>> frame = pd.DataFrame({"npi": [1003000126, 1003000142], "batch": [1, 2], "sales": [8.5, 9.25], "decile": [1, 2]})
        >>> identifier_columns(frame, frame.columns, TwinType.HCP, 2)
        {'npi': 'named like one', 'batch': 'numbered in sequence'}
    """
    declared = TWIN_TYPES[twin_type].by_name
    reasons = {name: _reason(name, frame[name], n_entities) for name in map(str, names) if name not in declared}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _reason(name: str, column: pd.Series[Any], n_entities: int) -> str | None:
    if is_named_like_identifier(name):
        return "named like one"
    values = column.dropna()
    content = pd.api.types.infer_dtype(values)
    if content in {"integer", "floating", "mixed-integer-float", "decimal"}:
        numbers = values.to_numpy(dtype=np.float64)
        return _reason_of_numbers(numbers, n_entities) if np.isfinite(numbers).all() and not (numbers % 1).any() else None
    return _reason_of_texts(values, n_entities)


def _reason_of_texts(values: pd.Series[Any], n_entities: int) -> str | None:
    levels = values.drop_duplicates()
    texts = [level for level in levels if isinstance(level, str)]
    if not texts or len(texts) < len(levels):
        return None
    if len(levels) > _FEW_LEVELS and sum(_HASH.fullmatch(text) is not None for text in texts) >= _NEARLY_ALL * len(texts):
        return "hashes"
    if len(levels) > _FEW_LEVELS and len(levels) >= _NEARLY_ALL * min(n_entities, len(values)):
        return "a value of its own for every entity"
    return None


def _reason_of_numbers(values: Floats, n_entities: int) -> str | None:
    """Whole numbers that differ for every row or entity are identifiers where they are in sequence, or spread as no measure is."""
    levels = np.unique(values)
    if len(levels) < 2 or len(levels) < _NEARLY_ALL * min(n_entities, len(values)):
        return None
    span = float(levels[-1] - levels[0])
    if span + 1 <= _DENSE * len(levels):
        return "numbered in sequence"
    if len(levels) <= _FEW_LEVELS or len(levels) < min(n_entities, len(values)):
        return None
    digits = np.floor(np.log10(np.maximum(np.abs(levels[[0, -1]]), 1))) + 1
    is_code = digits[0] == digits[1] >= _CODE_DIGITS and levels[0] > 0
    if is_code or kstest((levels - levels[0]) / span, "uniform").pvalue > _UNIFORM_P:
        return "a number of its own for every entity"
    return None
