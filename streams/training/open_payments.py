"""Sums up Open Payments, the general payments of the industry to physicians that CMS publishes, by physician and year.

The file of a year has one row for each payment. Its columns were renamed twice (2016, 2021); all layouts are recognised. It gives
features of contacts and no target. Payments were not randomised: no effect on prescriptions may be claimed from them.

The rows are read in blocks and summed up; what is in memory has a row for each physician and year.

References:
    CMS, Open Payments public use files: methodology overview and data dictionary (2013 to 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from schemas import TwinType
from sql.training_data_store import ENTITY
from streams.tables import Column, DateOrder, Kind, RawTable, TableOptions, TableRefused
from streams.tables.headers import header_key
from streams.tables.regions import other_regions_notes, regions_of_states
from streams.training.imported_table import ImportedTable, features_without_column
from streams.training.part_d import require_hcp, slug
from streams.training.row_blocks import RowBlocks

__all__ = ["is_open_payments", "open_payments_table"]

_TARGET = "prescribing_change"
_KEYS = [ENTITY, "year"]
_MONTHS = 12

_LAYOUT: Mapping[str, tuple[str, ...]] = {
    ENTITY: ("Covered_Recipient_NPI", "Covered_Recipient_Profile_ID", "Physician_NPI", "Physician_Profile_ID"),
    "dollars": ("Total_Amount_of_Payment_USDollars",),
    "date": ("Date_of_Payment",),
    "year": ("Program_Year",),
    "payments": ("Number_of_Payments_Included_in_Total_Amount",),
    "specialty": ("Covered_Recipient_Specialty_1", "Physician_Specialty"),
    "state": ("Recipient_State",),
    "recipient": ("Covered_Recipient_Type",),
    "maker": ("Applicable_Manufacturer_or_Applicable_GPO_Making_Payment_ID",),
}
"""Our names of the columns to those of the layouts; of several that a file has the first is read."""

_OPTIONAL = frozenset({"specialty", "state", "recipient", "maker"})
_KINDS: Mapping[str, Kind] = {
    ENTITY: "id",
    "dollars": "number",
    "date": "time",
    "year": "integer",
    "payments": "integer",
    "specialty": "text",
    "state": "text",
    "recipient": "text",
    "maker": "id",
}
_MARKS = frozenset(map(header_key, ("Total_Amount_of_Payment_USDollars", "Date_of_Payment", "Program_Year")))
_HOSPITAL = "hospital"
_NO_IDS = (
    "no payment to a physician has an id: it is read from the first of the columns "
    f"{', '.join(_LAYOUT[ENTITY])} that the file has; leave out one that is empty, so that the next is read"
)


def is_open_payments(headers: Sequence[str]) -> bool:
    """Whether headers are those of a file of general payments."""
    return set(map(header_key, headers)) >= _MARKS


def open_payments_table(paths: Sequence[Path], twin_type: TwinType, options: TableOptions) -> ImportedTable:
    """Features of each physician and year: payments a month, days from the last one to the end of the year, dollars, makers.

    Args:
        paths: files of general payments, of any years.
        twin_type: must be HCP.
        options: of reading.

    Raises:
        TableRefused: when a needed column is missing, no payment has the id of a physician, or too many rows are bad.
        ValueError: for another twin type.
    """
    require_hcp(twin_type)
    columns = {name: Column(name, kind) for name, kind in _KINDS.items()}
    american = replace(options, date_order=DateOrder.MDY, timezone="UTC")
    blocks = RowBlocks(paths, _headers, columns, american)
    sums: list[pd.DataFrame] = []
    makers = pd.DataFrame(columns=[*_KEYS, "maker"])
    n_left_out = 0
    for frame in blocks.frames():
        physicians = _physicians(frame)
        n_left_out += len(frame) - len(physicians)
        sums = [_added([*sums, _summed(physicians)])]
        if "maker" in physicians:
            makers = pd.concat([makers, physicians[[*_KEYS, "maker"]].dropna()]).drop_duplicates()
    if sums[0].empty:
        raise TableRefused(blocks.summary.name, [_NO_IDS])
    result = _features(sums[0], makers.groupby(_KEYS).size())
    notes = (
        "one row for each physician and year of the program; payments were not randomised, no effect may be claimed from them",
        f"{n_left_out:,} payments to hospitals or without an id of the physician left out",
        f"there is no target: it can serve as features; {_TARGET} of another table is joined by {ENTITY}",
        *(other_regions_notes(sums[0]["state"]) if "state" in sums[0] else []),
    )
    left_out = features_without_column(twin_type, result)
    return ImportedTable(result, _TARGET, "Open Payments by physician and year", left_out, notes, tuple(blocks.summary.remarks()))


def _headers(raw: RawTable) -> dict[str, str]:
    """The header of each of our columns.

    Raises:
        TableRefused: when a needed one is missing.
    """
    by_key = {header_key(header): header for header in raw.headers}
    present = {name: [by_key[key] for key in map(header_key, names) if key in by_key] for name, names in _LAYOUT.items()}
    missing = [" or ".join(_LAYOUT[name]) for name, headers in present.items() if not headers and name not in _OPTIONAL]
    if missing:
        raise TableRefused(raw.name, [f"expected are general payments of Open Payments: missing are {', '.join(missing)}"])
    return {name: headers[0] for name, headers in present.items() if headers}


def _physicians(frame: pd.DataFrame) -> pd.DataFrame:
    is_physician = frame[ENTITY].notna() & frame["date"].notna()
    if "recipient" in frame:
        is_physician &= ~frame["recipient"].fillna("").str.lower().str.contains(_HOSPITAL)
    return frame[is_physician]


def _summed(frame: pd.DataFrame) -> pd.DataFrame:
    """Sums of a block by physician and year; levels are those of the newest payment."""
    levels = [name for name in ("specialty", "state") if name in frame]
    ordered = frame.sort_values("date", kind="stable")
    grouped = ordered.groupby(_KEYS, sort=True)
    sums = grouped.agg(dollars=("dollars", "sum"), payments=("payments", "sum"), date=("date", "max"))
    return sums.assign(**{name: grouped[name].last() for name in levels})


def _added(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if len(parts) == 1:
        return parts[0]
    joined = pd.concat(parts).sort_values("date", kind="stable")
    grouped = joined.groupby(level=_KEYS, sort=True)
    rules: dict[str, Any] = {"dollars": "sum", "payments": "sum", "date": "max", "specialty": "last", "state": "last"}
    return grouped.agg({name: rule for name, rule in rules.items() if name in joined})


def _features(sums: pd.DataFrame, makers: pd.Series[int]) -> pd.DataFrame:
    """A row for each physician and year, given the sums and the number of makers, both by these."""
    table = sums.reset_index()
    year_ends = pd.to_datetime((table["year"].astype("int64") + 1).astype(str) + "-01-01", utc=True)
    columns: dict[str, Any] = {ENTITY: table[ENTITY], "year": table["year"].astype("int64")}
    if "specialty" in table:
        columns["specialty"] = table["specialty"].str.split("|").str[-1].map(slug, na_action="ignore")
    if "state" in table:
        columns["region"] = regions_of_states(table["state"])
    columns["interaction_frequency"] = table["payments"] / _MONTHS
    columns["last_interaction_days"] = np.maximum((year_ends - table["date"]).dt.days, 0)
    columns["payment_dollars"] = table["dollars"]
    if len(makers):
        columns["payment_makers"] = makers.reindex(sums.index, fill_value=0).to_numpy()
    return pd.DataFrame(columns)
