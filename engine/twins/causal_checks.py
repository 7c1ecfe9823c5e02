"""What DoWhy says of a choice of features: the same adjustment by its own rules, and an estimated effect put to the test.

Needs the extra ``causal``; a training that finds it installed asks it. What it finds is kept with the model and changes nothing.
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
    """DoWhy finds that an adjustment set does not close the backdoors of its graph, or that one exists where none was found."""


def cross_check(selection: FeatureSelection, outcome: str, table: pd.DataFrame, seed: int) -> FeatureSelection:
    """The selection, with who agreed to it and what became of the estimated effect of the treatment.

    The effect is estimated by linear regression on the adjustment set, and only where the table has the treatment and the columns
    close its backdoors; at most 5,000 random rows are looked at.

    Args:
        selection: by ``select_features``.
        outcome: the target.
        table: features and outcome, and the treatment where somebody recorded it.
        seed: of rows and refuters.

    Raises:
        Disagreement: when DoWhy comes to another conclusion from the same graph.

    References:
        Sharma, Kiciman, "DoWhy: An end-to-end library for causal inference" (2020), for estimands and refuters. Pearl, Causality
        (2009), section 3.3.
    """
    estimand = _estimand(selection, outcome, map(str, table))
    _agree(selection, outcome, estimand)
    found: tuple[Refutation, ...] = ()
    if selection.adjustment is not None and not estimand.no_directed_path:
        rows = _testable(table, selection.graph.treatment, outcome, selection.adjustment, seed)
        found = tuple(_refutations(estimand, selection, rows, seed)) if len(rows) else ()
    return selection.model_copy(update={"checked_by": f"dowhy {version('dowhy')}", "refutations": found})


def _part(module: str) -> Any:
    """A module of DoWhy, imported when it is asked for: whoever did not install the extra can do without."""
    return import_module(f"dowhy.{module}")


def _graph(selection: FeatureSelection) -> nx.DiGraph[str]:
    return nx.DiGraph(selection.graph.edges)


def _estimand(selection: FeatureSelection, outcome: str, columns: Iterable[str]) -> Any:
    auto, treatment = _part("causal_identifier.auto_identifier"), selection.graph.treatment
    return auto.identify_effect_auto(
        _graph(selection),
        [treatment],
        [outcome],
        [treatment, outcome, *(name for name in columns if name in selection.graph.nodes - {treatment, outcome})],
        auto.EstimandType.NONPARAMETRIC_ATE,
        backdoor_adjustment=auto.BackdoorAdjustment.BACKDOOR_MIN,
    )


def _agree(selection: FeatureSelection, outcome: str, estimand: Any) -> None:
    treatment, ours = selection.graph.treatment, selection.adjustment
    theirs = None if estimand.no_directed_path else estimand.estimands["backdoor"]
    if ours is None:
        if theirs is not None:
            raise CausalDisagreement(
                f"dowhy closes the backdoors of {treatment!r} by {estimand.get_backdoor_variables()}; we found no way"
            )
        return
    closed = _part("graph").check_valid_backdoor_set(_graph(selection), [treatment], [outcome], list(ours))["is_dseparated"]
    if not closed:
        raise CausalDisagreement(f"dowhy finds a backdoor of {treatment!r} that stays open given {', '.join(ours) or 'nothing'}")


def _testable(table: pd.DataFrame, treatment: str, outcome: str, adjustment: Sequence[str], seed: int) -> pd.DataFrame:
    """Complete rows of what an estimate needs; none where the treatment is not in the table, no number, or always the same."""
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
    fitted = _part("causal_estimators.linear_regression_estimator").LinearRegressionEstimator(estimand).fit(rows)
    estimate = fitted.estimate_effect(rows, control_value=0.0, treatment_value=1.0)
    for test, refute, expected in _refuters(treatment, float(estimate.value), seed):
        result = refute(rows, estimand, estimate)
        p_value, after = (result.refutation_result or {}).get("p_value"), float(result.new_effect)
        exact = abs(after - expected) <= _EXACT * max(abs(float(estimate.value)), 1.0)
        yield Refutation(
            test=test,
            estimate=float(estimate.value),
            after=after,
            p_value=None if exact or p_value is None else float(p_value),  # of no spread at all it says nothing
        )


def _refuters(treatment: str, effect: float, seed: int) -> Iterator[tuple[str, Callable[..., Any], float]]:
    """Tests by name, and the effect that each of them expects."""
    placebo = _part("causal_refuters.placebo_treatment_refuter")
    common_cause = _part("causal_refuters.random_common_cause").refute_random_common_cause
    subset = _part("causal_refuters.data_subset_refuter").refute_data_subset
    # A generator, not a seed: of a seed all simulations would be the same one.
    said: dict[str, Any] = {"num_simulations": SIMULATIONS, "random_state": np.random.RandomState(seed)}  # what it takes
    permuted = {"treatment_names": [treatment], "placebo_type": placebo.PlaceboType.PERMUTE, **said}
    yield "placebo treatment: no effect is left", partial(placebo.refute_placebo_treatment, **permuted), 0.0
    yield "random common cause: the effect stays", partial(common_cause, **said), effect
    yield "half of the rows: the effect stays", partial(subset, subset_fraction=0.5, **said), effect
