"""Check a user's table and convert its columns to the form that models are fitted on and predict from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from engine.twins.entities import MIN_ENTITIES, entity_codes
from engine.twins.identifiers import identifier_columns
from engine.twins.target_scale import few_implausible, scale_problem
from schemas.arrays import Floats, Integers
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.clinical_terms import clinical_term
from schemas.identifiers import entity_column
from schemas.levels import KnownLevels, level_key, level_text, levels_of, numbers_of
from schemas.twin_types import TWIN_TYPES, Feature, TwinType, TwinTypeEntry

__all__ = ["MIN_SAMPLES", "ClinicalData", "TrainingTable", "build_training_table", "feature_frame", "identifier_warnings"]

MIN_SAMPLES = 1000
MAX_LEVELS = 500
_MOST_EXACT = 2**53  # of the whole numbers that a float holds exactly
LARGEST = 1e30
"""Largest absolute value: trees compare in single precision, and the squares of larger errors are infinite."""

MAX_REPEATED = 0.05
"""Share of repeated rows above which cross-validation figures come with a warning."""

NOT_FEATURES = frozenset({"entity_id", "observed_at"})


class ClinicalData(ValueError):
    """A clinical column or target: only operational data is accepted."""


@dataclass(frozen=True)
class TrainingTable:
    """A table ready to learn from.

    Attributes:
        features: ``(n, p)``, each column in the form of its kind, see ``feature_frame``.
        target: ``(n,)``, finite.
        kinds: kind of each feature, in the order of the columns.
        n_dropped: rows left out because they had no usable target.
        warnings: sentences for the user, such as columns that could not be used.
        entities: the entity of each row, ``(n,)``, small integers; None where every row is an entity of its own.
        left_out: columns of the given table that are no features.
    """

    features: pd.DataFrame
    target: Floats
    kinds: Mapping[str, str]
    n_dropped: int
    warnings: tuple[str, ...]
    entities: Integers | None = None
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.target)

    def select(self, names: Sequence[str]) -> TrainingTable:
        """The same rows with these features only."""
        return replace(self, features=self.features[list(names)], kinds={name: self.kinds[name] for name in names})

    def take(self, rows: Integers) -> TrainingTable:
        """The rows at these positions."""
        entities = None if self.entities is None else self.entities[rows]
        return replace(self, features=self.features.iloc[rows], target=self.target[rows], entities=entities)

    def with_target(self, name: str) -> pd.DataFrame:
        """Features and target in one frame."""
        return self.features.assign(**{name: self.target})

    @property
    def groups(self) -> Integers:
        """The entity of each row, ``(n,)``, also where every row is an entity of its own."""
        return np.arange(len(self)) if self.entities is None else self.entities

    @property
    def n_entities(self) -> int:
        """Number of different entities."""
        return len(np.unique(self.groups))

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the columns whose values are levels."""
        return tuple(name for name, kind in self.kinds.items() if kind == "category")

    def digest(self) -> str:
        """SHA-256 of the content and the column names."""
        digest = hashlib.sha256("\0".join(self.kinds).encode())
        for name, kind in self.kinds.items():
            column = self.features[name]
            content = "\0".join(map(str, column)).encode() if kind == "category" else column.to_numpy(dtype=float).tobytes()
            digest.update(content)
        digest.update(self.target.tobytes())
        if self.entities is not None:
            digest.update(self.entities.tobytes())
        return digest.hexdigest()


def build_training_table(frame: pd.DataFrame, twin_type: TwinType, target: str) -> TrainingTable:
    """Check a table and convert its columns; the given frame is not changed.

    Columns beyond the default features are used where possible and otherwise left out with a warning; identifiers are never used.
    Rows whose target is missing or infinite are dropped and counted. Rows with one value of the column that names the entity
    (:func:`schemas.identifiers.entity_column`) are rows of one entity.

    Raises:
        ClinicalData: for a clinical column or target; the message names it.
        ValueError: when the target is not declared, missing, constant or on another scale than declared, a default feature holds an
            impossible value, a number is larger than ``LARGEST``, or fewer than ``MIN_SAMPLES`` usable rows, or rows of fewer than
            ``MIN_ENTITIES`` entities, are left.

    Example:
        >>> frame = pd.DataFrame({"decile": [3, 8] * 1200, "prescribing_change": [0.1, 0.2, None, 0.3] * 600})
        >>> table = build_training_table(frame, TwinType.HCP, "prescribing_change")
        >>> len(table), table.n_dropped, dict(table.kinds)
        (1800, 600, {'decile': 'integer'})
    """
    entry = TWIN_TYPES[twin_type]
    outcome = _outcome(frame, entry, target)
    names = [str(name) for name in frame.columns if str(name) not in NOT_FEATURES and str(name) != target]
    _refuse_clinical(twin_type, names)
    usable = np.isfinite(outcome)
    complete = frame.loc[usable]
    if len(complete) < MIN_SAMPLES:
        raise ValueError(
            f"{len(complete)} rows with a value of {target!r} are too few to train a model: at least {MIN_SAMPLES} are needed"
        )
    entity = entity_column(complete, twin_type)
    entities, entity_warnings = _entities(complete, entity)
    names = [name for name in names if name != entity]
    ignored = identifier_columns(complete, names, twin_type, len(complete) if entities is None else int(entities.max()) + 1)
    kinds, column_warnings = _kinds(complete, entry, [name for name in names if name not in ignored])
    if not kinds:
        raise ValueError(f"no usable feature: provide some of {', '.join(entry.by_name)}")
    if np.ptp(outcome[usable]) == 0:
        raise ValueError(f"{target!r} is {outcome[usable][0]} in every row: there is nothing to learn")
    _refuse_huge(outcome[usable], target)
    declared = entry.target(target)
    if problem := scale_problem(outcome[usable], declared, complete.get(declared.share_of)):
        raise ValueError(problem)
    features = feature_frame(complete, kinds, twin_type)
    warnings = (*entity_warnings, *_ignored(ignored), *column_warnings, *_uninformative(features, outcome[usable]))
    warnings += tuple(few_implausible(outcome[usable], declared))
    left_out = tuple(name for name in map(str, frame.columns) if name not in (*kinds, target))
    return TrainingTable(features, outcome[usable], kinds, int((~usable).sum()), warnings, entities, left_out)


def feature_frame(
    frame: pd.DataFrame, kinds: Mapping[str, str], twin_type: TwinType, vocabulary: Mapping[str, KnownLevels] | None = None
) -> pd.DataFrame:
    """The named columns of ``frame`` converted by kind, value by value as ``schemas.levels`` says, with a new index 0, 1, ...

    Categories are text (None where missing); integers are int64 where complete; flags, numbers and gapped integers float64 (NaN
    where missing, flags 0 and 1). A column that the frame lacks is missing in every row.

    Args:
        frame: any table.
        kinds: kind of each feature.
        twin_type: of the rows.
        vocabulary: levels of the categories that a model knows; a level is written as the model writes it. By default a level is
            written as it is most often in this frame.

    Raises:
        ValueError: for a value that the feature cannot have; it names the feature, the value and the allowed ones.

    Example:
        >>> frame = pd.DataFrame({"decile": ["7", "2"], "region": ["south", "West "]}, index=[5, 9])
        >>> feature_frame(frame, {"region": "category", "decile": "integer"}, TwinType.HCP).to_dict("list")
        {'region': ['south', 'West'], 'decile': [7, 2]}
    """
    declared = TWIN_TYPES[twin_type].by_name
    columns = {
        name: _texts(frame, name, (vocabulary or {}).get(name))
        if kind == "category"
        else _convert(frame, name, kind, declared.get(name))
        for name, kind in kinds.items()
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)))


def _outcome(frame: pd.DataFrame, entry: TwinTypeEntry, target: str) -> Floats:
    if term := clinical_term(entry.twin_type, target):
        raise ClinicalData(f"target {target!r} is clinical ({term!r}): only commercial outcomes can be predicted")
    entry.target(target)
    if target not in frame:
        raise ValueError(f"the table has no column {target!r}, the target: it has {', '.join(map(str, frame.columns))}")
    return numbers_of(frame[target], target)


def _refuse_clinical(twin_type: TwinType, names: list[str]) -> None:
    terms = {name: term for name in names if (term := clinical_term(twin_type, name))}
    if terms:
        listed = ", ".join(f"{name!r} ({term!r})" for name, term in terms.items())
        raise ClinicalData(f"clinical columns are refused: {listed}. Twins are made of operational data only; drop these columns")


def _entities(frame: pd.DataFrame, name: str | None) -> tuple[Integers | None, tuple[str, ...]]:
    """The entity of each row, None where each row is one of its own, and a sentence about the rows of one entity."""
    entities = None if name is None else entity_codes(frame[name])
    if entities is None:
        is_declared = name is None or name in NOT_FEATURES
        return None, () if is_declared else (f"the column {name!r} names the entity of each row: it is no feature",)
    n = int(entities.max()) + 1
    if n < MIN_ENTITIES:
        raise ValueError(
            f"{len(frame):,} rows are of {n} entities by the column {name!r}: at least {MIN_ENTITIES} entities are needed; rename"
            " the column if it does not name whom a row is about"
        )
    return entities, (f"{len(frame):,} rows are of {n:,} entities by the column {name!r}: all figures are of entities kept apart",)


def identifier_warnings(frame: pd.DataFrame, twin_type: TwinType) -> tuple[str, ...]:
    """A warning about the columns of a table that would be taken for identifiers, also of a table that cannot be trained on."""
    entity = entity_column(frame, twin_type)
    names = [str(name) for name in frame if str(name) not in NOT_FEATURES and name != entity]
    codes = None if entity is None else entity_codes(frame[entity])
    n = len(frame) if codes is None else int(codes.max()) + 1
    return tuple(_ignored(identifier_columns(frame, names, twin_type, n)))


def _ignored(identifiers: Mapping[str, str]) -> Iterator[str]:
    """A warning about the columns that were taken for identifiers."""
    if identifiers:
        listed = "; ".join(f"{name}, {reason}" for name, reason in identifiers.items())
        yield f"columns left out as identifiers: {listed} (rename or recode one that measures something)"


def _kinds(frame: pd.DataFrame, entry: TwinTypeEntry, names: list[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Kind of each usable column, and a warning about those that are left out."""
    kinds = {name: entry.by_name[name].kind if name in entry.by_name else _kind(frame[name]) for name in names}
    empty = [name for name in kinds if _is_empty(frame[name])]
    unusable = [name for name, kind in kinds.items() if kind is None and name not in empty]
    out_of_range = [name for name in unusable if _is_out_of_range(frame[name])]
    unusable = [name for name in unusable if name not in out_of_range]
    warnings = []
    if out_of_range:
        warnings.append(f"columns left out, infinite or larger than {LARGEST:g} in some rows: {', '.join(out_of_range)}")
    if empty:
        warnings.append(f"columns left out, no value in any row: {', '.join(empty)}")
    if unusable:
        warnings.append(
            f"fell back to the default features without {', '.join(unusable)}: neither numbers nor at most {MAX_LEVELS} levels"
        )
    usable = {name: kind for name, kind in kinds.items() if kind is not None and name not in empty}
    return usable, (*warnings, *_merged_spellings(frame, [name for name, kind in usable.items() if kind == "category"]))


_NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal")  # contents, as pandas names them
_LEVELS = ("string", "categorical", "mixed-integer", "mixed")


def _kind(column: pd.Series[Any]) -> str | None:
    """Kind of a column beyond the default features by its values, gaps aside; None where it is unusable as a feature."""
    content = pd.api.types.infer_dtype(column, skipna=True)
    if content == "boolean":
        return "flag"
    if content in _NUMBERS:
        if _is_out_of_range(column):
            return None
        numbers = _present_numbers(column)
        return "number" if np.any(numbers % 1) or np.any(np.abs(numbers) > _MOST_EXACT) else "integer"
    if content in _LEVELS:
        return _kind_of_levels(column)
    return None


def _kind_of_levels(column: pd.Series[Any]) -> str | None:
    try:
        levels = set(map(level_key, levels_of(column).values))
    except TypeError:  # lists and other containers
        return None
    if levels <= {"true", "false", "0", "1"} and not levels.isdisjoint({"true", "false"}):
        return "flag"
    return "category" if len(levels) <= min(MAX_LEVELS, len(column) // 2) else None


def _present_numbers(column: pd.Series[Any]) -> Floats:
    return np.asarray(column.dropna().astype("float64"), dtype=np.float64)


def _is_empty(column: pd.Series[Any]) -> bool:
    """Whether a column has no value, or blank texts only."""
    return bool(column.isna().all()) or (pd.api.types.infer_dtype(column, skipna=True) == "string" and not levels_of(column).values)


def _is_out_of_range(column: pd.Series[Any]) -> bool:
    """Whether a column of numbers holds an infinite or too large one."""
    return pd.api.types.infer_dtype(column, skipna=True) in _NUMBERS and bool((np.abs(_present_numbers(column)) > LARGEST).any())


def _merged_spellings(frame: pd.DataFrame, names: Sequence[str]) -> Iterator[str]:
    """Warnings about levels that are written in several ways."""
    for name in names:
        merged = {text: spelling for text, spelling in levels_of(frame[name]).spellings().items() if text != spelling}
        if merged:
            shown = ", ".join(f"{text!r} is {spelling!r}" for text, spelling in sorted(merged.items())[:_SHOWN])
            more = f" and {len(merged) - _SHOWN} more" if len(merged) > _SHOWN else ""
            yield f"levels of {name} that differ only in case are one level: {shown}{more}"
        written = {text.strip() for text in frame[name].dropna().unique() if isinstance(text, str)}
        if whole := sorted(text for text in written if text.endswith(".0") and level_text(text) in written - {text}):
            yield f"levels of {name} with and without a fraction of zero are one level: {', '.join(whole[:_SHOWN])}"


_SHOWN = 5


def _uninformative(features: pd.DataFrame, target: Floats) -> Iterator[str]:
    """Warnings about constant columns and repeated rows."""
    constant = [str(name) for name in features if len(features[name].unique()) == 1]
    if constant:
        yield f"columns with the same value in every row carry no information: {', '.join(constant)}"
    repeated = float(features.assign(**{"": target}).duplicated().mean())
    if repeated > MAX_REPEATED:
        yield f"{repeated:.0%} of the rows repeat others: cross-validation figures are too optimistic, drop the repeated rows"


def _column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    return frame[name] if name in frame else pd.Series(np.nan, index=frame.index)


def _texts(frame: pd.DataFrame, name: str, vocabulary: KnownLevels | None) -> Any:
    levels = levels_of(_column(frame, name))
    spelling = levels.spellings() if vocabulary is None else vocabulary.spellings(levels.values)
    return levels.texts(_as_declared(name, spelling, vocabulary)).array


def _as_declared(name: str, spelling: Mapping[str, str], vocabulary: KnownLevels | None) -> Mapping[str, str]:
    """Texts written as the levels that the catalogue declares; a model that knows a level by another spelling keeps that one."""
    catalogue = catalogue_in_effect()
    if name not in catalogue.spellings:
        return spelling
    meant = {text: catalogue.level_of(name, text) for text in spelling}
    if vocabulary is None:
        return {text: spelling[text] if level == text else level for text, level in meant.items()}
    of_model = KnownLevels(vocabulary.levels, name)
    return {text: of_model.find(text) or level for text, level in meant.items()}


def _convert(frame: pd.DataFrame, name: str, kind: str, feature: Feature | None) -> Any:
    numbers = numbers_of(_column(frame, name), name, "flag" if kind == "flag" else "number")
    if feature is not None:
        _refuse_impossible(numbers, feature)
    _refuse_huge(numbers, name)
    whole = kind == "integer" and bool((np.abs(numbers) <= _MOST_EXACT).all())
    return numbers.astype(np.int64) if whole else numbers


def _refuse_huge(numbers: Floats, name: str) -> None:
    huge = np.abs(numbers) > LARGEST
    if huge.any():
        raise ValueError(f"{name!r} holds {numbers[huge][0]:g}: the largest absolute value allowed is {LARGEST:g}")


def _refuse_impossible(numbers: Floats, feature: Feature) -> None:
    low = -np.inf if feature.low is None else feature.low
    high = np.inf if feature.high is None else feature.high
    outside = (numbers < low) | (numbers > high) | np.isinf(numbers)
    if outside.any():
        raise ValueError(f"{feature.name!r} holds {numbers[outside][0]:g}: allowed is {low:g} to {high:g} ({feature.unit})")
    if feature.kind == "integer" and np.any(numbers[np.isfinite(numbers)] % 1):
        raise ValueError(
            f"{feature.name!r} holds {numbers[np.isfinite(numbers) & (numbers % 1 != 0)][0]:g}: whole numbers are expected"
        )
