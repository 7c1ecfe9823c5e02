"""Select the features of an outcome by a declared causal graph: columns that close backdoor paths, and causes of the outcome.

A descendant of the treatment or of the outcome must not predict the outcome without the treatment, and an instrument only adds
noise to a prediction and bias to an adjustment.

References:
    Pearl, Causality (2009), section 3.3, the backdoor criterion. VanderWeele, "Principles of confounder selection", European
    Journal of Epidemiology 34 (2019). Myers et al., "Effects of adjusting for instrumental variables on bias and precision of
    effect estimates", American Journal of Epidemiology 174 (2011).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx  # type: ignore[import-untyped]  # it ships no types

from schemas.causal_graphs import CausalGraph, FeatureSelection

__all__ = ["select_features"]


def select_features(graph: CausalGraph, outcome: str, columns: Sequence[str]) -> FeatureSelection:
    """Select the columns that the expected outcome may be learned from.

    Args:
        graph: directed acyclic graph of the treatment, the outcome and other columns.
        outcome: name of the target.
        columns: names of the table's columns, without the target.

    Raises:
        ValueError: for a graph with a cycle, one that lacks the outcome, or one that leaves no column.

    Example:
        >>> edges = (("age", "contact"), ("age", "sales"), ("capacity", "contact"), ("contact", "visits"), ("visits", "sales"))
        >>> selection = select_features(CausalGraph(treatment="contact", edges=edges), "sales", ["age", "capacity", "visits"])
        >>> selection.features, selection.adjustment
        (('age',), ('age',))
        >>> selection.dropped
        {'capacity': 'an instrument: acts on sales through contact only', 'visits': 'an effect of contact'}
    """
    causes = _directed_graph(graph, outcome)
    descendants = _descendants(causes, graph.treatment, outcome)
    candidates = [name for name in columns if name in causes and name not in descendants]
    adjustment = _adjustment(causes, graph.treatment, outcome, candidates)
    parents = [name for name in candidates if causes.has_edge(name, outcome)]
    needed = {*parents, *(adjustment or ())}
    dropped = {
        name: reason
        for name in columns
        if name in causes and name not in needed and (reason := _reason(causes, graph.treatment, outcome, name, needed))
    }
    features = tuple(name for name in columns if name not in dropped)
    if not features:
        reasons = "; ".join(f"{name} is {reason}" for name, reason in dropped.items())
        raise ValueError(f"the causal graph leaves no feature of {outcome!r}: {reasons}")
    return FeatureSelection(
        graph=graph,
        features=features,
        adjustment=adjustment,
        lacking=() if adjustment is not None else _lacking(causes, graph.treatment, outcome, candidates),
        outcome_parents=tuple(parents),
        undeclared=tuple(name for name in columns if name not in causes),
        dropped=dropped,
    )


def _directed_graph(graph: CausalGraph, outcome: str) -> nx.DiGraph[str]:
    causes: nx.DiGraph[str] = nx.DiGraph(graph.edges)
    if outcome not in causes:
        raise ValueError(f"the causal graph has no {outcome!r}, the outcome: it has {', '.join(sorted(causes))}")
    if not nx.is_directed_acyclic_graph(causes):
        raise ValueError(f"the causal graph has a cycle: {' -> '.join(cause for cause, _ in nx.find_cycle(causes))}")
    return causes


def _descendants(causes: nx.DiGraph[str], treatment: str, outcome: str) -> set[str]:
    """The treatment, and all descendants of the treatment or the outcome."""
    return {treatment, *nx.descendants(causes, treatment), *nx.descendants(causes, outcome)}


def _backdoors(causes: nx.DiGraph[str], treatment: str) -> nx.DiGraph[str]:
    """The graph without the edges that leave the treatment."""
    remaining = causes.copy()
    remaining.remove_edges_from(list(causes.out_edges(treatment)))
    return remaining


def _adjustment(causes: nx.DiGraph[str], treatment: str, outcome: str, candidates: Iterable[str]) -> tuple[str, ...] | None:
    """Smallest set of candidates that closes every backdoor path; None where no set does."""
    backdoors = _backdoors(causes, treatment)
    separator = nx.find_minimal_d_separator(backdoors, {treatment}, {outcome}, restricted=set(candidates))
    return None if separator is None else tuple(sorted(separator))


def _lacking(causes: nx.DiGraph[str], treatment: str, outcome: str, candidates: Sequence[str]) -> tuple[str, ...]:
    """Columns outside the table that would close the backdoor paths together with the candidates."""
    declared = set(causes) - _descendants(causes, treatment, outcome) - {outcome}
    adjustment = _adjustment(causes, treatment, outcome, declared)
    return tuple(name for name in adjustment or () if name not in candidates)


def _reason(causes: nx.DiGraph[str], treatment: str, outcome: str, name: str, needed: set[str]) -> str | None:
    """Why a declared column outside of ``needed`` is no feature; None where it may stay."""
    if name == treatment:
        return "the treatment itself"
    for cause in (treatment, outcome):
        if name in nx.descendants(causes, cause):
            return f"an effect of {cause}"
    separate = nx.is_d_separator(_backdoors(causes, treatment), {name}, {outcome}, needed)
    if name in nx.ancestors(causes, treatment) and separate:
        return f"an instrument: acts on {outcome} through {treatment} only"
    return None
