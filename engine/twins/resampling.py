"""Choose donor rows for new rows, and resample rows by weight where a filter leaves only a part of the donors.

References:
    Doucet, Johansen, "A tutorial on particle filtering and smoothing" (2009), for weights and systematic resampling.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.twins.conditional import Conditional
from engine.twins.marginal import DrawnColumn, Marginal
from schemas.arrays import Flags, Floats, Integers, Singles

__all__ = ["assign_donors", "assign_filtered_donors", "between_neighbours", "draw_donors", "resample"]


def assign_donors(leaves: Integers, starts: Integers, rng: np.random.Generator) -> Integers:
    """One donor position per row `(n,)`, the rows of a leaf spread evenly over its donors.

    Independent draws would add resampling noise to every leaf; even spacing gives each donor its share.

    Args:
        leaves: The leaf of each row `(n,)`.
        starts: Where each node's donors begin `(nodes + 1,)`.
        rng: Of the order of rows and the offset in each leaf.
    """
    order = rng.permutation(len(leaves))
    keys = leaves.astype(np.min_scalar_type(len(starts)))  # short integers are sorted by radix
    order = order[np.argsort(keys[order], kind="stable")]
    rows, donors = np.bincount(leaves, minlength=len(starts) - 1), np.diff(starts)
    rank = np.arange(len(leaves)) - np.repeat(np.cumsum(rows) - rows, rows)
    offset, most = rng.random(len(rows)), np.maximum(donors - 1, 0)
    step = ((rank + np.repeat(offset, rows)) / np.repeat(rows, rows) * np.repeat(donors, rows)).astype(np.int64)
    positions = np.empty(len(leaves), dtype=np.int64)
    positions[order] = np.repeat(starts[:-1], rows) + np.minimum(step, np.repeat(most, rows))
    return positions


def draw_donors(conditional: Conditional, features: Singles, rng: np.random.Generator) -> Integers:
    """A donor for each row `(n,)`, from the leaf of one of the trees at random.

    Args:
        conditional: Of the column to draw.
        features: See `Conditional.features`.
        rng: See `assign_donors`.
    """
    donors = np.empty(features.shape[1], dtype=np.int64)
    for tree, rows in _rows_by_tree(conditional, features.shape[1], rng):
        leaves = tree.tree.apply(features if isinstance(rows, slice) else np.ascontiguousarray(features[:, rows]))
        donors[rows] = tree.donors[assign_donors(leaves, tree.starts, rng)]
    return donors


def _rows_by_tree(conditional: Conditional, n: int, rng: np.random.Generator) -> Iterator[tuple[Conditional, Integers | slice]]:
    """The trees, and the rows that go through each: random parts of the same size."""
    if not conditional.siblings:
        yield conditional, slice(None)
        return
    trees = (conditional, *conditional.siblings)
    part = rng.permutation(n) % len(trees)
    yield from ((tree, np.flatnonzero(part == k)) for k, tree in enumerate(trees) if n > k)


def assign_filtered_donors(
    conditional: Conditional, leaves: Integers, allowed: Flags, matching: Flags, rng: np.random.Generator
) -> tuple[Integers, Floats]:
    """Donors among the allowed training rows, and the allowed share of each row's leaf as its weight, each `(n,)`.

    When no row has reached a leaf with an allowed donor, the training rows that satisfy the whole filter serve as one leaf.

    Args:
        conditional: Of the filtered column.
        leaves: The leaf of each row `(n,)`.
        allowed: Training rows that satisfy the condition on this column.
        matching: Training rows that satisfy the whole filter.
        rng: See `assign_donors`.
    """
    usable = allowed[conditional.donors]
    starts = np.concatenate([[0], np.cumsum(usable)])[conditional.starts]
    weights = (np.diff(starts) / np.maximum(np.diff(conditional.starts), 1))[leaves]
    if not weights.any():
        pool = conditional.donors[matching[conditional.donors]]
        return pool[assign_donors(np.zeros_like(leaves), np.array([0, len(pool)]), rng)], np.ones(len(leaves))
    donors = conditional.donors[usable]
    return donors[np.minimum(assign_donors(leaves, starts, rng), len(donors) - 1)], weights


def resample(weights: Floats, n: int, rng: np.random.Generator) -> Integers:
    """Systematic resampling: `n` row numbers in proportion to their weights, in random order."""
    cumulative = np.cumsum(weights)
    points = (np.arange(n) + rng.random()) / n * cumulative[-1]
    last = np.flatnonzero(weights)[-1]
    return rng.permutation(np.minimum(np.searchsorted(cumulative, points, side="right"), last))


def between_neighbours(column: Marginal, exact: DrawnColumn, rng: np.random.Generator) -> DrawnColumn:
    """Move each value to a random place between the midpoints to its neighbours; point masses and gaps stay."""
    first, codes, observed = int(column.has_gaps), exact.codes, column.observed
    midpoints = (observed[1:] + observed[:-1]) / 2
    low, high = np.concatenate([observed[:1], midpoints]), np.concatenate([midpoints, observed[-1:]])
    position = np.maximum(codes - first, 0)
    moved = np.round(low[position] + rng.random(len(codes)) * (high - low)[position], column.decimals)
    moved = np.clip(moved, observed[0], observed[-1])
    left = np.clip(position - (moved < observed[position]), 0, len(observed) - 2)
    fraction = (moved - observed[left]) / (observed[left + 1] - observed[left])
    scores = column.scores[first:]
    scores = scores[left] + fraction * (scores[left + 1] - scores[left])
    return DrawnColumn(exact.donors, codes, moved, scores).where(~column.atoms[codes], exact)
