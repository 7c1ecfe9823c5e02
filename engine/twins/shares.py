"""Replace columns by their share of, or rate per, another column, so that drawn rows keep the arithmetic of real ones.

A tree of donors draws a part without regard to the whole that another donor gave: their ratio is blurred, and sums exceed their
total. The share is drawn instead, and multiplied by the drawn whole afterwards. Of several parts of one sum, each is a share of
what the parts before it leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from engine.twins.marginal import Marginal
from engine.twins.relations import TableRelations
from schemas.arrays import Floats

__all__ = ["Share", "choose_shares", "decoding_order", "encode", "is_divisible"]

FULL = 0.8  # a part that reaches this share of its whole in some rows is a part of it, not only smaller
FULL_ROWS = 0.999  # quantile of the share by which that is seen
RATE_NOISE = 0.9  # variance of the logarithm of a rate, as a share of that of the column, below which the rate is drawn
FEWEST_ROWS = 200  # with both values, from which a share is learned
FEWEST_VALUES = 40  # a column of fewer distinct values is drawn as it is, with its exact support
ROWS_PER_VALUE = 20  # and one whose values repeat as often on average
COMPLETE = 0.999  # share of a column's rows that must have a whole
FULL_SUM = 0.5  # median share of a sum in its whole, above which a part is drawn as a share of what the others leave


@dataclass(frozen=True)
class Share:
    """How one column is drawn: divided by another one, less the parts that are decoded before.

    Attributes:
        column: the column that is replaced by its share.
        whole: the column that it is divided by; None for a plain number.
        others: parts of the whole that are subtracted from it first; a missing one counts as 0.
        step: a number that the column is divided by as well.
        factor: the share in every row, where it is known; None where it varies.
    """

    column: str
    whole: str | None
    others: tuple[str, ...] = ()
    step: float = 1.0
    factor: float | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The columns that must be decoded before this one."""
        return (*((self.whole,) if self.whole else ()), *self.others)

    def base(self, values: Mapping[str, Floats]) -> Floats | float:
        """What a share is multiplied by, ``(n,)``: never negative, NaN where the whole is missing."""
        if self.whole is None:
            return self.step
        rest = values[self.whole] - sum((np.nan_to_num(values[name]) for name in self.others), np.zeros(len(values[self.whole])))
        return np.asarray(np.maximum(rest, 0.0) * self.step)


def encode(share: Share, values: Mapping[str, Floats]) -> Floats:
    """The shares of a column ``(n,)``: NaN where it or its whole is missing, 0 where there is nothing to share."""
    part, base = values[share.column], np.broadcast_to(share.base(values), values[share.column].shape)
    missing = np.isnan(part + base)
    if share.factor is not None:
        return np.where(missing, np.nan, share.factor)
    return np.asarray(np.divide(part, base, out=np.where(missing, np.nan, 0.0), where=base > 0))


def decoding_order(shares: Sequence[Share], names: Sequence[str]) -> list[str]:
    """Names with every column after those that it is a share of."""
    sources, order = {share.column: share.sources for share in shares}, list[str]()

    def append(name: str) -> None:
        for source in sources.get(name, ()):
            append(source)
        if name not in order:
            order.append(name)

    for name in names:
        append(name)
    return order


def choose_shares(marginals: Mapping[str, Marginal], relations: TableRelations, fixed: Sequence[str]) -> tuple[Share, ...]:
    """Choose the columns that are drawn as shares or rates, and of which columns.

    Constant multiples come first, then parts of a sum, then other parts by the least noisy share; columns that are left are rates
    of the column that explains them best.

    Args:
        marginals: the columns by name.
        relations: the relations between them.
        fixed: columns that are drawn as they are: filterable ones, the outcome, and those that others follow from.
    """
    values = {
        name: column.training_values
        for name, column in marginals.items()
        if name not in fixed and not column.is_category and len(column.support) > 1
    }
    shares = {share.column: share for share in _multiples(relations, values)}
    divisible = {name: column for name, column in values.items() if is_divisible(marginals[name])}
    for share in (*_parts_of_sums(relations, values, divisible), *_parts(relations, values, divisible)):
        if share.column not in shares and not _is_circular(share, shares):
            shares[share.column] = share
    for share in _rates({name: column for name, column in divisible.items() if name not in shares}):
        if not _is_circular(share, shares):
            shares[share.column] = share
    steps = {r.columns[0]: r.factor or 1.0 for r in relations.of_kind("step")}
    for name, step in steps.items():
        if name in values and name not in shares and not marginals[name].on_grid:
            shares[name] = Share(name, None, step=step)
    return tuple(shares.values())


def is_divisible(column: Marginal) -> bool:
    """Whether a column is one of amounts, with so many values that new ones do not stand out."""
    enough = len(column.support) > max(FEWEST_VALUES, len(column.codes) / ROWS_PER_VALUE)
    return enough and bool(column.observed[0] >= 0) and column.is_continuous


def _is_circular(share: Share, shares: Mapping[str, Share]) -> bool:
    """Whether a source of the share is itself decoded from the column."""
    waiting, visited = list(share.sources), set[str]()
    while waiting:
        name = waiting.pop()
        if name == share.column:
            return True
        if name not in visited and name in shares:
            waiting += shares[name].sources
        visited.add(name)
    return False


def _multiples(relations: TableRelations, values: Mapping[str, Floats]) -> Iterator[Share]:
    for relation in relations.of_kind("proportional", "multiple"):
        column, whole = relation.columns
        if column in values and whole in values and _has_whole(values[column], values[whole]):
            yield Share(column, whole, factor=relation.factor)


def _has_whole(part: Floats, whole: Floats) -> bool:
    """Whether nearly every value of a part has a positive whole."""
    present = part[~np.isnan(part)] > 0, whole[~np.isnan(part)]
    return len(present[1]) >= FEWEST_ROWS and float(((present[1] > 0) | ~present[0]).mean()) >= COMPLETE


def _parts_of_sums(relations: TableRelations, values: Mapping[str, Floats], divisible: Mapping[str, Floats]) -> Iterator[Share]:
    """Parts of the fullest sum of each whole, the largest first; each is a share of what those before it leave."""
    by_whole: dict[str, tuple[float, tuple[str, ...]]] = {}
    for relation in relations.of_kind("sum", "sum_not_above"):
        *parts, whole = relation.columns
        if whole in values and set(parts) <= set(divisible) and all(_has_whole(values[name], values[whole]) for name in parts):
            fullness = _median_ratio(np.sum([values[name] for name in parts], axis=0), values[whole])
            if relation.kind == "sum" or fullness >= FULL_SUM:
                by_whole[whole] = max(by_whole.get(whole, (0.0, ())), (fullness, tuple(parts)))
    for whole, (_, names) in by_whole.items():
        ordered = sorted(names, key=lambda name: -_median_ratio(values[name], values[whole]))
        for k, name in enumerate(ordered):
            yield Share(name, whole, tuple(ordered[:k]))


def _median_ratio(part: Floats, whole: Floats) -> float:
    rows = whole > 0
    return float(np.nanmedian(part[rows] / whole[rows]))


def _parts(relations: TableRelations, values: Mapping[str, Floats], divisible: Mapping[str, Floats]) -> Iterator[Share]:
    """Columns that never exceed another one and reach it in some rows, as a share of the one that explains them best."""
    wholes: dict[str, list[tuple[float, str]]] = {}
    for part, whole in relations.bounds:
        if (
            part in divisible
            and whole in values
            and _has_whole(values[part], values[whole])
            and _reaches(values[part], values[whole])
        ):
            wholes.setdefault(part, []).append((_noise(values[part], values[whole]), whole))
    for part, candidates in wholes.items():
        yield Share(part, min(candidates)[1])


def _reaches(part: Floats, whole: Floats) -> bool:
    rows = (whole > 0) & ~np.isnan(part)
    return float(np.quantile(part[rows] / whole[rows], FULL_ROWS)) >= FULL


def _noise(a: Floats, b: Floats) -> float:
    """Variance of the logarithm of a ratio; infinite where there are too few rows."""
    rows = (a > 0) & (b > 0)
    return float(np.var(np.log(a[rows] / b[rows]))) if rows.sum() >= FEWEST_ROWS else np.inf


def _rates(values: Mapping[str, Floats]) -> Iterator[Share]:
    """Columns as rates of the one that explains the others best, or of a rate's column: the tree of the least noisy ratios."""
    noise = {(a, b): _noise(values[a], values[b]) for a, b in combinations(values, 2)}
    noise |= {(b, a): value for (a, b), value in noise.items()}
    variance = {name: _noise(column, np.ones(len(column))) for name, column in values.items()}
    gains = {
        name: sum(max(0.0, 1.0 - noise[name, b] / variance[b]) for b in values if b != name) for name in values if variance[name]
    }
    gains = {name: gain for name, gain in gains.items() if np.isfinite(gain)}
    attached = [max(gains, key=gains.__getitem__)] if gains else []
    while attached and len(attached) < len(gains):
        child, whole = min(
            ((a, b) for a in gains if a not in attached for b in attached), key=lambda pair: noise[pair] / variance[pair[0]]
        )
        if noise[child, whole] >= RATE_NOISE * variance[child]:
            return
        attached.append(child)
        if _has_whole(values[child], values[whole]):
            yield Share(child, whole)
