"""Turn drawn shares back into values, and keep the bounds and sums that hold in every learned row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from engine.twins.marginal import Marginal, Predicate, evaluate
from engine.twins.relations import TableRelations, broken_rows
from engine.twins.shares import Share, decoding_order
from schemas.arrays import Flags, Floats, Integers
from schemas.relations import Relation

__all__ = ["Decoder"]


@dataclass(frozen=True)
class Decoder:
    """Decodes the drawn columns of a table.

    Attributes:
        shares: the columns that are drawn as shares.
        columns: all numeric columns by name, with the values of the training table; of a share the column that it stands for.
        relations: between them.
    """

    shares: tuple[Share, ...] = ()
    columns: Mapping[str, Marginal] = field(default_factory=dict)
    relations: TableRelations = field(default_factory=TableRelations)

    @cached_property
    def share_of(self) -> Mapping[str, Share]:
        """The shares by the column that they stand for."""
        return {share.column: share for share in self.shares}

    def chain(self, name: str) -> set[str]:
        """The column and all columns that its value is decoded from."""
        sources = self.share_of[name].sources if name in self.share_of else ()
        return {name}.union(*(self.chain(source) for source in sources))

    def decode(
        self, drawn: Mapping[str, Floats], donors: Mapping[str, Integers], allowed: Mapping[str, Predicate]
    ) -> tuple[dict[str, Floats], Flags]:
        """Values of the columns, and which rows break a relation even so, ``(n,)``.

        Args:
            drawn: values, or shares, of the columns by name, each ``(n,)``.
            donors: training rows by column, each ``(n,)``; of a filtered column they satisfy the filter.
            allowed: the filter; where a decoded value does not satisfy it, the donor's own is taken.
        """
        values: dict[str, Floats] = {}
        for name in decoding_order(self.shares, list(drawn)):
            value = drawn[name]
            if name in self.share_of:
                value = self._decoded(self.share_of[name], value, values, donors[name])
                if name in allowed:
                    column = self.columns[name]
                    is_allowed = evaluate(allowed[name], column.restore(value))
                    value = np.where(is_allowed, value, column.training_values[donors[name]])
            values[name] = self._bounded(name, value, values) if name in self.columns else value
        return values, self._broken(values, drawn)

    def _decoded(self, share: Share, drawn: Floats, values: Mapping[str, Floats], donors: Integers) -> Floats:
        """The share times its base, on the grid and in the range of the column; the donor's value where there is no whole."""
        column, base = self.columns[share.column], share.base(values)
        value = np.where(np.isnan(base), column.training_values[donors], drawn * base)
        step = self._steps.get(share.column, 1.0)
        value = np.clip(np.round(value / step, column.decimals) * step, column.observed[0], column.observed[-1])
        is_exact = share.factor is not None or self._is_remainder(share) or share.column in self._multiples
        return value if is_exact else column.leave_gaps(value)

    def _is_remainder(self, share: Share) -> bool:
        """Whether the column is all that the other parts of its whole leave."""
        columns = {share.column, *share.others, share.whole}
        return any(set(relation.columns) == columns for relation in self.relations.of_kind("sum"))

    @cached_property
    def _multiples(self) -> set[str]:
        return {relation.columns[0] for relation in self.relations.of_kind("multiple")}

    @cached_property
    def _steps(self) -> dict[str, float]:
        return {relation.columns[0]: relation.factor or 1.0 for relation in self.relations.of_kind("step")}

    def _bounded(self, name: str, value: Floats, values: Mapping[str, Floats]) -> Floats:
        """The value moved to the nearest possible one that keeps the bounds given by the columns decoded so far."""
        low, high = self._limits(name, value, values)
        outside = np.flatnonzero((value > high) | (value < low))
        if not len(outside):
            return value
        value, column = value.copy(), self.columns[name]
        value[outside] = column.within(value[outside], low[outside], high[outside])
        return value

    def _limits(self, name: str, value: Floats, values: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        low, high = np.full(len(value), -np.inf), np.full(len(value), np.inf)
        for lower, upper in self.relations.bounds:
            if upper == name and lower in values:
                low = np.fmax(low, values[lower])
            elif lower == name and upper in values:
                high = np.fmin(high, values[upper])
        for parts, whole in self._sums(name, values):
            total = np.sum([np.nan_to_num(values[part]) for part in parts], axis=0)
            if whole == name:
                low = np.fmax(low, total)
            else:
                high = np.fmin(high, values[whole] - total)
        return low, high

    def _sums(self, name: str, values: Mapping[str, Floats]) -> Iterator[tuple[Sequence[str], str]]:
        """Other parts, and the whole, of each sum with this column."""
        for relation in self.relations.of_kind("sum", "sum_not_above"):
            *parts, whole = relation.columns
            if name in relation.columns and (whole == name or whole in values):
                yield [part for part in parts if part != name and part in values], whole

    def _broken(self, values: Mapping[str, Floats], drawn: Mapping[str, Floats]) -> Flags:
        """Rows that break a relation, ``(n,)``: no value was possible, or one that determines another had to be moved."""
        broken = np.zeros(len(next(iter(values.values()))), dtype=bool)
        for lower, upper in self.relations.bounds:
            broken |= broken_rows(Relation(kind="not_above", columns=(lower, upper)), values)
        relations = self.relations.of_kind("sum", "sum_not_above", "proportional", "multiple", "missing_together")
        for relation in relations:
            decimals = self.columns[relation.columns[0]].decimals
            broken |= broken_rows(relation, {name: values[name] for name in relation.columns}, decimals)
        for relation in self.relations.of_kind("determines"):
            for name in relation.columns:
                if name in self.columns and name not in self.share_of:
                    broken |= (values[name] != drawn[name]) & ~np.isnan(drawn[name])
        return broken
