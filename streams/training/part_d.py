"""Converts files of Medicare Part D prescribers, as the Centers for Medicare and Medicaid Services (CMS) publish them, to features.

The file "by Provider" has one row for each provider and year. Its columns were renamed in 2021; both layouts are recognised. One
year gives features; the change of the claims to the next year is the target. CMS leaves counts under 11 out and marks them with
``*`` or ``#``: they are missing, not zero. A table of two years side by side (``<name>_2013``, ``<name>_2014``) is recognised too.
The files by drug are those of ``part_d_drugs``.

References:
    CMS, Medicare Part D Prescribers by Provider, data dictionary (2013 to 2019; since 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from schemas import TwinType
from sql.training_data_store import ENTITY
from streams.tables import Column, Kind, RawTable, TableOptions, TableReading, TableRefused, convert_table
from streams.tables.headers import header_key
from streams.tables.regions import other_regions_notes, regions_of_states
from streams.tables.report import count_of
from streams.tables.us_regions import OTHER_REGION
from streams.training.imported_table import ImportedTable, features_without_column
from streams.training.part_d_years import pairs_of_years, require_order, year_notes

__all__ = [
    "KNOWN_HEADERS",
    "count_text",
    "decile_of",
    "has_joined_years",
    "is_joined_years",
    "is_part_d",
    "joined_years_table",
    "provider_table",
    "require_hcp",
    "slug",
    "tier_of",
]

_TARGET = "prescribing_change"
_MAX_SOLO_GROUP_SIZE = 1

_LAYOUTS = {
    "npi": ("PRSCRBR_NPI", "npi"),
    "specialty": ("Prscrbr_Type", "specialty_description"),
    "state": ("Prscrbr_State_Abrvtn", "nppes_provider_state"),
    "claims": ("Tot_Clms", "total_claim_count"),
}
"""The columns that are needed, by their names since 2021 and before."""

_OPTIONAL = {"patients": ("Tot_Benes", "bene_count"), "kind": ("Prscrbr_Ent_Cd", "nppes_entity_code")}
_KINDS: dict[str, Kind] = {
    "npi": "id",
    "specialty": "text",
    "state": "text",
    "claims": "integer",
    "patients": "integer",
    "kind": "text",
}
_OF_DRUGS = frozenset(map(header_key, ("Brnd_Name", "Gnrc_Name", "drug_name", "generic_name")))
_OWN = frozenset(header_key(name) for names in (*_LAYOUTS.values(), *_OPTIONAL.values()) for name in names) - {"npi"}
KNOWN_HEADERS = _OWN | {"npi"}
"""Keys of headers by which the delimiter of such a file is detected."""

_SUPPRESSED = ("*", "#")
_ORGANISATION = "O"

_JOINED = {"hcp_id", "specialty_2013", "state_2013", "grad_year_2013", "bene_count_2013", "total_claims_2013", "total_claims_2014"}


def require_hcp(twin_type: TwinType) -> None:
    """Refuse prescribers as twins of another type.

    Raises:
        ValueError: for a twin type other than HCP.
    """
    if twin_type is not TwinType.HCP:
        raise ValueError(f"a table of prescribers is for hcp twins, not {twin_type} twins")


# -- files of CMS


def is_part_d(headers: Sequence[str]) -> bool:
    """Whether headers are those of a file of Medicare Part D, by provider or another one."""
    keys = set(map(header_key, headers))
    return any(key.startswith("prscrbr") for key in keys) or ("npi" in keys and bool(keys & _OWN))


def provider_table(files: Sequence[RawTable], twin_type: TwinType, options: TableOptions) -> ImportedTable:
    """Features of each year but the last, and the change of the claims to the next one; of a single year features only.

    Args:
        files: by provider, one for each year, the earliest first.
        twin_type: must be HCP.
        options: of reading.

    Raises:
        TableRefused: for another file, with the columns that are missing, for years in the wrong order and repeated providers.
    """
    require_hcp(twin_type)
    names = [file.name for file in files]
    require_order(names)
    readings = [_providers(file, options) for file in files]
    years = [reading.frame for reading in readings]
    notes = ["priority_tier has two deciles per tier; decile is by the claims of the year of the features"]
    remarks = [remark for reading in readings for remark in _named_remarks(reading, several=len(files) > 1)]
    remarks += other_regions_notes(_individuals(years[0])["state"])
    if len(years) > 1:
        frame = pairs_of_years(years, lambda before, after: _with_change(before, after, notes))
        notes += [
            "providers below the claim threshold in either year are in neither: entry and exit are not observed",
            *year_notes(names, _TARGET),
        ]
    else:
        frame = _features(years[0])
        notes.append(f"one year has no target: it can serve as features; a second file of a later year gives {_TARGET}")
    return ImportedTable(
        frame,
        _TARGET,
        f"Medicare Part D by provider, {count_text(len(years))}",
        features_without_column(twin_type, frame),
        tuple(notes),
        tuple(remarks),
    )


def count_text(n_years: int) -> str:
    """A number of years as a title has it.

    >>> count_text(1), count_text(2), count_text(11)
    ('one year', 'two years', '11 years')
    """
    return {1: "one year", 2: "two years"}.get(n_years, f"{n_years} years")


def _named_remarks(reading: TableReading, *, several: bool) -> list[str]:
    return [f"{reading.name}: {remark}" for remark in reading.remarks()] if several else reading.remarks()


def _providers(file: RawTable, options: TableOptions) -> TableReading:
    """One row per provider: npi, specialty, state, claims, and patients and kind where the file has them.

    Raises:
        TableRefused: for another file, or one with a provider in several rows.
    """
    headers = _needed_headers(file)
    places = [file.headers.index(header) for header in headers.values()]
    needed = replace(file, headers=tuple(headers.values()), columns=tuple(file.columns[place] for place in places))
    declared = {header: _column(header, _KINDS[name]) for name, header in headers.items()}
    with_marks = replace(options, missing=(*options.missing, *_SUPPRESSED), kinds={})
    reading = convert_table(needed, declared, with_marks).require_usable(strict=options.strict)
    frame = reading.frame.rename(columns={header: name for name, header in headers.items()})
    repeated = frame["npi"][frame["npi"].duplicated() & frame["npi"].notna()]
    if len(repeated):
        raise TableRefused(
            file.name, [f"{count_of(len(repeated), 'row')} repeated for a provider, such as {repeated.iloc[0]}: each has one row"]
        )
    return replace(reading, frame=frame)


def _column(header: str, kind: Kind) -> Column:
    return Column(header, kind, 0 if kind == "integer" else None)


def _needed_headers(file: RawTable) -> dict[str, str]:
    """The headers of the layout by our names of the columns.

    Raises:
        TableRefused: when one is missing; it names the file that is expected.
    """
    by_key = {header_key(header): header for header in file.headers}
    candidates = {
        name: [by_key[key] for key in map(header_key, names) if key in by_key] for name, names in (_LAYOUTS | _OPTIONAL).items()
    }
    headers = {name: present[0] for name, present in candidates.items() if present}
    missing = [" or ".join(names) for name, names in _LAYOUTS.items() if name not in headers]
    if missing or by_key.keys() & _OF_DRUGS:
        finding = f"missing are {', '.join(missing)}" if missing else "it has a row for each drug"
        raise TableRefused(
            file.name, [f"expected is Medicare Part D by provider, with one row for each: it is no such file: {finding}"]
        )
    return headers


def _features(providers: pd.DataFrame) -> pd.DataFrame:
    """Features of the individual providers with claims."""
    individual = _individuals(providers)
    decile = decile_of(individual["claims"])
    return pd.DataFrame(
        {
            ENTITY: individual["npi"],
            "specialty": individual["specialty"].map(slug, na_action="ignore"),
            "region": regions_of_states(individual["state"]).fillna(OTHER_REGION),
            "decile": decile,
            "priority_tier": tier_of(decile),
            **({"total_patient_volume": individual["patients"]} if "patients" in individual else {}),
        }
    ).reset_index(drop=True)


def _individuals(providers: pd.DataFrame) -> pd.DataFrame:
    is_usable = providers["npi"].notna() & (providers["claims"] > 0)
    return providers[is_usable & (providers["kind"] != _ORGANISATION) if "kind" in providers else is_usable]


def _with_change(first: pd.DataFrame, second: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The features of providers of both years with the change of their claims; a note on the others is added."""
    features = _features(first)
    before = first.dropna(subset=["npi"]).set_index("npi")["claims"]
    after = second.dropna(subset=["npi", "claims"]).set_index("npi")["claims"]
    in_both = features[ENTITY].isin(after.index)
    frame = features[in_both].reset_index(drop=True)
    ids = frame[ENTITY]
    frame[_TARGET] = after.loc[ids].to_numpy(dtype=float) / before.loc[ids].to_numpy(dtype=float) - 1
    if frame.empty:
        raise ValueError("the two files have no provider in common")
    notes.append(f"{len(frame):,} providers are in both years, {int((~in_both).sum()):,} only in the first: those are left out")
    return frame


# -- a table with two years side by side


def is_joined_years(table: pd.DataFrame) -> bool:
    """Whether a table has two years of prescribers side by side."""
    return has_joined_years(table.columns)


def has_joined_years(headers: Iterable[str]) -> bool:
    """Whether headers are those of a table with two years of prescribers side by side."""
    return set(headers) >= _JOINED


def joined_years_table(table: pd.DataFrame, remarks: tuple[str, ...] = ()) -> ImportedTable:
    """Features of 2013 and the change of the claims to 2014."""
    claims, group = table["total_claims_2013"], table["group_size_2013"]
    decile = decile_of(claims)
    frame = pd.DataFrame(
        {
            ENTITY: table["hcp_id"].astype(str),
            "specialty": table["specialty_2013"].map(slug, na_action="ignore"),
            "years_experience": 2013 - table["grad_year_2013"],
            "practice_type": np.select([group.isna(), group <= _MAX_SOLO_GROUP_SIZE], ["unknown", "solo"], "group"),
            "practice_size": group,
            "region": regions_of_states(table["state_2013"]).fillna(OTHER_REGION),
            "decile": decile,
            "priority_tier": tier_of(decile),
            "total_patient_volume": table["bene_count_2013"],
            _TARGET: table["total_claims_2014"] / claims - 1,
        }
    )
    notes = (
        "priority_tier has two deciles per tier; decile is by prescriptions filled in 2013",
        "physicians below the claim threshold in either year are not in the table: entry and exit are not observed",
        *other_regions_notes(table["state_2013"]),
    )
    left_out = features_without_column(TwinType.HCP, frame)
    return ImportedTable(frame, _TARGET, "Medicare Part D prescribers, 2013 and 2014", left_out, notes, remarks)


def decile_of(volume: pd.Series[Any]) -> pd.Series[int]:
    """Deciles of volumes by their ranks, 10 for the highest."""
    return volume.rank(method="average", pct=True).mul(10).apply(np.ceil).clip(1, 10).astype("int64")


def tier_of(decile: pd.Series[int]) -> pd.Series[int]:
    """Priority tiers of two deciles each, 1 for the highest."""
    return 6 - (decile + 1) // 2


def slug(text: str) -> str:
    """A text as a level: small letters and digits, joined by ``_``.

    >>> slug("Hematology/Oncology")
    'hematology_oncology'
    """
    return "_".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
