"""A twin's own outcome: that of a similar real row, its donor, adjusted by what the two are expected to differ by.

A donor is like its twin, not the same, and a leaf of a single tree is a rough idea of what is alike. A model of the expected
outcome knows more of it: a twin gets its donor's outcome and a share of the difference between what is expected of the twin and
what was expected of the donor, by a model that had not seen it. How large a share is learned from real rows and the donors that
they would have got had they been twins: all of the difference where the model is right and the tree is blind, nothing where the
model knows no more than the tree.

References:
    Abadie, Imbens, "Bias-corrected matching estimators for average treatment effects", Journal of Business & Economic Statistics
    29 (2011), for matched outcomes adjusted by a regression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from joblib import delayed

from engine.twins.sequential_trees import JointModel, SampledTable, conditional, in_threads

__all__ = ["DonorAdjustment", "fit_adjustment"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DonorAdjustment:
    """By how much drawn outcomes follow expected ones.

    Attributes:
        expected: outcome of each training row by a model that had not seen it, ``(rows,)``, units of the target.
        share: of an expected difference that a twin differs from its donor by, 0 to 1.
    """

    expected: Array
    share: float

    def only(self, rows: npt.NDArray[np.int64]) -> DonorAdjustment:
        """The same share, with these training rows as donors."""
        return replace(self, expected=self.expected[rows])

    def adjusted(self, joint: JointModel, sampled: SampledTable, expected: Array) -> SampledTable:
        """Drawn rows whose last column, the outcome, is adjusted to what is ``expected`` of each of them, ``(n,)``.

        Outcomes stay in the observed range and on their grid, and point masses stay what they are.
        """
        outcome = joint.columns[-1]
        if not self.share or not outcome.is_continuous:
            return sampled
        drawn = sampled.frame[outcome.name].to_numpy(dtype=np.float64, na_value=np.nan)
        moved = outcome.moved(drawn, self.share * (expected - self.expected[sampled.donors]))
        return replace(sampled, frame=sampled.frame.assign(**{outcome.name: outcome.restore(moved)}))


def fit_adjustment(joint: JointModel, expected: Array, rng: np.random.Generator, n_jobs: int = 1) -> DonorAdjustment:
    """Learn how large a share of expected differences shows between real rows and donors.

    Each half of the rows is sent through a tree of the other half: the share is the slope, 0 to 1, of how far their outcomes are
    from the mean of the leaf they come to on how far their expected outcomes are from it.

    Args:
        joint: its last column is the outcome.
        expected: outcome of each training row by a model that had not seen it, ``(rows,)``.
        rng: of the halves.
        n_jobs: threads, -1 for all processors; the share does not depend on it.

    Example:
        >>> import pandas as pd
        >>> from engine.twins.sequential_trees import fit_joint
        >>> rng = np.random.default_rng(0)
        >>> frame = pd.DataFrame({"calls": rng.uniform(0, 9, 2000)})
        >>> frame["sales"] = np.sin(5 * frame["calls"]) + rng.normal(0, 0.1, 2000)
        >>> joint = fit_joint(frame, categorical=[], last="sales", rng=rng)
        >>> fit_adjustment(joint, np.sin(5 * frame["calls"].to_numpy()), rng).share > 0.8
        True
        >>> fit_adjustment(joint, rng.normal(size=2000), rng).share < 0.1
        True
    """
    order, seeds = rng.permutation(joint.n_rows), rng.integers(2**31, size=2).tolist()
    halves = ((order[::2], order[1::2]), (order[1::2], order[::2]))
    works = (delayed(_beside_donors)(joint, *half, expected, seed) for half, seed in zip(halves, seeds, strict=True))
    beside = in_threads(n_jobs, works)
    told, actual = (np.concatenate(each) for each in zip(*beside, strict=True))
    squares = float(told @ told)
    return DonorAdjustment(expected, float(np.clip(told @ actual / squares, 0.0, 1.0)) if squares else 0.0)


def _beside_donors(
    joint: JointModel, known: npt.NDArray[np.int64], unseen: npt.NDArray[np.int64], expected: Array, seed: int
) -> tuple[Array, Array]:
    """Expected and actual outcomes of unseen rows, less their means among the donors of the leaf that each comes to."""
    *earlier, outcome = joint.columns
    given = conditional([column.only(known) for column in earlier], outcome.only(known), seed, len(joint.columns), is_outcome=True)
    leaves = given.leaves_of([column.only(unseen) for column in earlier])
    donors = np.diff(given.starts)
    leaf = np.repeat(np.arange(len(donors)), donors)
    actual = outcome.support[outcome.codes]

    def beside(values: Array) -> Array:
        values = values - values[0]  # a constant has no rounding errors then, of which a slope could be made
        means = np.bincount(leaf, values[known[given.donors]], len(donors)) / np.maximum(donors, 1)
        return np.asarray(values[unseen] - means[leaves])

    return beside(expected), beside(actual)
