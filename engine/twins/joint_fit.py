"""Learn the joint distribution of a table by sequential conditional trees: each column given the columns before it.

No library serves: a filter must select donors without rejected draws, and the fitted distribution is stored as plain arrays;
packages for synthetic tables such as SDV draw by rejection and store pickled objects.

References:
    Reiter, "Using CART to generate partially synthetic public use microdata", Journal of Official Statistics 21 (2005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from engine.twins.conditional import fit_conditional
from engine.twins.decoding import Decoder
from engine.twins.joint_model import Constraints, JointModel
from engine.twins.marginal import Marginal, fit_marginal
from engine.twins.relations import find_relations
from engine.twins.shares import Share, choose_shares, encode
from schemas.arrays import Floats, Integers
from schemas.relations import Relation

__all__ = ["fit_joint", "run_in_threads"]

T = TypeVar("T")

FEWEST_EXPLAINED = 0.1  # share of variance that a category must explain for a column to be drawn early
WEAK_CORRELATION = 0.7  # a continuous column whose summed correlations are below this share of the largest sum is drawn early


def fit_joint(
    frame: pd.DataFrame,
    *,
    categorical: Sequence[str],
    first: Sequence[str] = (),
    last: str | None = None,
    constraints: Constraints | None = None,
    relations: Sequence[Relation] = (),
    rng: np.random.Generator,
    n_jobs: int = 1,
    entities: Integers | None = None,
) -> JointModel:
    """Learn the joint distribution of a table.

    Args:
        frame: Numbers, truth values and text; gaps are reproduced as gaps. It is not changed.
        categorical: Columns whose values are levels without an order.
        first: Columns drawn first: those that filters name, so that rows outside a filter are dropped early.
        last: The column drawn last: the outcome, which depends on all others.
        constraints: What every drawn row must satisfy.
        relations: More of it, see `schemas.relations`; relations that hold in every row are found without being named.
        rng: Chooses the features that each split considers.
        n_jobs: Threads, -1 for all processors; the model does not depend on it.
        entities: The entity of each row `(n,)`; by default every row is an entity of its own.

    Raises:
        ValueError: If the frame is empty, or a column is neither numeric nor declared categorical, or holds
            infinite values.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> real = pd.DataFrame({"region": rng.choice(["north", "south"], 400), "visits": rng.poisson(3, 400)})
        >>> model = fit_joint(real.assign(sales=10.0 * real["visits"]), categorical=["region"], last="sales", rng=rng)
        >>> drawn = model.sample(1000, rng=rng, allowed={"region": lambda values: values == "north"})
        >>> drawn.frame["region"].unique().tolist(), drawn.real_rows == (real["region"] == "north").sum()
        (['north'], np.True_)
        >>> bool((drawn.frame["sales"] % 10 == 0).all())
        True
    """
    if frame.empty:
        raise ValueError("an empty frame has no distribution to learn")
    constraints = (constraints or Constraints()).within(frame.columns)
    originals = {
        name: fit_marginal(frame[name], categorical=name in categorical) for name in frame.columns if name not in constraints.ratios
    }
    declared = [*relations, *(Relation(kind="not_above", columns=pair) for pair in constraints.upper_bounds.items())]
    in_table = find_relations(originals, last, declared)
    followed = {relation.columns[1]: relation.columns[0] for relation in in_table.of_kind("determines") if not relation.n_broken}
    shares = choose_shares(originals, in_table, [*first, *([last] if last else []), *followed, *followed.values()])
    marginals = originals | _share_marginals(shares, originals)
    order = _drawing_order(marginals, first, last, followed)
    columns = tuple(marginals[name] for name in order)
    seeds = rng.integers(2**31, size=len(columns)).tolist()
    fits = (
        delayed(fit_conditional)(
            [] if columns[k].name in followed else columns[:k],
            columns[k],
            seeds[k],
            len(columns),
            is_outcome=columns[k].name == last,
            entities=entities,
        )
        for k in reversed(range(len(columns)))  # later columns take the longest
    )
    numeric = {name: column for name, column in originals.items() if not column.is_category and column.observed.size}
    return JointModel(
        names=tuple(frame.columns),
        columns=columns,
        conditionals=tuple(reversed(run_in_threads(n_jobs, fits))),
        constraints=Constraints(ratios=constraints.ratios),
        ratio_dtypes={rate: str(frame[rate].dtype) for rate in constraints.ratios},
        decoder=Decoder(shares, numeric, in_table),
        followed=followed,
    )


def _share_marginals(shares: Sequence[Share], originals: Mapping[str, Marginal]) -> dict[str, Marginal]:
    """The columns that are drawn in place of others."""
    values = {name: column.training_values for name, column in originals.items()}
    encoded = {share.column: pd.Series(encode(share, values), name=share.column) for share in shares}
    return {name: fit_marginal(column, categorical=False) for name, column in encoded.items()}


def run_in_threads(n_jobs: int, calls: Iterable[tuple[Callable[..., T], tuple[Any, ...], dict[str, Any]]]) -> list[T]:
    """Results of delayed calls on `n_jobs` threads (-1: one per processor), in the order of the calls."""
    with threadpool_limits(1, user_api="blas"):  # waiting BLAS threads spin and would take the processors from these threads
        return list(Parallel(n_jobs, prefer="threads", batch_size=1)(calls))


def _drawing_order(
    marginals: Mapping[str, Marginal], first: Sequence[str], last: str | None, bounds: Mapping[str, str]
) -> list[str]:
    """Filterable columns, then categories, discrete and continuous ones, the outcome last; bounds before the bounded.

    Continuous columns that correlate weakly with the others come first, and those that a category beyond the filterable ones
    explains well, because their dependence on a category would be lost among many columns before them. The others follow by
    falling correlation, so that later columns have good predictors.
    """
    continuous = [column for name, column in marginals.items() if column.is_continuous and name != last]
    by_category = _explained_by_categories(
        continuous, [column for name, column in marginals.items() if column.is_category and name not in first]
    )
    correlation = _summed_correlations(continuous)
    weak = {name for name, total in correlation.items() if total < WEAK_CORRELATION * max(correlation.values())}

    def rank(name: str) -> tuple[bool, int, bool, bool, tuple[bool, bool], float]:
        column = marginals[name]
        position = first.index(name) if name in first else len(first)
        early = name not in weak, name not in by_category
        signed = correlation.get(name, 0.0) * (1.0 if name in weak else -1.0)
        return name == last, position, not column.is_category, column.is_continuous, early, signed

    order: list[str] = []

    def append(name: str) -> None:
        if name in bounds and bounds[name] not in order:
            append(bounds[name])
        if name not in order:
            order.append(name)

    for name in sorted(marginals, key=rank):
        append(name)
    return order


def _explained_by_categories(continuous: Sequence[Marginal], categories: Sequence[Marginal]) -> list[str]:
    """Continuous columns that a category explains better than each of the columns chosen before, the best explained first."""
    if not categories:
        return []
    scores = {column.name: column.training_scores for column in continuous if column.training_scores.std()}
    explained = {name: max(_explained_share(values, category) for category in categories) for name, values in scores.items()}
    names = list[str]()
    for name in sorted(explained, key=lambda name: -explained[name]):
        correlations = [float(np.corrcoef(scores[name], scores[before])[0, 1]) ** 2 for before in names]
        if explained[name] > max([FEWEST_EXPLAINED, *correlations]):
            names.append(name)
    return names


def _explained_share(values: Floats, category: Marginal) -> float:
    """Share of the variance that the levels explain beyond chance (epsilon squared)."""
    rows = np.bincount(category.codes, minlength=len(category.support))
    means = np.bincount(category.codes, values, len(category.support)) / np.maximum(rows, 1)
    within = float(((values - means[category.codes]) ** 2).sum()) / max(len(values) - len(rows), 1)
    return 1.0 - within / float(values.var(ddof=1))


def _summed_correlations(columns: Sequence[Marginal]) -> dict[str, float]:
    """The sum of each column's absolute correlations with all of them, in normal scores."""
    if len(columns) < 2:
        return {}
    scores = np.stack([column.training_scores for column in columns])
    return dict(zip([column.name for column in columns], np.abs(np.corrcoef(scores)).sum(axis=1).tolist(), strict=True))
