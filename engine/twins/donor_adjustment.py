"""Adjust the outcome that a twin takes from its donor by the difference between their expected outcomes.

A donor is similar to its twin, not equal, and the leaf of a single tree measures similarity coarsely. A model of the expected
outcome measures it better: a twin gets its donor's outcome plus a share of the difference between the twin's expected outcome and
the donor's out-of-fold expected outcome. The share is learned from real rows and the donors that they would have as twins: near 1
where the model explains what the tree does not, 0 where the model explains no more than the tree.

References:
    Abadie, Imbens, "Bias-corrected matching estimators for average treatment effects", Journal of Business & Economic Statistics
    29 (2011), for matched outcomes adjusted by a regression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from joblib import delayed

from engine.twins.conditional import fit_conditional
from engine.twins.entities import shuffle
from engine.twins.joint_fit import run_in_threads
from engine.twins.joint_model import JointModel, SampledTable
from schemas.arrays import Floats, Integers

__all__ = ["DonorAdjustment", "fit_adjustment"]


@dataclass(frozen=True)
class DonorAdjustment:
    """The share of expected differences by which drawn outcomes are adjusted.

    Attributes:
        expected: out-of-fold expected outcome of each training row, ``(rows,)``, units of the target.
        share: fraction of an expected difference that is added to the donor's outcome, 0 to 1.
    """

    expected: Floats
    share: float

    def take(self, rows: Integers) -> DonorAdjustment:
        """The same share, with these training rows as donors."""
        return replace(self, expected=self.expected[rows])

    def adjust(self, joint: JointModel, sampled: SampledTable, expected: Floats) -> SampledTable:
        """Drawn rows whose last column, the outcome, is adjusted by their expected outcomes ``(n,)``.

        Outcomes stay in the observed range and on their grid, and point masses do not change.
        """
        outcome = joint.columns[-1]
        if not self.share or not outcome.is_continuous:
            return sampled
        drawn = sampled.frame[outcome.name].to_numpy(dtype=np.float64, na_value=np.nan)
        adjusted = outcome.shift(drawn, self.share * (expected - self.expected[sampled.donors]))
        return replace(sampled, frame=sampled.frame.assign(**{outcome.name: outcome.restore(adjusted)}))


def fit_adjustment(
    joint: JointModel, expected: Floats, rng: np.random.Generator, n_jobs: int = 1, entities: Integers | None = None
) -> DonorAdjustment:
    """Learn the share of expected differences that is found between real rows and their donors.

    Each half of the rows is sent through a tree of the other half, which has other entities. The share is the slope, clipped to 0
    to 1, of the distance of the rows' outcomes from the mean of their leaf on the same distance of their expected outcomes.

    Args:
        joint: its last column is the outcome.
        expected: out-of-fold expected outcome of each training row, ``(rows,)``.
        rng: of the halves.
        n_jobs: threads, -1 for all processors; the share does not depend on it.
        entities: the entity of each row, ``(rows,)``; by default every row is an entity of its own.

    Example:
        >>> import pandas as pd
        >>> from engine.twins.joint_fit import fit_joint
        >>> rng = np.random.default_rng(0)
        >>> frame = pd.DataFrame({"calls": rng.uniform(0, 9, 2000)})
        >>> frame["sales"] = np.sin(5 * frame["calls"]) + rng.normal(0, 0.1, 2000)
        >>> joint = fit_joint(frame, categorical=[], last="sales", rng=rng)
        >>> fit_adjustment(joint, np.sin(5 * frame["calls"].to_numpy()), rng).share > 0.8
        True
        >>> fit_adjustment(joint, rng.normal(size=2000), rng).share < 0.1
        True
    """
    groups = np.arange(joint.n_rows) if entities is None else entities
    order, seeds = shuffle(groups, rng), rng.integers(2**31, size=2).tolist()
    is_second = np.cumsum(np.diff(groups[order], prepend=groups[order[0]]) != 0) % 2 == 1
    first, second = order[~is_second], order[is_second]
    halves = ((first, second), (second, first))
    calls = (delayed(_leaf_residuals)(joint, *half, expected, seed) for half, seed in zip(halves, seeds, strict=True))
    residuals = run_in_threads(n_jobs, calls)
    predicted, actual = (np.concatenate(halves) for halves in zip(*residuals, strict=True))
    squares = float(predicted @ predicted)
    return DonorAdjustment(expected, float(np.clip(predicted @ actual / squares, 0.0, 1.0)) if squares else 0.0)


def _leaf_residuals(joint: JointModel, train: Integers, test: Integers, expected: Floats, seed: int) -> tuple[Floats, Floats]:
    """Expected and actual outcomes of the test rows, less their means among the training rows of the leaf that each reaches."""
    *earlier, outcome = joint.columns
    predictors = [column.take(train) for column in earlier]
    conditional = fit_conditional(predictors, outcome.take(train), seed, len(joint.columns), is_outcome=True)
    leaves = conditional.training_leaves([column.take(test) for column in earlier])
    donors = np.diff(conditional.starts)
    leaf = np.repeat(np.arange(len(donors)), donors)

    def residuals(values: Floats) -> Floats:
        values = values - values[0]  # a constant then has no rounding errors, from which a slope could be estimated
        means = np.bincount(leaf, values[train[conditional.donors]], len(donors)) / np.maximum(donors, 1)
        return np.asarray(values[test] - means[leaves])

    return residuals(expected), residuals(outcome.training_values)
