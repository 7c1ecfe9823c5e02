"""Split rows by entity: rows of one entity are alike, so a model that has learned some of them is not tested by the others.

An entity is a small integer per row, ``(n,)``. With one row per entity every split here is the usual split of rows.

References:
    Roberts et al. (2017), Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic structure.
    Ecography 40.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold

from schemas.arrays import Floats, Integers

__all__ = ["MIN_ENTITIES", "cut", "entity_codes", "entity_weights", "folds", "shuffle"]

MIN_ENTITIES = 30
"""Fewest entities of a training table: an interval at level 0.95 needs the scores of 19, a clustered standard error about 30."""


def entity_codes(ids: pd.Series[Any]) -> Integers | None:
    """The entity of each row, 0, 1, ... in the order of their first rows; a row without an id is an entity of its own.

    None where no entity has a second row.

    >>> entity_codes(pd.Series(["b", "a", None, "b", None])).tolist()
    [0, 1, 2, 0, 3]
    >>> entity_codes(pd.Series(["a", "b", "c"])) is None
    True
    """
    codes, _ = pd.factorize(ids)
    missing = codes < 0
    codes[missing] = len(ids) + np.arange(missing.sum())
    codes = pd.factorize(codes)[0].astype(np.int64)
    return None if len(codes) == 0 or codes.max() + 1 == len(codes) else codes


def folds(entities: Integers, n_folds: int, seed: int) -> Iterator[tuple[Integers, Integers]]:
    """Training and test rows of each fold; all rows of an entity are in one fold.

    >>> [test.tolist() for _, test in folds(np.array([0, 0, 1, 2, 2, 1]), 3, seed=0)]
    [[3, 4], [2, 5], [0, 1]]
    """
    codes = np.unique(entities, return_inverse=True)[1]
    for _, held_out in KFold(n_folds, shuffle=True, random_state=seed).split(np.empty(codes.max() + 1)):
        test = np.isin(codes, held_out)
        yield np.flatnonzero(~test), np.flatnonzero(test)


def shuffle(entities: Integers, rng: np.random.Generator) -> Integers:
    """All rows, those of an entity side by side, the entities in random order."""
    codes = np.unique(entities, return_inverse=True)[1]
    order = rng.permutation(codes.max() + 1)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.argsort(rank[codes], kind="stable")


def cut(ordered: Integers, position: int) -> int:
    """The last place up to ``position`` between two entities; ``ordered`` has the rows of an entity side by side.

    >>> cut(np.array([4, 4, 4, 1, 1, 0]), 4), cut(np.array([4, 4, 4, 1, 1, 0]), 5)
    (3, 5)
    """
    if not 0 < position < len(ordered):
        return position
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    return int(starts[starts <= position].max())


def entity_weights(entities: Integers) -> Floats:
    """Weights of the rows, by which each entity counts once: one over the number of its rows.

    >>> entity_weights(np.array([0, 0, 7])).tolist()
    [0.5, 0.5, 1.0]
    """
    codes = np.unique(entities, return_inverse=True)[1]
    return np.asarray(1.0 / np.bincount(codes)[codes])
