"""Names of identifiers: the column that names the entity of a row, and columns that only number or name rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from schemas.twin_types import TwinType

__all__ = ["entity_column", "is_named_like_identifier"]

_ENTITY_NAMES: Mapping[TwinType, tuple[str, ...]] = MappingProxyType(
    {
        TwinType.HCP: ("hcpid", "npi", "providerid", "prescriberid", "physicianid", "doctorid", "id"),
        TwinType.PATIENT: ("patientid", "memberid", "id"),
        TwinType.TERRITORY: ("territoryid", "id"),
    }
)
"""Names of the column that names the entity, without case and separators; ``entity_id`` comes before them."""

_LAST_WORDS = frozenset({"id", "ids", "npi", "uuid", "guid", "hash", "identifier", "ssn"})
_NAMES = frozenset({"unnamed0", "index", "idx", "row", "rownumber", "rownum", "rowno", "hcpid", "rowid", "entityid"})


def entity_column(frame: pd.DataFrame, twin_type: TwinType) -> str | None:
    """The column that names the entity of each row; None where the table has none.

    ``entity_id`` is one by declaration. Of several others, such as ``id`` and ``npi``, that with the fewest different values is:
    the rows of one of its values belong together.

    >>> entity_column(pd.DataFrame({"ID": [1, 2], "NPI": [7, 7], "decile": [3, 4]}), TwinType.HCP)
    'NPI'
    """
    by_key = {_key(name): str(name) for name in reversed(list(frame.columns))}
    if "entityid" in by_key:
        return by_key["entityid"]
    present = [by_key[key] for key in _ENTITY_NAMES[twin_type] if key in by_key]
    if twin_type is TwinType.HCP:
        present += [str(name) for name in frame.columns if _words(name)[-1:] == ["npi"] and str(name) not in present]
    counts = dict(frame[present].nunique())
    return min(present, key=lambda name: counts[name]) if present else None


def is_named_like_identifier(name: str) -> bool:
    """Whether a column's name is one of an identifier, such as ``npi``, ``account_id`` or ``Unnamed: 0``.

    >>> [is_named_like_identifier(name) for name in ("accountId", "NPI", "Unnamed: 0", "paid", "price_index")]
    [True, True, True, False, False]
    """
    return _key(name) in _NAMES or (_words(name) or [""])[-1] in _LAST_WORDS


def _words(name: object) -> list[str]:
    """Words of a name in lower case: at separators, and at capitals after small letters."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name)).lower())


def _key(name: object) -> str:
    """A name without case and separators."""
    return "".join(_words(name))
