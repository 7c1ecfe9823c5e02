"""A fitted joint distribution of a table's columns: it draws new rows and is stored as plain arrays.

Columns are drawn one after another, each from a donor in its leaf (see `engine.twins.conditional`). A filter needs no rejection:
only donors that satisfy it are drawn from, and the share of them in a row's leaf is that row's weight.

A fitted model holds the training values of its donors: protect it as the table that it was learned from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.twins.conditional import Conditional, Tree, feature_buffer
from engine.twins.decoding import Decoder
from engine.twins.empty_filter import EmptyFilter
from engine.twins.joint_storage import decoder_arrays, decoder_meta, load_decoder, load_marginal, marginal_arrays, marginal_meta
from engine.twins.marginal import DrawnColumn, Marginal, Predicate, cast_to_dtype, evaluate, rows_satisfying
from engine.twins.resampling import assign_filtered_donors, between_neighbours, draw_donors, resample
from schemas.arrays import Flags, Floats, Integers

__all__ = ["Constraints", "JointModel", "SampledTable"]

PARTICLES = 2_000  # fewest rows drawn under a filter, so that a narrow one does not leave too few
TOP_UP_ROUNDS = 20


@dataclass(frozen=True)
class Constraints:
    """Constraints on every drawn row, besides that values stay in their observed range.

    Attributes:
        upper_bounds: Column to the column that it never exceeds.
        ratios: Derived column to its (part, whole); it is computed, not drawn. 0 where the whole is 0.
    """

    upper_bounds: Mapping[str, str] = field(default_factory=dict)
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def within(self, columns: Iterable[str]) -> Constraints:
        """Only the constraints whose columns all exist."""
        available = set(columns)
        return Constraints(
            {a: b for a, b in self.upper_bounds.items() if {a, b} <= available},
            {rate: parts for rate, parts in self.ratios.items() if {rate, *parts} <= available},
        )


@dataclass(frozen=True)
class SampledTable:
    """Drawn rows.

    Attributes:
        frame: The rows, in the columns, order and dtypes of the training frame.
        donors: Training row `(n,)` that the value of the last column comes from.
        real_rows: Training rows that satisfy the same filter.
    """

    frame: pd.DataFrame
    donors: Integers
    real_rows: int


@dataclass(frozen=True)
class JointModel:
    """A fitted joint distribution.

    Attributes:
        names: Columns of the training frame, in its order.
        columns: Drawn columns, in the order of drawing.
        conditionals: Of the drawn columns, in the same order.
        constraints: Constraints on every drawn row.
        ratio_dtypes: Dtype of each computed column.
        decoder: Decodes columns that are drawn as shares of others; their entries of `columns` hold the shares.
        followed: Column to the one whose donors it takes over, because that one determines it.
    """

    names: tuple[str, ...]
    columns: tuple[Marginal, ...]
    conditionals: tuple[Conditional, ...]
    constraints: Constraints
    ratio_dtypes: Mapping[str, str]
    decoder: Decoder = field(default_factory=Decoder)
    followed: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Training rows."""
        return len(self.columns[0].codes)

    def sample(self, n: int, *, rng: np.random.Generator, allowed: Mapping[str, Predicate] | None = None) -> SampledTable:
        """Draw rows of the training frame's columns, order and dtypes.

        Args:
            n: Rows to draw.
            rng: The only source of randomness: the same state gives the same rows.
            allowed: Column to a predicate over values of that column; every drawn row satisfies all of them.

        Raises:
            EmptyFilter: If no training row satisfies them all.
            ValueError: If `n` is not positive or a filtered column is unknown.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        allowed = allowed or {}
        masks = self._allowed_rows(allowed)
        matching = np.logical_and.reduce([np.ones(self.n_rows, dtype=bool), *masks.values()])
        if not matching.any():
            raise EmptyFilter.from_masks(masks, {name: self.training(name) for name in masks})
        frame, donors = self._sample_filtered(n, rng, allowed, masks)
        return SampledTable(frame, donors, int(matching.sum()))

    def without(self, last: str) -> JointModel:
        """The model without its last drawn column, unless another one is related to it: it draws the same rows of the others."""
        relations = self.decoder.relations.listed
        related = {name for relation in relations for name in relation.columns}.union(
            *(self.decoder.chain(share.column) for share in self.decoder.shares)
        )
        related |= {*self.followed, *self.followed.values(), *self.constraints.upper_bounds}
        related |= {name for parts in self.constraints.ratios.values() for name in parts}
        if self.columns[-1].name != last or last in related:
            return self
        names = tuple(name for name in self.names if name != last)
        return replace(self, names=names, columns=self.columns[:-1], conditionals=self.conditionals[:-1])

    def training(self, name: str) -> pd.Series[Any]:
        """A column's training values `(n_rows,)`, in the training frame's dtype."""
        if name not in self.constraints.ratios:
            return self._original(name).training
        part, whole = (self._original(column).training_values for column in self.constraints.ratios[name])
        return cast_to_dtype(pd.Series(_ratio(part, whole), name=name), self.ratio_dtypes[name])

    def table(self) -> pd.DataFrame:
        """The training frame."""
        return pd.DataFrame({name: self.training(name) for name in self.names})

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The fitted state as plain arrays, for `from_arrays` together with `meta`."""
        return {
            f"{k}.{name}": array
            for k, pair in enumerate(zip(self.columns, self.conditionals, strict=True))
            for name, array in (marginal_arrays(pair[0]) | _conditional_arrays(pair[1])).items()
        } | decoder_arrays(self.decoder)

    @property
    def meta(self) -> dict[str, Any]:
        """The rest of the fitted state as JSON types, for `from_arrays` together with `arrays`."""
        return {
            "names": list(self.names),
            "columns": [_column_meta(*pair) for pair in zip(self.columns, self.conditionals, strict=True)],
            "upper_bounds": dict(self.constraints.upper_bounds),
            "ratios": {rate: list(parts) for rate, parts in self.constraints.ratios.items()},
            "ratio_dtypes": dict(self.ratio_dtypes),
            "followed": dict(self.followed),
            "decoder": decoder_meta(self.decoder),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> JointModel:
        """The model that `arrays` and `meta` were taken from: it draws the same rows, bit for bit."""
        pairs = [_load_column(k, column_meta, arrays) for k, column_meta in enumerate(meta["columns"])]
        ratios = {rate: (part, whole) for rate, (part, whole) in meta["ratios"].items()}
        columns = tuple(column for column, _ in pairs)
        return cls(
            names=tuple(meta["names"]),
            columns=columns,
            conditionals=tuple(conditional for _, conditional in pairs),
            constraints=Constraints(dict(meta["upper_bounds"]), ratios),
            ratio_dtypes=dict(meta["ratio_dtypes"]),
            decoder=load_decoder(meta.get("decoder"), arrays, columns),  # models stored before shares have none
            followed=dict(meta.get("followed", {})),
        )

    def _column(self, name: str) -> Marginal:
        return next(column for column in self.columns if column.name == name)

    def _original(self, name: str) -> Marginal:
        """A column with its own values, not those of the share that is drawn for it."""
        return self.decoder.columns[name] if name in self.decoder.share_of else self._column(name)

    def _allowed_rows(self, allowed: Mapping[str, Predicate]) -> dict[str, Flags]:
        unknown = sorted(set(allowed) - set(self.names))
        if unknown:
            raise ValueError(f"unknown columns {unknown} in the filter; available are {sorted(self.names)}")
        return {name: self._rows_where(name, predicate) for name, predicate in allowed.items()}

    def _rows_where(self, name: str, predicate: Predicate) -> Flags:
        if name in self.constraints.ratios:
            return evaluate(predicate, self.training(name))
        return self._original(name).rows_where(predicate)

    def _sample_filtered(
        self, n: int, rng: np.random.Generator, allowed: Mapping[str, Predicate], masks: Mapping[str, Flags]
    ) -> tuple[pd.DataFrame, Integers]:
        """Draw rows, and again the few that a bound, a ratio or a share has moved out of the filter or that break a relation.

        Where even repeated draws lack some, because hardly any row can satisfy all, rows are taken twice.
        """
        frame, donors = self._draw(n, rng, allowed, masks)
        for _ in range(TOP_UP_ROUNDS):
            if len(frame) == n:
                break
            more, more_donors = self._draw(n - len(frame), rng, allowed, masks)
            frame, donors = pd.concat([frame, more]), np.concatenate([donors, more_donors])
        if not len(frame):
            raise ValueError("no drawn row satisfies the filter and the relations of the columns at once: widen the filter")
        rows = np.concatenate([np.arange(len(frame)), rng.integers(len(frame), size=n - len(frame))])
        return frame.iloc[rows].reset_index(drop=True), donors[rows]

    def _draw(
        self, n: int, rng: np.random.Generator, allowed: Mapping[str, Predicate], masks: Mapping[str, Flags]
    ) -> tuple[pd.DataFrame, Integers]:
        """Up to `n` rows, and the donors of their last column; a filtered column resamples the rows by their weights."""
        masks = self._masks_of_drawn_columns(masks)
        filtered = [k for k, column in enumerate(self.columns) if column.name in masks]
        rows = max(n, PARTICLES) if filtered else n
        drawn: list[DrawnColumn] = []
        buffer = feature_buffer(len(self.columns), rows)
        for k, (column, conditional) in enumerate(zip(self.columns, self.conditionals, strict=True)):
            if column.name in self.followed:
                drawn.append(DrawnColumn.from_donors(column, drawn[self._position(self.followed[column.name])].donors))
                continue
            features = conditional.features(drawn, buffer) if drawn else np.empty((0, rows), dtype=np.float32)
            if column.name not in masks:
                donors = draw_donors(conditional, features, rng)
            else:
                matching = np.logical_and.reduce(list(masks.values()))
                leaves = conditional.tree.apply(features)
                donors, weights = assign_filtered_donors(conditional, leaves, masks[column.name], matching, rng)
                resampled = resample(weights, n if k == filtered[-1] else rows, rng)
                drawn, donors, rows = [earlier.take(resampled) for earlier in drawn], donors[resampled], len(resampled)
            drawn.append(self._draw_values(column, donors, drawn, allowed, rng))
        frame, broken = self._decoded_frame(drawn, allowed)
        usable = ~broken & rows_satisfying(frame, allowed)
        return frame[usable], drawn[-1].donors[usable]

    def _position(self, name: str) -> int:
        return next(k for k, column in enumerate(self.columns) if column.name == name)

    def _decoded_frame(self, drawn: Sequence[DrawnColumn], allowed: Mapping[str, Predicate]) -> tuple[pd.DataFrame, Flags]:
        """The rows in the columns of the training frame, and which of them break a relation."""
        values = {column.name: result.values for column, result in zip(self.columns, drawn, strict=True)}
        if not self.decoder.columns:
            return self._frame(values), np.zeros(len(drawn[-1].donors), dtype=bool)
        donors = {column.name: drawn[self._position(self._masked_column(column.name))].donors for column in self.columns}
        values, broken = self.decoder.decode(values, donors, allowed)
        return self._frame(values), broken

    def _masks_of_drawn_columns(self, masks: Mapping[str, Flags]) -> dict[str, Flags]:
        """Conditions on the columns at which they are applied: a ratio's part, a share's last source, a followed column."""
        combined: dict[str, Flags] = {}
        for name, mask in masks.items():
            column = self._masked_column(self.constraints.ratios[name][0] if name in self.constraints.ratios else name)
            combined[column] = mask & combined.get(column, mask)
        return combined

    def _masked_column(self, name: str) -> str:
        """The last drawn column that the value of a column depends on."""
        while name in self.followed:
            name = self.followed[name]
        return max(self.decoder.chain(name), key=self._position)

    def _draw_values(
        self,
        column: Marginal,
        donors: Integers,
        drawn: Sequence[DrawnColumn],
        allowed: Mapping[str, Predicate],
        rng: np.random.Generator,
    ) -> DrawnColumn:
        """Values near those of the donors; the donor's own where the near one would not satisfy the filter."""
        exact = DrawnColumn.from_donors(column, donors)
        near = between_neighbours(column, exact, rng) if column.is_continuous and not column.on_grid else exact
        if column.name in allowed and near is not exact and column.name not in self.decoder.share_of:
            near = near.where(evaluate(allowed[column.name], column.restore(near.values)), exact)
        return self._bounded(column, near, drawn, allowed) if column.name in self.constraints.upper_bounds else near

    def _bounded(
        self, column: Marginal, near: DrawnColumn, drawn: Sequence[DrawnColumn], allowed: Mapping[str, Predicate]
    ) -> DrawnColumn:
        """Where the bound is exceeded (or a filter is on the ratio), take the donor's ratio to it."""
        bound = self.constraints.upper_bounds[column.name]
        k = next(k for k, candidate in enumerate(self.columns) if candidate.name == bound)
        whole, limit = self.columns[k].training_values[near.donors], drawn[k].values
        part = column.support[near.codes]
        ratio = np.where(whole > 0, np.clip(_ratio(part, whole), 0.0, 1.0), 1.0)
        is_filtered = any(parts == (column.name, bound) and rate in allowed for rate, parts in self.constraints.ratios.items())
        scaled = np.where(limit > 0, np.round(ratio * limit, column.decimals), limit)
        values = np.where((near.values > limit) | (is_filtered & ~np.isnan(limit + part)), scaled, near.values)
        values = np.where(values > limit, limit, values)
        return DrawnColumn(near.donors, near.codes, values, column.score_values(values))

    def _frame(self, values: Mapping[str, Floats]) -> pd.DataFrame:
        restored = {column.name: self._original(column.name).restore(values[column.name]) for column in self.columns}
        for rate, (part, whole) in self.constraints.ratios.items():
            ratio = pd.Series(_ratio(values[part], values[whole]), name=rate)
            restored[rate] = cast_to_dtype(ratio, self.ratio_dtypes[rate])
        return pd.DataFrame({name: restored[name] for name in self.names})


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Part over whole, 0 where the whole is 0, NaN where either is missing."""
    return np.divide(part, whole, out=np.where(np.isnan(part + whole), np.nan, 0.0), where=whole > 0)


def _conditional_arrays(conditional: Conditional) -> dict[str, npt.NDArray[Any]]:
    orderings = {f"ordering.{predictor}": places for predictor, places in conditional.orderings.items()}
    siblings = {
        f"tree{k}.{name}": array for k, tree in enumerate(conditional.siblings) for name, array in _tree_arrays(tree).items()
    }
    return orderings | siblings | {"slopes": conditional.slopes} | _tree_arrays(conditional)


def _tree_arrays(conditional: Conditional) -> dict[str, npt.NDArray[Any]]:
    return {
        "children": conditional.tree.children.astype(np.int32),
        "feature": conditional.tree.feature.astype(np.int16),
        "threshold": conditional.tree.threshold,
        "donors": conditional.donors.astype(np.int32),
        "starts": conditional.starts.astype(np.int32),
    }


def _column_meta(column: Marginal, conditional: Conditional) -> dict[str, Any]:
    depths = {"sibling_depths": [sibling.tree.depth for sibling in conditional.siblings]}
    return marginal_meta(column) | {"depth": conditional.tree.depth} | depths


def _load_column(k: int, meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Marginal, Conditional]:
    own = {key.partition(".")[2]: array for key, array in arrays.items() if key.startswith(f"{k}.")}
    orderings = {int(key.partition(".")[2]): places for key, places in own.items() if key.startswith("ordering.")}

    def load(prefix: str, depth: int, siblings: tuple[Conditional, ...] = ()) -> Conditional:
        children, feature, donors, starts = (
            own[f"{prefix}{name}"].astype(np.int64) for name in ("children", "feature", "donors", "starts")
        )
        tree = Tree(children, feature, own[f"{prefix}threshold"], depth)
        return Conditional(orderings, own["slopes"], tree, donors, starts, siblings)

    siblings = tuple(load(f"tree{m}.", depth) for m, depth in enumerate(meta.get("sibling_depths", ())))
    return load_marginal(meta, own), load("", meta["depth"], siblings)
