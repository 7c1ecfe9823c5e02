"""Reads tables from files, and converts them to training tables.

The public Medicare Part D prescriber table of two years is recognised by its columns (``<name>_2013``, ``<name>_2014``) and
converted. Any other table needs the target and features of the twin type, and is used as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from schemas import TWIN_TYPES, TwinType
from sql.training_data_store import ENTITY

__all__ = ["ImportedTable", "as_training_table", "read_table", "write_table"]

_PART_D = {"hcp_id", "specialty_2013", "state_2013", "grad_year_2013", "bene_count_2013", "total_claims_2013", "total_claims_2014"}
_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_MAX_SOLO_GROUP_SIZE = 1

_CENSUS_REGIONS = {
    "northeast": "CT ME MA NH RI VT NJ NY PA",
    "midwest": "IL IN MI OH WI IA KS MN MO NE ND SD",
    "south": "DE DC FL GA MD NC SC VA WV AL KY MS TN AR LA OK TX",
    "west": "AZ CO ID MT NV NM UT WY AK CA HI OR WA",
}
REGION_OF_STATE = {state: region for region, states in _CENSUS_REGIONS.items() for state in states.split()}
"""Regions of the US Census Bureau."""


@dataclass(frozen=True)
class ImportedTable:
    """A training table.

    Attributes:
        frame: ``entity_id``, features, target.
        source: kind of the table.
        left_out: features of the twin type that the table has no column for.
        notes: remarks on the data for readers of the results.
    """

    frame: pd.DataFrame
    target: str
    source: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV (also gzipped) or Parquet file.

    Raises:
        ValueError: for another kind of file, or one that cannot be read as the kind that its name has.
        FileNotFoundError: when there is no such file.
    """
    kind = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)
    if kind is None:
        raise ValueError(f"cannot read {path.name!r}: give a file that ends in {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return pd.read_parquet(path) if kind == ".parquet" else pd.read_csv(path, low_memory=False)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise ValueError(f"{path.name!r} cannot be read as {kind.removeprefix('.')}: {error}") from error


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a CSV (also gzipped) or Parquet file, by the ending of its name."""
    if path.name.lower().endswith(".parquet"):
        frame.to_parquet(path, index=False)
    elif path.name.lower().endswith((".csv", ".csv.gz")):
        frame.to_csv(path, index=False)
    else:
        raise ValueError(f"cannot write {path.name!r}: give a name that ends in {', '.join(_SUFFIXES)}")


def as_training_table(table: pd.DataFrame, twin_type: TwinType, target: str | None = None) -> ImportedTable:
    """Convert a table to a training table of features and target.

    Raises:
        ValueError: when the target is missing, or no column is a feature of the twin type.
    """
    if set(table.columns) >= _PART_D:
        if twin_type is not TwinType.HCP:
            raise ValueError(f"a table of prescribers is for hcp twins, not {twin_type} twins")
        return _part_d(table)
    return _any_table(table, twin_type, target)


def _any_table(table: pd.DataFrame, twin_type: TwinType, target: str | None) -> ImportedTable:
    entry = TWIN_TYPES[twin_type]
    target_name = entry.target(target).name
    if target_name not in table:
        raise ValueError(f"the table has no column {target_name!r}, the target: its columns are {', '.join(map(str, table))}")
    if not any(name in table for name in entry.by_name):
        raise ValueError(f"no column is a feature of {twin_type} twins: expected some of {', '.join(entry.by_name)}")
    return ImportedTable(_with_entity_ids(table), target_name, "table of features", _left_out(twin_type, table))


def _with_entity_ids(table: pd.DataFrame) -> pd.DataFrame:
    id_column = next((name for name in (ENTITY, "id", "hcp_id", "patient_id", "territory_id") if name in table), None)
    ids = table[id_column].astype(str) if id_column else pd.Series([f"row-{row}" for row in range(len(table))], index=table.index)
    rest = table.drop(columns=[id_column]) if id_column else table
    return rest.assign(**{ENTITY: ids}).loc[:, [ENTITY, *map(str, rest.columns)]].reset_index(drop=True)


def _part_d(table: pd.DataFrame) -> ImportedTable:
    claims, group = table["total_claims_2013"], table["group_size_2013"]
    decile = _decile(claims)
    frame = pd.DataFrame(
        {
            ENTITY: table["hcp_id"].astype(str),
            "specialty": table["specialty_2013"].map(_slug),
            "years_experience": 2013 - table["grad_year_2013"],
            "practice_type": np.select([group.isna(), group <= _MAX_SOLO_GROUP_SIZE], ["unknown", "solo"], "group"),
            "practice_size": group,
            "region": table["state_2013"].map(REGION_OF_STATE).fillna("other"),
            "decile": decile,
            "priority_tier": 6 - (decile + 1) // 2,
            "total_patient_volume": table["bene_count_2013"],
            "prescribing_change": table["total_claims_2014"] / claims - 1,
        }
    )
    notes = (
        "priority_tier has two deciles per tier; decile is by prescriptions filled in 2013",
        "physicians below the claim threshold in either year are not in the table: entry and exit are not observed",
    )
    return ImportedTable(
        frame, "prescribing_change", "Medicare Part D prescribers, 2013 and 2014", _left_out(TwinType.HCP, frame), notes
    )


def _decile(volume: pd.Series[float]) -> pd.Series[int]:
    return volume.rank(method="average", pct=True).mul(10).apply(np.ceil).clip(1, 10).astype("int64")


def _slug(text: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _left_out(twin_type: TwinType, frame: pd.DataFrame) -> tuple[str, ...]:
    return tuple(name for name in TWIN_TYPES[twin_type].by_name if name not in frame)
