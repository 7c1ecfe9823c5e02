"""Sums up the files of Medicare Part D by drug: "by Provider and Drug" to providers, "by Geography and Drug" to states.

A file has a row for each drug of each provider or state in one year. CMS renamed the columns in 2021; both layouts are recognised.
A product is one brand or generic name; the market is what a share is of: the product with the named others, or every drug of the
file. Features are of the earlier year of two files, the target is of the later one, and which rows there are follows from the
earlier one alone.

CMS leaves out a provider's drugs with fewer than 11 claims. So a product that has no row is not 0 claims: a provider without it in
one of the years has no target. In the files by state suppressed counts are missing.

The rows are read in blocks and summed up; what is in memory has a row for each provider and year.

References:
    CMS, Medicare Part D Prescribers by Provider and Drug; by Geography and Drug: data dictionaries (2013 to 2019; since 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from schemas import TwinType
from schemas.arrays import Flags
from sql.training_data_store import ENTITY
from streams.tables import Column, Kind, RawTable, TableOptions, TableReading, TableRefused
from streams.tables.headers import header_key
from streams.tables.regions import other_regions_notes, regions_of_states
from streams.training.imported_table import ImportedTable, features_without_column
from streams.training.part_d import count_text, decile_of, slug, tier_of
from streams.training.part_d_years import change_between, pairs_of_years, require_order, year_notes
from streams.training.row_blocks import RowBlocks, refuse_rows

__all__ = ["DrugChoice", "drug_dataset", "drug_table"]

_SUPPRESSED = ("*", "#")
_COMPACTED_ROWS = 500_000
"""Rows of sums that are gathered before those of an entity are added up."""

_DRUG_NAMES: Mapping[str, tuple[str, ...]] = {"brand": ("Brnd_Name", "drug_name"), "generic": ("Gnrc_Name", "generic_name")}
_CLAIMS = ("Tot_Clms", "total_claim_count")
_PATIENTS = ("Tot_Benes", "bene_count")
_KINDS: Mapping[str, Kind] = {
    ENTITY: "id",
    "level": "text",
    "state": "text",
    "specialty": "text",
    "brand": "text",
    "generic": "text",
    "claims": "number",
    "patients": "number",
    "prescribers": "number",
}


class _Dataset(NamedTuple):
    """One of the two files by drug.

    Attributes:
        name: of CMS.
        twin_type: of its entities.
        target: of its lines.
        needed, optional: our names of its columns to those of the layouts, since 2021 and before.
    """

    name: str
    twin_type: TwinType
    target: str
    needed: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]]


_BY_PROVIDER = _Dataset(
    "by provider and drug",
    TwinType.HCP,
    "prescribing_change",
    {ENTITY: ("Prscrbr_NPI", "npi"), **_DRUG_NAMES, "claims": _CLAIMS},
    {
        "specialty": ("Prscrbr_Type", "specialty_description"),
        "state": ("Prscrbr_State_Abrvtn", "nppes_provider_state"),
        "patients": _PATIENTS,
    },
)
_BY_GEOGRAPHY = _Dataset(
    "by geography and drug",
    TwinType.TERRITORY,
    "market_share_change",
    {ENTITY: ("Prscrbr_Geo_Desc", "nppes_provider_state"), **_DRUG_NAMES, "claims": _CLAIMS},
    {
        "level": ("Prscrbr_Geo_Lvl",),
        "patients": _PATIENTS,
        "prescribers": ("Tot_Prscrbrs", "number_of_prescribers"),
    },
)


@dataclass(frozen=True)
class DrugChoice:
    """Which drugs make target and shares.

    Attributes:
        product: brand or generic name whose claims make the target; None for all drugs.
        market: brand or generic names that the product competes with; with none, every drug of the file.
    """

    product: str | None = None
    market: tuple[str, ...] = ()

    def __str__(self) -> str:
        market = f"{', '.join((self.product or '', *self.market))}" if self.market else "every drug of the file"
        return f"claims of {self.product or 'every drug of the file'}, market: {market}"


@dataclass
class _Names:
    """Names of drugs, of which those that were asked for must appear."""

    choice: DrugChoice
    texts: dict[str, str] = field(default_factory=dict)

    def matches(self, frame: pd.DataFrame, names: Sequence[str]) -> Flags:
        """Whether the brand or the generic name of each row is one of some names, shape ``(n,)``."""
        keys = set(map(slug, names))
        is_named: Flags = np.zeros(len(frame), dtype=np.bool_)
        for column in ("brand", "generic"):
            by_text = {text: slug(text) for text in frame[column].unique() if isinstance(text, str)}
            self.texts |= {key: text for text, key in by_text.items() if key not in self.texts}
            is_named |= frame[column].isin([text for text, key in by_text.items() if key in keys]).to_numpy()
        return is_named

    def require(self, file: str) -> None:
        """Refuse a name that no row has.

        Raises:
            TableRefused: with the names that are most alike.
        """
        for name in filter(None, (self.choice.product, *self.choice.market)):
            if slug(name) not in self.texts:
                alike = [self.texts[key] for key in get_close_matches(slug(name), self.texts, 3, 0.5)]
                hint = f": did you mean {', '.join(alike)}?" if alike else ""
                raise TableRefused(file, [f"no drug has the brand or generic name {name!r}{hint}"])


def drug_dataset(headers: Sequence[str]) -> str | None:
    """Which of the files by drug has these headers; None for another file.

    >>> drug_dataset(["NPI", "drug_name", "generic_name", "total_claim_count"])
    'by provider and drug'
    """
    dataset = _dataset_of(headers)
    return None if dataset is None else dataset.name


def _dataset_of(headers: Sequence[str]) -> _Dataset | None:
    keys = set(map(header_key, headers))
    fitting = (dataset for dataset in (_BY_PROVIDER, _BY_GEOGRAPHY) if _has_all(keys, dataset))
    return next(fitting, None)


def _has_all(keys: set[str], dataset: _Dataset) -> bool:
    return all(keys & set(map(header_key, names)) for names in dataset.needed.values())


def drug_table(
    paths: Sequence[Path], headers: Sequence[Sequence[str]], choice: DrugChoice, twin_type: TwinType, options: TableOptions
) -> ImportedTable:
    """Features of each year but the last, and the change to the next one; of a single year features only.

    Args:
        paths: files of one of the two kinds, one for each year, the earliest first.
        headers: of each file.
        choice: of drugs.
        twin_type: HCP for files by provider, TERRITORY for files by geography.
        options: of reading.

    Raises:
        TableRefused: for files of different kinds, years in the wrong order, a name that no drug has, and too many bad rows.
        ValueError: for another twin type, and for territories without a product.
    """
    dataset = _one_dataset(paths, headers)
    if twin_type is not dataset.twin_type:
        raise ValueError(
            f"Medicare Part D {dataset.name} is for {dataset.twin_type} twins, not {twin_type} twins "
            f"(--twin-type {dataset.twin_type})"
        )
    if dataset is _BY_GEOGRAPHY and choice.product is None:
        raise ValueError(f"{dataset.target} is of one product: name it with --product, and what it competes with with --market")
    require_order([path.name for path in paths])
    remarks: list[str] = []
    years = [_sums_of_year(path, dataset, choice, options, remarks) for path in paths]
    features = _provider_features if dataset is _BY_PROVIDER else _state_features
    notes = [f"{choice}; features are of the year of the file, the target is of the next file"]
    if len(years) == 1:
        frame = features(years[0], choice)
        notes.append(f"one year has no target: it can serve as features; a second file of a later year gives {dataset.target}")
    else:
        frame = pairs_of_years(years, lambda before, after: _with_target(features(before, choice), before, after, dataset, choice))
        notes += [*_target_notes(frame, dataset), *year_notes([path.name for path in paths], dataset.target)]
    title = f"Medicare Part D {dataset.name}, {count_text(len(years))}"
    return ImportedTable(frame, dataset.target, title, features_without_column(twin_type, frame), tuple(notes), tuple(remarks))


def _one_dataset(paths: Sequence[Path], headers: Sequence[Sequence[str]]) -> _Dataset:
    datasets = [_dataset_of(names) for names in headers]
    first = next(dataset for dataset in datasets if dataset is not None)
    for path, dataset in zip(paths, datasets, strict=True):
        if dataset is not first:
            what = "another table" if dataset is None else f"Medicare Part D {dataset.name}"
            raise TableRefused(path.name, [f"it is {what}: give files of one kind, here Medicare Part D {first.name}"])
    return first


def _sums_of_year(path: Path, dataset: _Dataset, choice: DrugChoice, options: TableOptions, remarks: list[str]) -> pd.DataFrame:
    """Claims of each entity: all of the market, of the product and of brands, the number of drugs, and the levels."""
    columns = {name: Column(name, kind, 0 if kind == "number" else None) for name, kind in _KINDS.items()}
    with_marks = replace(options, missing=(*options.missing, *_SUPPRESSED))
    blocks = RowBlocks([path], lambda raw: _headers(raw, dataset), columns, with_marks, _without_repeated)
    names, parts, size = _Names(choice), [], 0
    counts = {"missing": 0, "national": 0}
    for frame in blocks.frames():
        rows = _of_states(frame) if dataset is _BY_GEOGRAPHY else frame
        counts["national"] += len(frame) - len(rows)
        counts["missing"] += int((rows["claims"].isna() | rows[ENTITY].isna()).sum())
        parts.append(_summed(rows.dropna(subset=[ENTITY, "claims"]), names))
        if sum(map(len, parts)) > 2 * size + _COMPACTED_ROWS:
            parts = [_added(parts)]
            size = len(parts[0])
    names.require(path.name)
    texts = {
        "rows that are no state left out": counts["national"],
        "rows without an id or a count, not in the sums": counts["missing"],
    }
    sums = _added(parts)
    states = sums.index.to_series() if dataset is _BY_GEOGRAPHY else sums.get("state")
    of_states = [] if states is None else other_regions_notes(states)
    of_file = [*blocks.summary.remarks(), *(f"{n:,} {text}" for text, n in texts.items() if n), *of_states]
    remarks += [f"{path.name}: {remark}" for remark in of_file]
    return sums


def _headers(raw: RawTable, dataset: _Dataset) -> dict[str, str]:
    by_key = {header_key(header): header for header in raw.headers}
    present = {
        name: [by_key[key] for key in map(header_key, names) if key in by_key]
        for name, names in {**dataset.needed, **dataset.optional}.items()
    }
    return {name: headers[0] for name, headers in present.items() if headers}


def _without_repeated(reading: TableReading) -> TableReading:
    """The reading without rows of a block that repeat a drug of an entity, which would count twice: they are bad."""
    frame = reading.frame
    repeated = frame.duplicated([name for name in (ENTITY, "level", "brand", "generic") if name in frame]).to_numpy()
    return refuse_rows(reading, repeated, ENTITY, frame[ENTITY], "has this drug in an earlier row: each has one row a drug")


def _of_states(frame: pd.DataFrame) -> pd.DataFrame:
    if "level" not in frame:
        return frame
    return frame[frame["level"].str.strip().str.lower() == "state"]


def _summed(rows: pd.DataFrame, names: _Names) -> pd.DataFrame:
    choice = names.choice
    is_product = names.matches(rows, [choice.product] if choice.product else [])
    in_market = is_product | names.matches(rows, choice.market) if choice.market else np.ones(len(rows), dtype=np.bool_)
    if choice.product is None:
        is_product = in_market
    is_brand = rows["brand"].fillna("").map(slug) != rows["generic"].fillna("").map(slug)
    claims = rows["claims"].to_numpy(dtype=float)
    columns: dict[str, Any] = {
        "market": np.where(in_market, claims, 0.0),
        "product": np.where(is_product, claims, np.nan),
        "brand_claims": np.where(in_market & is_brand, claims, 0.0),
        "drugs": in_market.astype(float),
    }
    columns |= {
        f"product_{name}": rows[name].where(is_product).astype(float) for name in ("patients", "prescribers") if name in rows
    }
    columns |= {name: rows[name] for name in ("specialty", "state") if name in rows}
    return _added([pd.DataFrame({ENTITY: rows[ENTITY], **columns}).set_index(ENTITY)])


def _added(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Sums by entity; of levels the first."""
    joined = pd.concat(parts)
    grouped = joined.groupby(level=ENTITY, sort=True)
    levels = [name for name in ("specialty", "state") if name in joined]
    added = grouped[[str(name) for name in joined if name not in levels]].sum(min_count=1)
    return added.assign(**{name: grouped[name].first() for name in levels})


def _provider_features(sums: pd.DataFrame, choice: DrugChoice) -> pd.DataFrame:
    """One row for each provider with claims of the market."""
    table = sums[sums["market"] > 0]
    decile = decile_of(table["market"])
    columns: dict[str, Any] = {}
    if "specialty" in table:
        columns["specialty"] = table["specialty"].map(slug, na_action="ignore")
    if "state" in table:
        columns["region"] = regions_of_states(table["state"])
    columns |= {"decile": decile, "priority_tier": tier_of(decile)}
    if choice.product is not None:
        if "product_patients" in table:
            columns["target_patient_volume"] = table["product_patients"].where(table["product_patients"] > 0)
        columns["product_share"] = table["product"] / table["market"]
    columns |= {"brand_share": table["brand_claims"] / table["market"], "drugs": table["drugs"].astype("int64")}
    return pd.DataFrame(columns, index=table.index)


def _state_features(sums: pd.DataFrame, _choice: DrugChoice) -> pd.DataFrame:
    """One row for each state with claims of the market."""
    table = sums[sums["market"] > 0]
    columns: dict[str, Any] = {
        "region": regions_of_states(table.index.to_series()),
        "state_count": np.ones(len(table), dtype=np.int64),
        "market_share": table["product"] / table["market"],
        "market_claims": table["market"],
        "brand_share": table["brand_claims"] / table["market"],
    }
    if "product_prescribers" in table:
        columns["product_prescribers"] = table["product_prescribers"]
    return pd.DataFrame(columns, index=table.index)


def _with_target(
    features: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame, dataset: _Dataset, choice: DrugChoice
) -> pd.DataFrame:
    """The features of the earlier year with the target of the later one; both as columns with the ids in front."""
    if dataset is _BY_GEOGRAPHY:
        share_after = (after["product"] / after["market"].where(after["market"] > 0)).reindex(features.index)
        target = share_after - features["market_share"]
    else:
        name = "market" if choice.product is None else "product"
        target = change_between(before[name].reindex(features.index), after[name])
    return features.assign(**{dataset.target: target}).reset_index()


def _target_notes(frame: pd.DataFrame, dataset: _Dataset) -> list[str]:
    without = int(frame[dataset.target].isna().sum())
    if without == len(frame):
        raise ValueError("no row has a target: no entity has claims of the product in both years")
    if dataset is _BY_GEOGRAPHY:
        return [
            f"{len(frame):,} rows, one for each state and pair of years: a training needs 1,000 rows, so these serve as features",
            *([f"{without:,} rows without a target: no claims of the market in the later year"] if without else []),
        ]
    reason = "fewer than 11 claims in one of the years are in no row, which is not 0 claims"
    notes = ["providers who start or stop with a product are not observed: the changes are of those with 11 claims in both years"]
    return notes + ([f"{without:,} of {len(frame):,} rows without a target: {reason}"] if without else [])
