"""The effects of a simulation's answer as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["answer_csv"]

_COLUMNS = (
    "part",
    "name",
    "effect",
    "lower",
    "upper",
    "twins",
    "difference",
    "difference_lower",
    "difference_upper",
    "probability_best",
)


def answer_csv(intervention: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The effect over all twins, those of the alternatives with their differences from it, and those of subgroups, as fractions."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(_rows(intervention, results))
    return text.getvalue()


def _rows(intervention: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if "ate" not in results:
        return
    yield {
        "part": "campaign",
        "name": intervention.get("intervention_type"),
        **_effect(results),
        "twins": results.get("affected_twin_count"),
    }
    for alternative in results.get("alternatives", ()):
        differences = {
            "difference": alternative["difference"],
            "difference_lower": alternative["difference_ci_lower"],
            "difference_upper": alternative["difference_ci_upper"],
            "probability_best": alternative["probability_best"],
        }
        yield {
            "part": "alternative",
            "name": alternative["intervention"]["intervention_type"],
            **_effect(alternative),
            **differences,
        }
    by_dimension = (results.get("heterogeneity") or {}).get("by_dimension", {})
    for dimension, groups in by_dimension.items():
        for group in groups:
            ends = {"effect": group["estimate"], "lower": group["ci_lower"], "upper": group["ci_upper"]}
            yield {"part": dimension, "name": group["group"], **ends, "twins": group["n"]}


def _effect(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"effect": values["ate"], "lower": values["ate_ci_lower"], "upper": values["ate_ci_upper"]}
