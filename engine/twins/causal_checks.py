"""Cross-check a feature selection with DoWhy: its own backdoor adjustment, and refutation tests of an estimated effect.

Needs the extra ``causal``; training runs the check where it is installed. Its results are stored with the model and do not change
the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

import networkx as nx  # type: ignore[import-untyped]  # it ships no types
import numpy as np
import pandas as pd

from schemas.causal_graphs import FeatureSelection, Refutation

__all__ = ["MAX_ROWS", "CausalDisagreement", "cross_check"]

MAX_ROWS = 5_000
SIMULATIONS = 20
_EXACT = 1e-9


class CausalDisagreement(ValueError):
    """By DoWhy an adjustment set leaves a backdoor path open, or an adjustment set exists where none was selected."""


def cross_check(selection: FeatureSelection, outcome: str, table: pd.DataFrame, seed: int) -> FeatureSelection:
    """Compare a selection with DoWhy's, and test the estimated effect of the treatment.

    The effect is estimated by linear regression on the adjustment set, and only where the table has the treatment and its columns
    close all backdoor paths. At most 5,000 random rows are used.

    Args:
        selection: by ``select_features``.
        outcome: name of the target.
        table: features and outcome, and the treatment where it was recorded.
        seed: of the random rows and the refuters.

    Returns:
        The selection with ``checked_by`` and ``refutations``.

    Raises:
        CausalDisagreement: when DoWhy identifies another adjustment from the same graph.

    References:
        Sharma, Kiciman, "DoWhy: An end-to-end library for causal inference" (2020), for estimands and refuters. Pearl, Causality
        (2009), section 3.3.
    """
    estimand = _estimand(selection, outcome, map(str, table))
    _check_agreement(selection, outcome, estimand)
    refutations: tuple[Refutation, ...] = ()
    if selection.adjustment is not None and not estimand.no_directed_path:
        rows = _testable_rows(table, selection.graph.treatment, outcome, selection.adjustment, seed)
        refutations = tuple(_refutations(estimand, selection, rows, seed)) if len(rows) else ()
    return selection.model_copy(update={"checked_by": f"dowhy {version('dowhy')}", "refutations": refutations})


def _dowhy_module(module: str) -> Any:
    """A module of DoWhy, imported at first use because the extra is optional."""
    return import_module(f"dowhy.{module}")


def _graph(selection: FeatureSelection) -> nx.DiGraph[str]:
    return nx.DiGraph(selection.graph.edges)


def _estimand(selection: FeatureSelection, outcome: str, columns: Iterable[str]) -> Any:
    auto, treatment = _dowhy_module("causal_identifier.auto_identifier"), selection.graph.treatment
    return auto.identify_effect_auto(
        _graph(selection),
        [treatment],
        [outcome],
        [treatment, outcome, *(name for name in columns if name in selection.graph.nodes - {treatment, outcome})],
        auto.EstimandType.NONPARAMETRIC_ATE,
        backdoor_adjustment=auto.BackdoorAdjustment.BACKDOOR_MIN,
    )


def _check_agreement(selection: FeatureSelection, outcome: str, estimand: Any) -> None:
    treatment, ours = selection.graph.treatment, selection.adjustment
    theirs = None if estimand.no_directed_path else estimand.estimands["backdoor"]
    if ours is None:
        if theirs is not None:
            raise CausalDisagreement(
                f"dowhy closes the backdoor paths of {treatment!r} with {estimand.get_backdoor_variables()};"
                " the selection has no adjustment set"
            )
        return
    closed = _dowhy_module("graph").check_valid_backdoor_set(_graph(selection), [treatment], [outcome], list(ours))["is_dseparated"]
    if not closed:
        raise CausalDisagreement(f"dowhy finds a backdoor path of {treatment!r} left open given {', '.join(ours) or 'no column'}")


def _testable_rows(table: pd.DataFrame, treatment: str, outcome: str, adjustment: Sequence[str], seed: int) -> pd.DataFrame:
    """Complete rows of the columns that an estimate needs; none where the treatment is absent, not numeric, or constant."""
    if treatment not in table or not pd.api.types.is_numeric_dtype(table[treatment]):
        return table.iloc[:0]
    rows = table[[treatment, outcome, *adjustment]].dropna().astype({treatment: float, outcome: float})
    if rows[treatment].nunique() < 2:
        return rows.iloc[:0]
    return rows.sample(min(len(rows), MAX_ROWS), random_state=seed).reset_index(drop=True)


def _refutations(estimand: Any, selection: FeatureSelection, rows: pd.DataFrame, seed: int) -> Iterator[Refutation]:
    treatment, adjustment = selection.graph.treatment, list(selection.adjustment or ())
    estimand.set_identifier_method("backdoor")
    estimand.set_backdoor_variables(adjustment)
    fitted = _dowhy_module("causal_estimators.linear_regression_estimator").LinearRegressionEstimator(estimand).fit(rows)
    estimate = fitted.estimate_effect(rows, control_value=0.0, treatment_value=1.0)
    for test, refute, expected in _refuters(treatment, float(estimate.value), seed):
        result = refute(rows, estimand, estimate)
        p_value, after = (result.refutation_result or {}).get("p_value"), float(result.new_effect)
        exact = abs(after - expected) <= _EXACT * max(abs(float(estimate.value)), 1.0)
        yield Refutation(
            test=test,
            estimate=float(estimate.value),
            after=after,
            p_value=None if exact or p_value is None else float(p_value),  # undefined without any spread
        )


def _refuters(treatment: str, effect: float, seed: int) -> Iterator[tuple[str, Callable[..., Any], float]]:
    """Name of each test, the refuter, and the effect that the test expects."""
    placebo = _dowhy_module("causal_refuters.placebo_treatment_refuter")
    common_cause = _dowhy_module("causal_refuters.random_common_cause").refute_random_common_cause
    subset = _dowhy_module("causal_refuters.data_subset_refuter").refute_data_subset
    # DoWhy takes a RandomState. A seed would make all simulations equal.
    options: dict[str, Any] = {"num_simulations": SIMULATIONS, "random_state": np.random.RandomState(seed)}
    permuted = {"treatment_names": [treatment], "placebo_type": placebo.PlaceboType.PERMUTE, **options}
    yield "placebo treatment: no effect is left", partial(placebo.refute_placebo_treatment, **permuted), 0.0
    yield "random common cause: the effect stays", partial(common_cause, **options), effect
    yield "half of the rows: the effect stays", partial(subset, subset_fraction=0.5, **options), effect
