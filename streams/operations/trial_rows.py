"""Reads the rows of a finished experiment, checks them, and analyses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from engine.experiments import TrialAnalysis, analyse_trial, attrition_text, parse_arms, require_filled, sample_ratio_warning
from engine.twins import TwinModel, few_implausible, scale_problem
from schemas import TWIN_TYPES, PopulationFilter, TwinType
from schemas.arrays import Flags
from schemas.base import require_one_of, shorten
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.filters import conditions, rows_matching
from schemas.identifiers import entity_column
from schemas.level_meaning import declared_level
from schemas.twin_types import Feature, Target, filter_hint
from streams.tables import Column, TableOptions, entity_columns, read_table

__all__ = ["AnalysedTrial", "TrialColumns", "TrialRefused", "TrialRows", "analyse_rows", "read_rows"]

_ARM_NAMES = ("treated", "arm", "group")
_WEIGHT_NAMES = ("weight", "weights")
_PREDICTION = "the twin's prediction"
_SHOWN = 3
_MOST_NUMBERS = 12  # as many as months


class TrialRefused(ValueError):
    """Rows of an experiment that cannot be analysed as they are, with what to do about it."""


@dataclass(frozen=True)
class TrialColumns:
    """What the columns of a table of an experiment hold, and what its rows are.

    Attributes:
        arm: column of the arm; without it the one named treated, arm or group.
        treated_value, control_value: values of the arms, where the column has other words than ``ARM_WORDS``.
        outcome: column of the outcome; by default that of the target.
        unit: column that names who was observed; by default the one that names entities, if there is one.
        cluster: column of the unit of assignment, where whole clusters were assigned.
        covariates: columns of numbers from before the experiment.
        dimensions: features by whose levels effects are reported, beside the subgroup dimensions of the twin type.
    """

    arm: str | None = None
    treated_value: str | None = None
    control_value: str | None = None
    outcome: str | None = None
    unit: str | None = None
    cluster: str | None = None
    covariates: Sequence[str] = ()
    dimensions: Sequence[str] = ()


class TrialRows(NamedTuple):
    """Rows of an experiment with a column for the target.

    Attributes:
        frame: the rows, with the outcome under the name of the target.
        treated: arm of each row, ``(n,)``.
        columns: with every name that the table has.
        remarks: what was converted, left out, or is doubtful.
    """

    frame: pd.DataFrame
    treated: Flags
    columns: TrialColumns
    target: Target
    twin_type: TwinType
    remarks: tuple[str, ...]

    @property
    def observed_at(self) -> datetime | None:
        """The last time in the column ``observed_at``, if there is one."""
        if "observed_at" not in self.frame:
            return None
        last = pd.to_datetime(self.frame["observed_at"], utc=True).max()
        return None if pd.isna(last) else last.to_pydatetime()


class AnalysedTrial(NamedTuple):
    """An analysis, and remarks on its rows."""

    analysis: TrialAnalysis
    remarks: tuple[str, ...]


def read_rows(
    path: Path,
    twin_type: TwinType,
    target_name: str | None,
    columns: TrialColumns,
    reading: TableOptions,
    *,
    accept: bool = False,
    leave_out_missing: bool = False,
) -> TrialRows:
    """Read the rows of an experiment.

    Args:
        path: a table with one row for each person or other unit.
        twin_type: of the units.
        target_name: that the outcome is; the twin type's own by default.
        columns: what the columns hold.
        reading: how the table is read.
        accept: take outcomes beyond the plausible scale of the target as they are.
        leave_out_missing: leave out people without an outcome, and remark how many each arm lost.

    Raises:
        TableRefused: when the table cannot be read.
        TrialRefused: for units that are there twice or in both arms, missing outcomes, or outcomes in another unit.
        ValueError: for absent columns, values of no arm, and empty arms or outcomes.
    """
    target = TWIN_TYPES[twin_type].target(target_name)
    stated = _declared(columns, target)
    standard = {
        name: replace(column, is_named=name in stated and stated[name].is_named)
        for name, column in entity_columns(twin_type).items()
    }
    declared = {**stated, **standard}
    result = read_table(path, declared, reading)
    if result.frame.empty:
        raise TrialRefused(f"{path.name} has no rows: each unit of the experiment needs one")
    frame, columns = _named(result.frame, columns, target, twin_type)
    assert columns.arm is not None
    treated = parse_arms(
        frame[columns.arm], treated_value=columns.treated_value, control_value=columns.control_value, name=columns.arm
    )
    for name in filter(None, (columns.cluster, columns.unit)):
        require_filled(frame[name], name)
    if columns.unit is not None:
        _require_single_rows(frame[columns.unit].astype(str), treated, columns.unit)
    remarks = [*result.remarks(), *_unused(frame, columns)]
    is_missing = frame[target.name].isna().to_numpy()
    if is_missing.any():
        lost = attrition_text(is_missing, treated)
        if not leave_out_missing:
            raise TrialRefused(f"{path.name}: {lost}; --leave-out-missing analyses the others")
        remarks.append(f"{lost}; they are left out")
        frame, treated = frame[~is_missing].reset_index(drop=True), treated[~is_missing]
    outcome = frame[target.name].to_numpy(dtype=float)
    problem = scale_problem(outcome, target, frame.get(target.share_of) if target.share_of else None)
    if problem and not accept:
        raise TrialRefused(f"{path.name}: {problem}; --accept takes them as they are")
    remarks += few_implausible(outcome, target)
    return TrialRows(frame, treated, columns, target, twin_type, tuple(remarks))


def analyse_rows(rows: TrialRows, model: TwinModel | None, filters: PopulationFilter, control_ratio: float = 1.0) -> AnalysedTrial:
    """Analyse an experiment, adjusted for the twin's prediction where the rows have features of the model.

    Args:
        rows: of the experiment.
        model: champion of the line; None where it has none.
        filters: whom the experiment was made on, by which simulations are told who its effect is about.
        control_ratio: planned units in the control arm for each treated one.

    Raises:
        TrialRefused: for rows that do not satisfy the filters.
        ValueError: as :func:`engine.experiments.analyse_trial`.
    """
    frame, columns, target = rows.frame, rows.columns, rows.target
    _require_filters(frame, rows.twin_type, filters)
    covariates = {name: frame[name].to_numpy(dtype=float) for name in columns.covariates}
    remarks = []
    if model is not None and any(name in frame for name in model.card.features):
        covariates = {_PREDICTION: model.predict(frame), **covariates}
        remarks += model.gap_sentences(frame)
    else:
        lacking = "the line has no champion" if model is None else "the table has none of the model's features"
        remarks.append(f"not adjusted for {_PREDICTION}: {lacking}")
    clusters = frame[columns.cluster].astype(str).to_numpy() if columns.cluster else None
    analysis = analyse_trial(
        frame[target.name].to_numpy(dtype=float),
        rows.treated,
        target,
        clusters=clusters,
        covariates=covariates,
        level=frame[target.share_of].to_numpy(dtype=float) if target.share_of in frame else None,
        dimensions=frame[list(columns.dimensions)].apply(_declared_levels),
    )
    mismatch = sample_ratio_warning(*analysis.overall.units, control_ratio, "clusters" if columns.cluster else "people")
    return AnalysedTrial(analysis, (*rows.remarks, *remarks, *analysis.warnings, *([mismatch] if mismatch else [])))


def _declared_levels(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column with each value as the level that the catalogue declares for it; other values stay as they are."""
    name = str(column.name)
    if name not in catalogue_in_effect().levels:
        return column
    return column.map(lambda value: declared_level(name, value), na_action="ignore")


def _declared(columns: TrialColumns, target: Target) -> dict[str, Column]:
    """Declarations of the columns that the caller names."""
    arms = [columns.arm] if columns.arm else _ARM_NAMES
    return {
        **{name: Column(name, "category", is_named=name == columns.arm) for name in (*arms, *columns.dimensions)},
        **{name: Column(name, "number", is_named=True) for name in columns.covariates},
        **{name: Column(name, "id", is_named=True) for name in (columns.unit, columns.cluster) if name},
        **({columns.outcome: _outcome_column(columns.outcome, target)} if columns.outcome else {}),
    }


def _outcome_column(name: str, target: Target) -> Column:
    return Column(name, "number", is_fraction=target.is_fraction, is_named=True)


def _require_few_values(column: pd.Series[Any], feature: Feature) -> None:
    """Refuse a number with so many values that its levels would be single values and no groups."""
    n = column.nunique()
    if feature.kind in {"integer", "number"} and n > _MOST_NUMBERS:
        raise TrialRefused(
            f"subgroup {feature.name!r} is a number with {n} values, and each would be a level of its own: name a category, or add"
            f" a column with a few groups of it, such as its quarters, and declare that as a feature of kind category; up to"
            f" {_MOST_NUMBERS} values are levels"
        )


def _named(frame: pd.DataFrame, columns: TrialColumns, target: Target, twin_type: TwinType) -> tuple[pd.DataFrame, TrialColumns]:
    """The table with its outcome under the target's name, and the columns with the names that the table has."""
    present = list(map(str, frame))
    arm = columns.arm or next((name for name in _ARM_NAMES if name in present), None)
    if arm is None:
        names = ", ".join(_ARM_NAMES)
        raise TrialRefused(f"no column is named {names}: name that of the arm with --arm, one of {', '.join(present)}")
    entry = TWIN_TYPES[twin_type]
    for name in columns.dimensions:
        if hint := filter_hint(name, entry.filters if name not in entry.by_name else {}):
            raise TrialRefused(f"subgroup {name!r} is no feature of {twin_type} twins: {hint}use {entry.filters[name]!r}")
        require_one_of(f"subgroup of {twin_type} twins", name, entry.by_name)
    stated = (columns.cluster, columns.unit, *columns.covariates, *columns.dimensions)
    for name in (arm, columns.outcome or target.name, *filter(None, stated)):
        require_one_of("column", name, present)
    for name in columns.dimensions:
        _require_few_values(frame[name], entry.by_name[name])
    _require_own_outcome(columns.outcome or target.name, (arm, *filter(None, stated)))
    if columns.outcome not in {None, target.name}:
        _require_own_outcome(target.name, (arm, *filter(None, stated)))
        frame = frame.drop(columns=target.name, errors="ignore").rename(columns={columns.outcome: target.name})
    dimensions = dict.fromkeys([*(name for name in entry.dimensions if name in present), *columns.dimensions])
    unit = columns.unit or entity_column(frame, twin_type)
    named = TrialColumns(
        arm,
        columns.treated_value,
        columns.control_value,
        target.name,
        unit if unit != columns.cluster else None,
        columns.cluster,
        columns.covariates,
        tuple(dimensions),
    )
    return frame, named


def _require_own_outcome(outcome: str, others: Sequence[str]) -> None:
    """Refuse a column that is the outcome, or whose name the outcome takes, and something else too."""
    if outcome in others:
        raise TrialRefused(f"column {outcome!r} cannot be the outcome and another column of the experiment: name two columns")


def _unused(frame: pd.DataFrame, columns: TrialColumns) -> Iterator[str]:
    """What is not done with a column that may be meant to weigh the rows."""
    for name in frame:
        if str(name).lower() in _WEIGHT_NAMES and name not in columns.covariates:
            yield f"column {name!r} is not used: every row counts once"


def _require_single_rows(units: pd.Series[Any], treated: Flags, name: str) -> None:
    """Refuse units that are there twice: in both arms they contradict themselves, in one they would count twice."""
    repeated = units[units.duplicated(keep=False)]
    if repeated.empty:
        return
    arms = pd.Series(treated, index=units.index)[repeated.index].groupby(repeated).nunique()
    both = arms.index[arms > 1].tolist()
    if both:
        raise TrialRefused(
            f"{len(both):,} units ({name}) are in both arms, such as {', '.join(map(shorten, both[:_SHOWN]))}: each belongs to the"
            " arm that it was assigned to"
        )
    names = repeated.unique().tolist()
    raise TrialRefused(
        f"{len(names):,} units ({name}) have several rows, such as {', '.join(map(shorten, names[:_SHOWN]))}: leave one row for"
        f" each, or name their column with --cluster {shorten(name)} where all rows are outcomes of their own"
    )


def _require_filters(frame: pd.DataFrame, twin_type: TwinType, filters: PopulationFilter) -> None:
    """Refuse rows of people on whom, by the filters, the experiment was not made."""
    required = [item for item in conditions(twin_type, filters) if item.column in frame]
    outside = np.flatnonzero(~rows_matching(frame, required))
    if len(outside):
        raise TrialRefused(
            f"{len(outside):,} of {len(frame):,} rows do not satisfy {', '.join(_conditions(required))}, the first in row"
            f" {outside[0] + 1} (the first row of values is 1): leave them out, or the filter"
        )


def _conditions(required: Sequence[Any]) -> Iterator[str]:
    for item in required:
        sign: Mapping[str, str] = {"in": "in", "min": ">=", "max": "<="}
        yield f"{item.column} {sign[item.operator]} {', '.join(map(str, item.values))}"
