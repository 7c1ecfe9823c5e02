"""Turns a claims extract that is long by month into features and a target, by windows that are stated.

The features of an entity are sums over the months to ``as_of``; its target is the change from a month of that window to a month of
the window after it. Nothing of a later month touches a feature: also levels such as the specialty are those of the newest row to
``as_of``, and deciles are by the claims to ``as_of``. A month without a row of an entity counts as no claims; the extract itself
must have rows of every month of both windows.

The rows are read in blocks and summed up; what is in memory has a row for each entity and month.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from schemas import TwinType
from schemas.arrays import Floats, Integers
from schemas.levels import level_key
from sql.training_data_store import ENTITY
from streams.mappings.names import likeness
from streams.tables import Column, DateOrder, Kind, RawTable, TableOptions, TableReading, TableRefused
from streams.tables.headers import header_key
from streams.tables.mapped import cut_values, quantile_cuts
from streams.tables.regions import other_regions_notes, regions_as_declared, regions_of_states, undeclared_regions_notes
from streams.training.imported_table import ImportedTable, features_without_column
from streams.training.part_d import require_hcp
from streams.training.row_blocks import RowBlocks, refuse_rows

__all__ = ["ROLES", "ClaimsWindows", "claims_table", "parse_month"]

_TARGET = "prescribing_change"
_SUPPRESSED = ("*", "#", "<11")
_COMPACTED_ROWS = 1_000_000
"""Rows of levels that are gathered before older ones of an entity are dropped."""

_ALIKE = 0.8
"""Likeness of a header from which it is taken for a role."""

ROLES: Mapping[str, tuple[str, ...]] = {
    ENTITY: ("npi", "prescriber npi", "provider id", "prescriber id", "hcp id", "physician id", "account id", "entity id"),
    "month": ("month", "year month", "claims month", "service month", "month date", "period", "month end"),
    "claims": ("claims", "total claims", "claims count", "total prescriptions", "prescriptions", "prescriptions count"),
    "product": ("product", "brand", "drug", "product brand", "brand product", "brand name", "product name", "drug name"),
    "specialty": ("specialty", "prescriber specialty", "provider type"),
    "state": ("state", "prescriber state", "provider state"),
    "region": ("region", "sales region", "prescriber region", "provider region"),
}
"""Columns of an extract by their usual names; the first three are needed. A region counts more than that of a state."""

_NEEDED = (ENTITY, "month", "claims")
_KINDS: Mapping[str, Kind] = {
    ENTITY: "id",
    "month": "text",
    "claims": "number",
    "product": "text",
    "specialty": "text",
    "state": "text",
    "region": "text",
}
_LEVELS = ("specialty", "state", "region")
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_MONTHS = (
    rf"^\s*{_YEAR}[-/. ]?M?(?P<month>0[1-9]|1[0-2])(?!\d{{3}})",
    rf"^\s*(?P<month>0?[1-9]|1[0-2])[-/. ]{_YEAR}\s*$",
    rf"^\s*(?:\d{{1,2}}[-/. ]?)?(?P<name>[A-Za-z]{{3,9}})[-/. ]*{_YEAR}\s*$",
    rf"^\s*{_YEAR}[-/. ]*(?P<name>[A-Za-z]{{3,9}})\s*$",
    r"^\s*(?P<name>[A-Za-z]{3,9})[-/. ']*(?P<short_year>\d\d)\s*$",
)
_DATE = rf"^\s*(?P<first>\d{{1,2}})[-/.](?P<second>\d{{1,2}})[-/.]{_YEAR}(?!\d)"
_NAMES = {
    form: number for number in range(1, 13) for form in (calendar.month_name[number].lower(), calendar.month_abbr[number].lower())
} | {"sept": 9}
_NO_MONTH, _NO_ORDER = "is no month such as 2024-12", "may be read in two ways: say which part is the month with --date-order"


@dataclass(frozen=True)
class ClaimsWindows:
    """Months that features and target are of.

    Attributes:
        as_of: last month of the features, as months since year 0 (12 times the year plus the month, less 1).
        months: number of months of the features.
        then: number of months of the target, which follow.
        product: only claims of it make the target; None for all.
    """

    as_of: int
    months: int = 12
    then: int = 12
    product: str | None = None

    def __post_init__(self) -> None:
        """Check the lengths.

        Raises:
            ValueError: for a window without a month.
        """
        if min(self.months, self.then) < 1:
            raise ValueError(f"a window has at least 1 month, not {min(self.months, self.then)}")

    @property
    def first(self) -> int:
        """First month of the features."""
        return self.as_of - self.months + 1

    @property
    def last(self) -> int:
        """Last month of the target."""
        return self.as_of + self.then

    def __str__(self) -> str:
        product = f" of {self.product}" if self.product else ""
        return (
            f"features of {_month_text(self.first)} to {_month_text(self.as_of)}, target: claims{product} a month of "
            f"{_month_text(self.as_of + 1)} to {_month_text(self.last)} against these, less 1"
        )


def parse_month(text: str) -> int:
    """A month as months since year 0.

    Raises:
        ValueError: for another form than ``2024-12`` or ``202412``.

    >>> parse_month("2024-12") - parse_month("202401")
    11
    """
    month = _parse_months(pd.Series([text]))[0]
    if np.isnan(month):
        raise ValueError(f"{text!r} is no month: write it as 2024-12")
    return int(month)


def _month_text(month: int) -> str:
    return f"{month // 12}-{month % 12 + 1:02}"


def _parse_months(column: pd.Series[Any], order: DateOrder | None = None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Months since year 0, NaN for what is no month, shape ``(n,)``; dates are in ``order``, or in that which they show."""
    texts = pd.Series(column.unique(), dtype="str")
    months = _months_of_dates(texts, order)
    for pattern in _MONTHS:
        parts = texts.str.extract(pattern)
        number = parts["name"].str.lower().map(_NAMES) if "name" in parts else parts["month"].astype(float)
        year = parts["short_year"].astype(float) + 2000 if "short_year" in parts else parts["year"].astype(float)
        months = months.fillna(year * 12 + number - 1)
    return column.map(dict(zip(texts, months, strict=True))).to_numpy(dtype=float)


def _months_of_dates(texts: pd.Series[str], order: DateOrder | None) -> pd.Series[float]:
    """Months of dates such as 31.12.2024, NaN elsewhere, and where nothing shows which part is the month."""
    parts = texts.str.extract(_DATE).astype(float)
    first, second = (parts[name].where((parts["first"] <= 31) & (parts["second"] <= 31)) for name in ("first", "second"))
    visible = {(True, False): DateOrder.DMY, (False, True): DateOrder.MDY}.get(
        (bool((first > 12).any()), bool((second > 12).any()))
    )
    number = {DateOrder.DMY: second, DateOrder.MDY: first}.get(order or visible or DateOrder.YMD, second * np.nan)
    return parts["year"] * 12 + number.where(number.between(1, 12)) - 1


def claims_table(
    paths: Sequence[Path],
    windows: ClaimsWindows,
    twin_type: TwinType,
    options: TableOptions,
    named: Mapping[str, str] | None = None,
) -> ImportedTable:
    """Features and target of each entity with claims in the window of the features.

    Args:
        paths: files of one extract.
        windows: of features and target.
        twin_type: must be HCP.
        options: of reading.
        named: headers by role, where the usual names do not tell them.

    Raises:
        TableRefused: when a column or a month of the windows is missing, or too many rows are bad.
        ValueError: for another twin type, an unknown role, or no entity with claims before and after.
    """
    require_hcp(twin_type)
    columns = {role: Column(role, kind) for role, kind in _KINDS.items()}
    with_marks = replace(options, missing=(*options.missing, *_SUPPRESSED))
    blocks = RowBlocks(
        paths, lambda raw: _headers(raw, named or {}, windows), columns, with_marks, partial(_with_months, options.date_order)
    )
    sums, levels, counts = _summed(blocks, windows)
    _require_months(counts["months"], windows, blocks.summary.name)
    frame = _features(sums, levels, windows)
    notes = [
        str(windows),
        "a month without a row of an entity counts as no claims",
        *_count_notes(frame, counts),
        *([f"columns that are not used: {', '.join(blocks.unused)}"] if blocks.unused else []),
        *_region_notes(levels, frame),
    ]
    if not frame[_TARGET].notna().any():
        raise ValueError(f"{blocks.summary.name}: no entity has claims in the window of the features: {windows}")
    remarks = tuple(blocks.summary.remarks())
    return ImportedTable(frame, _TARGET, "claims by month", features_without_column(twin_type, frame), tuple(notes), remarks)


def _headers(raw: RawTable, named: Mapping[str, str], windows: ClaimsWindows) -> dict[str, str]:
    """The header of each role; the product has one where the windows name a product.

    Raises:
        TableRefused: when one that is needed is absent, or two headers are as likely.
    """
    headers: dict[str, str] = {}
    by_key = {header_key(header): header for header in raw.headers}
    for role, names in ROLES.items():
        if role in named:
            header = by_key.get(header_key(named[role]))
            if header is None:
                raise TableRefused(raw.name, [f"it has no column {named[role]!r}: its columns are {', '.join(raw.headers)}"])
            headers[role] = header
            continue
        scores = {header: likeness(header, names)[0] for header in raw.headers if header not in named.values()}
        likely = [header for header, score in scores.items() if score >= max(_ALIKE, *scores.values())]
        if len(likely) > 1:
            raise TableRefused(raw.name, [f"{role} may be {' or '.join(map(repr, likely))}: say it with --map COLUMN={role}"])
        if likely:
            headers[role] = likely[0]
    needed = (*_NEEDED, *(("product",) if windows.product else ()))
    missing = [role for role in needed if role not in headers]
    if missing:
        answers = " ".join(f"--map COLUMN={role}" for role in missing)
        columns = ", ".join(raw.headers)
        raise TableRefused(
            raw.name, [f"no column is like {', '.join(missing)}: say which with {answers}; its columns are {columns}"]
        )
    return {role: header for role, header in headers.items() if role != "product" or windows.product}


def _with_months(order: DateOrder | None, reading: TableReading) -> TableReading:
    """The reading with months as numbers; rows without one are bad."""
    texts = reading.frame["month"]
    months = _parse_months(texts, order)
    bad = np.isnan(months)
    usable_months = months[~bad].astype(np.int64)
    checked = refuse_rows(reading, bad, "month", texts, _NO_ORDER if texts[bad].str.match(_DATE).any() else _NO_MONTH)
    return replace(checked, frame=checked.frame.assign(month=usable_months))


class _Sums:
    """Claims of each entity and month of the windows, all and of the product."""

    def __init__(self, windows: ClaimsWindows) -> None:
        self.windows = windows
        self.n_months = windows.last - windows.first + 1
        self.entities = pd.Index([], dtype="str")
        self.claims: Floats = np.zeros((0, self.n_months))
        self.product_claims: Floats = np.zeros((0, self.n_months))

    def add(self, frame: pd.DataFrame) -> None:
        """Add rows with an id, of months in the windows."""
        codes, ids = pd.factorize(frame[ENTITY])
        unseen = ids[~pd.Index(ids).isin(self.entities)]
        self.entities = self.entities.append(pd.Index(unseen, dtype="str"))
        places = self.entities.get_indexer(pd.Index(ids))[codes] * self.n_months + (frame["month"].to_numpy() - self.windows.first)
        claims = frame["claims"].fillna(0.0).to_numpy(dtype=float)
        product_claims = np.where(_is_product(frame, self.windows), claims, 0.0)
        self.claims = self._grown(self.claims, places, claims)
        self.product_claims = self._grown(self.product_claims, places, product_claims)

    def _grown(self, sums: Floats, places: Integers, claims: Floats) -> Floats:
        size = len(self.entities) * self.n_months
        added: Floats = np.bincount(places, weights=claims, minlength=size).astype(np.float64).reshape(-1, self.n_months)
        added[: len(sums)] += sums
        return added


class _NewestLevels:
    """The levels of each entity in its newest row; of several in one month those that come first in the order of texts."""

    def __init__(self) -> None:
        self.parts: list[pd.DataFrame] = []
        self.size = 0

    def add(self, frame: pd.DataFrame) -> None:
        """Add rows; older ones of an entity are dropped when they are many."""
        self.parts.append(self._newest(frame[[ENTITY, "month", *(name for name in _LEVELS if name in frame)]]))
        if sum(map(len, self.parts)) > 2 * self.size + _COMPACTED_ROWS:
            self.parts = [self.result()]
            self.size = len(self.parts[0])

    def result(self) -> pd.DataFrame:
        """One row for each entity."""
        return self._newest(pd.concat(self.parts))

    @staticmethod
    def _newest(rows: pd.DataFrame) -> pd.DataFrame:
        names = [name for name in rows if name in _LEVELS]
        distinct = rows.drop_duplicates()
        ordered = distinct.sort_values(["month", *names], ascending=[False, *[True] * len(names)], kind="stable")
        return ordered.drop_duplicates(ENTITY)


def _summed(blocks: RowBlocks, windows: ClaimsWindows) -> tuple[_Sums, pd.DataFrame, dict[str, Any]]:
    """Claims of each entity and month, the newest levels to ``as_of``, and counts of rows."""
    sums, levels = _Sums(windows), _NewestLevels()
    counts: dict[str, Any] = {"months": set(), "missing": 0, "outside": 0}
    for frame in blocks.frames():
        counts["months"] |= set(frame["month"].unique().tolist())
        inside = frame[frame["month"].between(windows.first, windows.last) & frame[ENTITY].notna()]
        counts["outside"] += len(frame) - len(inside)
        counts["missing"] += int(inside["claims"].isna().sum())
        sums.add(inside)
        levels.add(inside[inside["month"] <= windows.as_of])
    return sums, levels.result(), counts


def _is_product(frame: pd.DataFrame, windows: ClaimsWindows) -> pd.Series[bool]:
    if windows.product is None:
        return pd.Series(True, index=frame.index)
    return frame["product"].map(level_key, na_action="ignore") == level_key(windows.product)


def _require_months(months: set[int], windows: ClaimsWindows, name: str) -> None:
    absent = [_month_text(month) for month in range(windows.first, windows.last + 1) if month not in months]
    if absent:
        shown = ", ".join(absent[:6]) + (" ..." if len(absent) > 6 else "")
        span = f"it has {_month_text(min(months))} to {_month_text(max(months))}" if months else "it has no rows"
        raise TableRefused(name, [f"the windows need every month ({windows}): there is no row of {shown}; {span}"])


def _features(sums: _Sums, levels: pd.DataFrame, windows: ClaimsWindows) -> pd.DataFrame:
    """One row for each entity with claims in the window of the features, in the order of their ids."""
    before, n = sums.claims[:, : windows.months], windows.months
    rows = np.flatnonzero(before.sum(axis=1) > 0)
    rows = rows[np.argsort(sums.entities[rows].to_numpy(dtype=str), kind="stable")]
    before, product = before[rows], sums.product_claims[rows]
    volume, product_before, product_after = before.sum(axis=1), product[:, :n].sum(axis=1), product[:, n:].sum(axis=1)
    decile = cut_values(volume, quantile_cuts(pd.Series(volume), 10)).astype(np.int64)
    late = n // 2
    with np.errstate(divide="ignore", invalid="ignore"):
        change = (product_after / windows.then) / np.where(product_before > 0, product_before / n, np.nan) - 1
    frame = pd.DataFrame(
        {
            "decile": decile,
            "priority_tier": 6 - (decile + 1) // 2,
            "claims_a_month": volume / n,
            "claims_in_late_half": before[:, n - late :].sum(axis=1) / volume - late / n,
            "active_months": (before > 0).sum(axis=1),
            **({"product_share": product_before / volume} if windows.product else {}),
            _TARGET: change,
        },
        index=pd.Index(sums.entities[rows], name=ENTITY),
    )
    return _with_levels(frame, levels).reset_index()


def _with_levels(frame: pd.DataFrame, levels: pd.DataFrame) -> pd.DataFrame:
    by_entity = levels.set_index(ENTITY).reindex(frame.index)
    columns = {}
    if "specialty" in by_entity:
        columns["specialty"] = by_entity["specialty"]
    if "region" in by_entity:
        columns["region"] = regions_as_declared(by_entity["region"])
    elif "state" in by_entity:
        columns["region"] = regions_of_states(by_entity["state"])
    return pd.concat([pd.DataFrame(columns, index=frame.index), frame], axis=1)


def _region_notes(levels: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """Which regions of the entities are not as the catalogue or the Census has them."""
    rows = levels[levels[ENTITY].isin(frame[ENTITY])]
    if "region" in rows:
        return undeclared_regions_notes(rows["region"])
    return other_regions_notes(rows["state"]) if "state" in rows else []


def _count_notes(frame: pd.DataFrame, counts: Mapping[str, Any]) -> list[str]:
    without = int(frame[_TARGET].isna().sum())
    texts = {
        "rows outside of the windows or without an id, left out": counts["outside"],
        "rows without a count (missing or suppressed), not in the sums": counts["missing"],
        "entities without claims of the product in the window of the features, which have no target": without,
    }
    return [f"{n:,} {text}" for text, n in texts.items() if n]
