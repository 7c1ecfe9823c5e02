"""How closely synthetic rows resemble real ones, and what follows: a verdict, with the limits that it rests on.

A figure of few rows is uncertain, so no limit is a bare number: each allows for what as many real rows would show by chance.

References:
    Hosmer, Lemeshow, Sturdivant, "Applied Logistic Regression" (2013), 5.2.4: an AUC of 0.8 and more is excellent discrimination.
    Marsaglia, Tsang, Wang, "Evaluating Kolmogorov's distribution", Journal of Statistical Software 8 (2003): the mean of the
    distribution, sqrt(pi / 2) log 2.
    Mann, Whitney, "On a test of whether one of two random variables is stochastically larger than the other", Annals of
    Mathematical Statistics 18 (1947): the variance of an AUC, (n + m + 1) / (12 n m).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from pydantic import Field

from schemas.base import Finite, Frozen

__all__ = [
    "ASSOCIATION_LIMITS",
    "AUC_LIMITS",
    "CLOSER_LIMIT",
    "COLUMN_LIMITS",
    "COPIES_LIMIT",
    "ENOUGH_HELD_OUT",
    "NEAR_COPIES_LIMIT",
    "Limits",
    "RealismReport",
    "RealismVerdict",
    "not_assessed",
]


class Limits(NamedTuple):
    """Above the first limit twins are usable with care, above the second they are not realistic."""

    care: float
    unrealistic: float


BOOSTING, BOOSTING_WITH_RATIOS, LONG_BOOSTING, FOREST = "boosting", "boosting with ratios", "boosting, 500 rounds", "forest"
"""The classifiers of twins against real rows."""

AUC_LIMITS: Mapping[str, Limits] = MappingProxyType(
    {
        BOOSTING: Limits(0.56, 0.80),
        BOOSTING_WITH_RATIOS: Limits(0.60, 0.80),
        LONG_BOOSTING: Limits(0.59, 0.80),
        FOREST: Limits(0.63, 0.80),
    }
)
"""By classifier: about the bar of ``make evidence``, and excellent discrimination by Hosmer, Lemeshow and Sturdivant."""

COLUMN_LIMITS = Limits(0.05, 0.10)
"""Mean distance of a column's distributions beyond chance: five and ten points of share."""

ASSOCIATION_LIMITS = Limits(0.03, 0.10)
"""Mean error of an association beyond chance: twice the bar of ``make evidence``, and a small effect size by Cohen (0.1)."""

NEAR_COPIES_LIMIT = 0.07
"""Share of near copies, 0.05 is no excess: the bar of ``make evidence``."""

CLOSER_LIMIT = 0.55
"""Share of twins nearer to a training row than to a held-out row, 0.5 is no memorisation: the bar of ``make evidence``."""

COPIES_LIMIT = 0.01
"""Share of exact copies beyond that of held-out rows."""

ENOUGH_HELD_OUT = 200
"""Held-out rows from which twins are called realistic: the standard error of an AUC is then 0.03 at most."""

_STANDARD_ERRORS = 2.0  # that a limit allows for

Similarity = Literal["realistic", "usable with care", "not realistic", "not assessed"]
Privacy = Literal["safe", "near copies", "not assessed"]


class RealismVerdict(Frozen):
    """A verdict on twins, in two words.

    Attributes:
        similarity: to real entities.
        privacy: whether twins are nearer to the real training rows than other real rows are.
        reasons: for ``similarity``: the figures beyond a limit, with the limit; why nothing was assessed; else empty.
        privacy_reasons: the same for ``privacy``.
    """

    similarity: Similarity
    privacy: Privacy
    reasons: tuple[str, ...] = ()
    privacy_reasons: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each of the two words that asks for attention."""
        sentences = {
            "usable with care": "these twins are usable with care",
            "not realistic": "these twins are not realistic",
            "near copies": "some of these twins are near copies of real rows",
        }
        pairs = ((self.similarity, self.reasons), (self.privacy, self.privacy_reasons))
        return tuple(f"{sentences[word]}: {'; '.join(reasons)}" for word, reasons in pairs if word in sentences)

    def __str__(self) -> str:
        """The words and the reasons.

        >>> print(RealismVerdict(similarity="not realistic", privacy="safe", reasons=("an AUC of 0.910 is above 0.80",)))
        not realistic (an AUC of 0.910 is above 0.80), safe
        >>> print(not_assessed("no real rows satisfy the filters"))
        not assessed (no real rows satisfy the filters)
        """
        parts = [(self.similarity, self.reasons), (self.privacy, self.privacy_reasons)]
        if self.privacy == "not assessed":
            parts.pop()
        return ", ".join(f"{word} ({'; '.join(reasons)})" if reasons else word for word, reasons in parts)


def not_assessed(reason: str) -> RealismVerdict:
    """The verdict on twins that were not compared with real rows."""
    return RealismVerdict(similarity="not assessed", privacy="not assessed", reasons=(reason,))


class RealismReport(Frozen):
    """Similarity of synthetic rows to held-out real rows, and their closeness to the training rows.

    Attributes:
        auc: of the strongest classifier of twins against held-out rows, 0.5 = indistinguishable.
        aucs: of each classifier; empty in reports from before there were several, whose only one was ``boosting``.
        marginal_score: mean over columns of 1 - KS distance or 1 - total variation, 1 = equal distributions.
        association_error: mean absolute difference of the association over all pairs of columns, 0 = equal.
        exact_copies, near_copies: shares of twins; 0.05 near copies is no excess.
        closer_to_training: share of twins nearer to a training row than to a held-out row, 0.5 = no memorisation.
        real_copies: share of held-out rows that equal a training row; null in reports from before it was measured.
        n_synthetic, n_held_out: compared rows.
        columns: the score of each column.
        mean_outcome, real_mean_outcome: of the twins, and of the held-out rows, units of the target; null in earlier reports.
        real_mean_error: standard error of the latter.
    """

    auc: Finite
    marginal_score: Finite
    association_error: Finite
    exact_copies: Finite
    near_copies: Finite
    closer_to_training: Finite
    real_copies: Finite | None = None
    n_synthetic: int
    n_held_out: int
    columns: dict[str, float] = Field(default_factory=dict)
    aucs: dict[str, Finite] = Field(default_factory=dict)
    mean_outcome: Finite | None = None
    real_mean_outcome: Finite | None = None
    real_mean_error: Finite | None = None

    @property
    def classifier(self) -> str:
        """The strongest classifier."""
        return max(self.aucs, key=self.aucs.__getitem__) if self.aucs else BOOSTING

    @property
    def verdict(self) -> RealismVerdict:
        """What the figures mean."""
        unrealistic, care = list(_beyond(self, 1)), list(_beyond(self, 0))
        if self.n_held_out < ENOUGH_HELD_OUT:
            care.append(f"only {self.n_held_out} held-out rows were compared: {ENOUGH_HELD_OUT} are needed to tell")
        copies = tuple(_copies(self))
        similarity: Similarity = "not realistic" if unrealistic else "usable with care" if care else "realistic"
        return RealismVerdict(
            similarity=similarity,
            privacy="near copies" if copies else "safe",
            reasons=tuple(unrealistic or care),
            privacy_reasons=copies,
        )

    def __str__(self) -> str:
        """The verdict and the figures as text.

        >>> shares = {"exact_copies": 0.0, "near_copies": 0.05, "closer_to_training": 0.51}
        >>> counts = {"n_synthetic": 2000, "n_held_out": 2000}
        >>> report = RealismReport(auc=0.52, marginal_score=0.99, association_error=0.01, **shares, **counts)
        >>> print(str(report).partition(": ")[0])
        realistic, safe
        >>> print(str(report).partition("; ")[2])
        near copies 5.0% (5% is no excess), exact copies 0.0%, nearer to training rows than to held-out rows 51%
        """
        return (
            f"{self.verdict}: {self.n_synthetic:,} twins compared with {self.n_held_out:,} held-out rows: "
            f"{self._strongest} separates them with an AUC of {self.auc:.3f} (0.5 is chance), similarity of columns"
            f" {self.marginal_score:.3f}, association error {self.association_error:.4f}; near copies"
            f" {self.near_copies:.1%} (5% is no excess), exact copies "
            f"{self.exact_copies:.1%}, nearer to training rows than to held-out rows {self.closer_to_training:.0%}"
            f"{self._outcomes}"
        )

    @property
    def _outcomes(self) -> str:
        if self.mean_outcome is None or self.real_mean_outcome is None or self.real_mean_error is None:
            return ""
        return f"; mean outcome {self.mean_outcome:.3g}, of held-out rows {self.real_mean_outcome:.3g} ± {self.real_mean_error:.2g}"

    @property
    def _strongest(self) -> str:
        return f"the strongest of {len(self.aucs)} classifiers ({self.classifier})" if self.aucs else "a classifier"


def _beyond(report: RealismReport, index: Literal[0, 1]) -> Iterator[str]:
    """The figures of similarity that are above a limit: the first ones with ``index`` 0, the second ones with 1."""
    share = 1 / report.n_synthetic + 1 / report.n_held_out  # of the variance of a difference of two samples
    error = _STANDARD_ERRORS * math.sqrt(_auc_variance(report))
    aucs = [("an AUC" if name == BOOSTING else f"an AUC ({name})", auc, AUC_LIMITS[name], error) for name, auc in _aucs(report)]
    figures = (
        *aucs,
        ("a mean distance of columns", 1 - report.marginal_score, COLUMN_LIMITS, math.sqrt(math.pi / 2 * share) * math.log(2)),
        ("a mean association error", report.association_error, ASSOCIATION_LIMITS, math.sqrt(2 / math.pi * share)),
    )
    for name, value, limits, chance in figures:
        limit = limits[index] + chance
        if value > limit:
            yield f"{name} of {value:.3f} is above {limit:.3f}"


def _aucs(report: RealismReport) -> Iterator[tuple[str, float]]:
    """Of the classifiers that have limits, the strongest first."""
    aucs = report.aucs or {BOOSTING: report.auc}
    yield from ((name, aucs[name]) for name in sorted(aucs, key=lambda name: -aucs[name]) if name in AUC_LIMITS)


def _auc_variance(report: RealismReport) -> float:
    """Of the AUC between two samples of one distribution."""
    n, m = report.n_synthetic, report.n_held_out
    return (n + m + 1) / (12 * n * m)


def _copies(report: RealismReport) -> Iterator[str]:
    """The figures of privacy that are above their limit."""
    share = 1 / report.n_synthetic + 1 / report.n_held_out
    real = report.real_copies or 0.0
    figures = (
        ("near copies", report.near_copies, NEAR_COPIES_LIMIT, math.sqrt(0.05 * 0.95 * share)),
        ("twins nearer to training rows", report.closer_to_training, CLOSER_LIMIT, math.sqrt(0.25 / report.n_synthetic)),
        ("exact copies", report.exact_copies, real + COPIES_LIMIT, math.sqrt(real * (1 - real) * share)),
    )
    for name, value, bare, error in figures:
        limit = bare + _STANDARD_ERRORS * error
        if value > limit:
            yield f"{value:.2%} {name}, above {limit:.2%}"
