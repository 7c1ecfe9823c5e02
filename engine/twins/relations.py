"""Find relations between columns that hold in every row of a table.

A relation that holds by chance is told apart by a comparison with rows whose values are exchanged between rows that are similar in
one of the columns, as a generator that does not know the relation would draw them: enough of these must break it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from engine.twins.marginal import Marginal
from schemas.arrays import Flags, Floats, Integers
from schemas.relations import Relation

__all__ = ["TableRelations", "broken_rows", "check_declared", "find_relations"]

FEWEST_ROWS = 200  # with a value in all columns, from which a relation is believed
FEWEST_BROKEN = 10.0  # expected rows among those with exchanged values that break a relation that is not there by chance
EXCHANGES = (1, 3, 10, 30, 100)  # ranks between rows whose values are exchanged
FEWEST_MISSING = 3  # rows whose coincidence is not by chance
TOLERANCE = 1e-9  # relative rounding error of a sum or a product
ROWS_PER_LEVEL = 5  # fewest rows per value of a column that determines another
MOST_STEPS = 40  # values of a column that intervals of another determine


@dataclass(frozen=True)
class TableRelations:
    """Relations of a table.

    Attributes:
        listed: those that do not hold by chance, declared ones first.
        bounds: all pairs (a, b) of columns with a <= b in every row, also those that may hold by chance.
    """

    listed: tuple[Relation, ...] = ()
    bounds: tuple[tuple[str, str], ...] = ()

    def of_kind(self, *kinds: str) -> list[Relation]:
        """The relations of these kinds that no learned row breaks, or that are declared."""
        return [relation for relation in self.listed if relation.kind in kinds]


def find_relations(marginals: Mapping[str, Marginal], outcome: str | None, declared: Sequence[Relation] = ()) -> TableRelations:
    """Find the relations between the columns of a table, except for its outcome.

    Args:
        marginals: the columns by name.
        outcome: a column that no relation is searched for, because models learn from it; None for no such column.
        declared: relations that twins satisfy in any case; those with columns that the table lacks are left out.

    Example:
        >>> import pandas as pd
        >>> from engine.twins.marginal import fit_marginal
        >>> rng = np.random.default_rng(0)
        >>> total = rng.poisson(50, 1000)
        >>> frame = pd.DataFrame({"total": total, "old": rng.binomial(total, 0.7)}).assign(young=lambda x: x["total"] - x["old"])
        >>> in_table = find_relations({name: fit_marginal(frame[name], categorical=False) for name in frame}, None)
        >>> [relation.formula for relation in in_table.of_kind("sum")]
        ['old + young = total']
    """
    columns = [column for name, column in marginals.items() if name != outcome]
    numeric = {column.name: column.training_values for column in columns if not column.is_category and column.observed.size}
    checked = [check_declared(relation, marginals) for relation in declared if set(relation.columns) <= set(marginals)]
    bounds = _bounds(numeric)
    products = list(_products(numeric, columns))
    proportional = [set(relation.columns) for relation in products if relation.kind == "proportional"]
    candidates = [
        *(_with_n(Relation(kind="not_above", columns=pair), numeric) for pair in bounds if _breaks(numeric, [pair[0]], pair[1])),
        *_sums(numeric, bounds),
        *products,
        *_steps(numeric),
        *_missing_together(numeric),
        *(relation for relation in _determined(columns) if set(relation.columns) not in proportional),
    ]
    formulas = {(relation.kind, relation.columns) for relation in checked}
    news = [relation for relation in candidates if (relation.kind, relation.columns) not in formulas]
    pairs = dict.fromkeys([*bounds, *((r.columns[0], r.columns[1]) for r in checked if r.kind == "not_above")])
    return TableRelations((*checked, *news), tuple(pairs))


def check_declared(relation: Relation, marginals: Mapping[str, Marginal]) -> Relation:
    """A declared relation with the learned rows it applies to, and those that break it."""
    values = {name: marginals[name].training_values for name in relation.columns}
    return _with_n(relation, values).model_copy(
        update={"declared": True, "n_broken": int(broken_rows(relation, values, _decimals(relation, marginals)).sum())}
    )


def _decimals(relation: Relation, marginals: Mapping[str, Marginal]) -> int:
    return marginals[relation.columns[0]].decimals


def _with_n(relation: Relation, values: Mapping[str, Floats]) -> Relation:
    missing = np.isnan(np.stack([values[name] for name in relation.columns])).any(axis=0)
    return relation.model_copy(update={"n": int((~missing).sum())})


def broken_rows(relation: Relation, values: Mapping[str, Floats], decimals: int = 15) -> Flags:
    """Which rows break a relation, ``(n,)``; rows with a missing value break none, and a step or determined value has no row.

    Args:
        relation: the relation.
        values: the values of its columns, each ``(n,)``.
        decimals: decimal places of its first column.
    """
    *parts, last = (values[name] for name in relation.columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        if relation.kind == "not_above":
            return np.asarray(parts[0] > last + _slack(last))
        if relation.kind in ("sum", "sum_not_above"):
            excess = np.sum(parts, axis=0) - last
            return np.asarray((np.abs(excess) if relation.kind == "sum" else excess) > _slack(last))
        if relation.kind == "proportional":
            expected = np.round((relation.factor or 0.0) * last, decimals)
            return np.asarray(np.abs(parts[0] - expected) > _slack(expected))
        if relation.kind == "missing_together":
            return np.asarray(np.isnan(parts[0]) != np.isnan(last))
        if relation.kind == "multiple":
            return np.asarray(np.abs(np.remainder(parts[0], last)) > 0) & (last > 0)
        return np.zeros(len(last), dtype=bool)


def _slack(values: Floats) -> Floats:
    return np.asarray(TOLERANCE * np.maximum(1.0, np.abs(values)))


def _bounds(numeric: Mapping[str, Floats]) -> list[tuple[str, str]]:
    """Pairs (a, b) with a <= b in every row and a < b in some."""
    if not numeric:
        return []
    names, values = list(numeric), np.stack(list(numeric.values()))
    sample = values[:, :: max(1, values.shape[1] // 500)]
    pairs = []
    for k, name in enumerate(names):
        with np.errstate(invalid="ignore"):
            candidates = np.flatnonzero(~(sample[k] > sample + _slack(sample)).any(axis=1))
            pairs += [(name, names[m]) for m in candidates if m != k and _never_above(values[k], values[m])]
    return pairs


def _never_above(a: Floats, b: Floats) -> bool:
    both = ~np.isnan(a + b)
    a, b = a[both], b[both]
    return len(a) >= FEWEST_ROWS and not (a > b + _slack(b)).any() and bool((a < b).any())


def _breaks(numeric: Mapping[str, Floats], parts: Sequence[str], whole: str) -> bool:
    """Whether exchanging the last part between rows with a similar whole would break ``parts <= whole``."""
    *others, part = (numeric[name] for name in parts)
    total = numeric[whole]
    rows = np.flatnonzero(~np.isnan(total + part + sum(others, np.zeros(len(part)))))
    order = rows[np.argsort(total[rows], kind="stable")]
    room, part = (total - sum(others, np.zeros(len(part))))[order], part[order]
    broken = [
        (part[shift:] > room[:-shift]).sum() + (part[:-shift] > room[shift:]).sum() for shift in EXCHANGES if shift < len(part)
    ]
    return bool(broken) and max(broken) / 2 >= FEWEST_BROKEN


def _sums(numeric: Mapping[str, Floats], bounds: Sequence[tuple[str, str]]) -> Iterator[Relation]:
    """Sets of parts whose sum is at most, or equal to, a whole."""
    for whole in dict.fromkeys(b for _, b in bounds):
        parts = [a for a, b in bounds if b == whole and numeric[a][~np.isnan(numeric[a])].min(initial=0.0) >= 0]
        sums = [frozenset(pair) for pair in combinations(parts, 2) if _is_sum(numeric, pair, whole)]
        largest = [pair for pair in sums if not any(_replaced(pair, rival, bounds) for rival in sums)]
        full = dict.fromkeys(_extended(numeric, [name for name in parts if name in pair], whole, parts) for pair in largest)
        yield from (_sum_relation(numeric, names, whole) for names in full)


def _replaced(pair: frozenset[str], rival: frozenset[str], bounds: Collection[tuple[str, str]]) -> bool:
    """Whether another pair has a larger column in place of one of this pair, so that this one follows from it."""
    return len(pair & rival) == 1 and (next(iter(pair - rival)), next(iter(rival - pair))) in bounds


def _is_sum(numeric: Mapping[str, Floats], parts: Sequence[str], whole: str) -> bool:
    total = np.sum([numeric[name] for name in parts], axis=0)
    same = bool(np.allclose(numeric[parts[0]], numeric[parts[-1]], equal_nan=True))
    return not same and _at_most(total, numeric[whole]) and _breaks(numeric, parts, whole)


def _at_most(total: Floats, whole: Floats) -> bool:
    both = ~np.isnan(total + whole)
    return int(both.sum()) >= FEWEST_ROWS and not (total > whole + _slack(whole))[both].any()


def _extended(numeric: Mapping[str, Floats], pair: Sequence[str], whole: str, parts: Sequence[str]) -> tuple[str, ...]:
    """The pair with every further part that the whole has room for."""
    names = list(pair)
    for name in parts:
        if name not in names and _is_sum(numeric, [*names, name], whole):
            names.append(name)
    return tuple(name for name in parts if name in names)


def _sum_relation(numeric: Mapping[str, Floats], parts: tuple[str, ...], whole: str) -> Relation:
    relation = _with_n(Relation(kind="sum", columns=(*parts, whole)), numeric)
    broken = broken_rows(relation, {name: numeric[name] for name in relation.columns}).any()
    return relation.model_copy(update={"kind": "sum_not_above"}) if broken else relation


def _products(numeric: Mapping[str, Floats], columns: Sequence[Marginal]) -> Iterator[Relation]:
    """Columns that are a constant, or whole, multiple of another."""
    decimals = {column.name: column.decimals for column in columns}
    for a, b in combinations(numeric, 2):
        larger_first = np.nanmedian(numeric[a]) >= np.nanmedian(numeric[b])
        for first, second in ((a, b), (b, a)) if larger_first else ((b, a), (a, b)):
            relation = _product(first, second, numeric, decimals[first])
            if relation is not None:
                yield relation
                break


def _product(first: str, second: str, numeric: Mapping[str, Floats], decimals: int) -> Relation | None:
    a, b = numeric[first], numeric[second]
    rows = np.flatnonzero((b > 0) & ~np.isnan(a))
    if len(rows) < FEWEST_ROWS or len(np.unique(b[rows[:FEWEST_ROWS]])) < 3:
        return None
    head = rows[: FEWEST_ROWS // 4]
    factor = float(np.median(a[rows] / b[rows]))
    if factor and np.abs(a[head] - np.round(factor * b[head], decimals)).max() <= _slack(a[head]).max():
        return _held(Relation(kind="proportional", columns=(first, second), factor=factor), numeric, decimals)
    if (
        decimals == 0
        and not np.remainder(a[head], b[head]).any()
        and (a[rows] > b[rows]).any()
        and (b[rows] > 1).sum() >= FEWEST_ROWS
    ):
        return _held(Relation(kind="multiple", columns=(first, second)), numeric, decimals)
    return None


def _held(relation: Relation, numeric: Mapping[str, Floats], decimals: int) -> Relation | None:
    values = {name: numeric[name] for name in relation.columns}
    return None if broken_rows(relation, values, decimals).any() else _with_n(relation, numeric)


def _steps(numeric: Mapping[str, Floats]) -> Iterator[Relation]:
    """Columns of whole numbers with a common divisor above 1."""
    for name, values in numeric.items():
        present = np.unique(values[~np.isnan(values)])
        if len(present) < 3 or (present % 1).any() or np.abs(present).max() > 2**53:
            continue
        step = int(np.gcd.reduce(present.astype(np.int64)))
        if step > 1:
            yield _with_n(Relation(kind="step", columns=(name,), factor=step), numeric)


def _missing_together(numeric: Mapping[str, Floats]) -> Iterator[Relation]:
    """Columns whose values are missing in the same rows as those of an earlier column."""
    patterns: dict[bytes, str] = {}
    for name, values in numeric.items():
        missing = np.isnan(values)
        if FEWEST_MISSING <= missing.sum() <= len(missing) - FEWEST_MISSING:
            first = patterns.setdefault(missing.tobytes(), name)
            if first != name:
                yield Relation(kind="missing_together", columns=(first, name), n=len(values))


def _determined(columns: Sequence[Marginal]) -> Iterator[Relation]:
    """Columns whose value follows from that of another, such as the region of a state."""
    for column in columns:
        determiner = next(_determiners(column, columns), None)
        if determiner is not None:
            yield Relation(kind="determines", columns=(determiner.name, column.name), n=len(column.codes))


def _determiners(column: Marginal, columns: Sequence[Marginal]) -> Iterator[Marginal]:
    """Columns that determine this one, those of the fewest values first; of two that determine each other only the earlier."""
    position = {candidate.name: k for k, candidate in enumerate(columns)}
    for candidate in sorted(columns, key=lambda candidate: len(candidate.support)):
        is_finer = (len(column.support), -position[column.name]) < (len(candidate.support), -position[candidate.name])
        if is_finer and (_determines(candidate, column) or _cuts(candidate, column)):
            yield candidate


def _determines(a: Marginal, b: Marginal) -> bool:
    """Whether each value of a has one value of b, in more rows than chance explains."""
    n, levels = len(a.codes), len(a.support)
    if levels * ROWS_PER_LEVEL > n:
        return False
    first = np.full(levels, -1)
    first[a.codes] = b.codes
    shares = np.bincount(b.codes) / n
    return bool((first[a.codes] == b.codes).all()) and (n - levels) * (1.0 - float((shares**2).sum())) >= 2 * FEWEST_BROKEN


def _cuts(a: Marginal, b: Marginal) -> bool:
    """Whether the values of b are intervals of the numbers a, as deciles are of a volume."""
    if a.is_category or a.has_gaps or not 2 <= len(b.support) <= MOST_STEPS or len(a.support) <= MOST_STEPS:
        return False
    lowest, highest = _extremes(a.codes, b.codes, len(b.support))
    order = np.argsort(lowest)
    return bool((highest[order][:-1] < lowest[order][1:]).all()) and len(a.codes) >= FEWEST_ROWS


def _extremes(values: Integers, groups: Integers, n: int) -> tuple[Integers, Integers]:
    low, high = np.full(n, np.iinfo(np.int64).max), np.full(n, -1)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    return low, high
