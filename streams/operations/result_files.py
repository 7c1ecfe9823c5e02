"""Reads results of experiments from a YAML or JSON file: one result, or a list of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas import INTERVENTIONS, Channel, ExperimentResult, Frequency
from schemas.base import shorten
from schemas.level_meaning import declared_level
from streams.catalogue.written_numbers import number_advice
from streams.errors import describe_error
from streams.yaml_tree import Mark, Tree, YamlProblem, parse_yaml

__all__ = ["ResultFileError", "completed_result", "read_results"]


class ResultFileError(ValueError):
    """A file of results that cannot be used, with everything that is wrong in it by line and column."""


def read_results(path: Path, defaults: Mapping[str, Any]) -> list[ExperimentResult]:
    """The results in a file; fields that a result lacks are those of ``defaults``.

    A campaign may be written as its name alone: it has then its usual channel, monthly, for 12 weeks.

    Raises:
        ResultFileError: when the file cannot be read, or a result in it is not valid.
    """
    tree = _parsed(path)
    entries = list(enumerate(tree.data)) if isinstance(tree.data, list) else [((), tree.data)]
    results: list[ExperimentResult] = []
    problems: list[str] = []
    for number, entry in entries:
        place = (number,) if isinstance(number, int) else ()
        try:
            results.append(completed_result(entry, defaults))
        except ValidationError as error:
            problems += _field_problems(error, path.name, tree, place)
        except ValueError as error:
            problems.append(f"{_place(path.name, tree, place)}: {describe_error(error)}")
    counts = Counter(result.experiment_id for result in results)
    problems += [f"{path.name}: {name!r} names {n} results: every one has its own id" for name, n in counts.items() if n > 1]
    if problems:
        raise ResultFileError("; ".join(problems))
    return results


def _parsed(path: Path) -> Tree:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except YamlProblem as error:
        raise ResultFileError(f"{path.name}:{error.mark.line}:{error.mark.column}: {error.text}") from error
    except UnicodeDecodeError as error:
        raise ResultFileError(f"{path.name} is no UTF-8 text: write it as YAML or JSON, or give a table with --rows") from error


def completed_result(fields: Any, defaults: Mapping[str, Any]) -> ExperimentResult:
    """A result from fields as people write them, and defaults for those that are absent.

    Raises:
        ValueError: when it is not valid.
    """
    if not isinstance(fields, Mapping):
        raise ValueError("a result has fields by name: experiment_id, intervention, effect, standard_error, ...")  # noqa: TRY004
    complete = {**defaults, **fields}
    campaign = complete.get("intervention")
    if isinstance(campaign, str):
        campaign = {"intervention_type": campaign}
    if isinstance(campaign, dict):
        name = str(campaign.get("intervention_type"))
        usual = INTERVENTIONS[name].channel if name in INTERVENTIONS else Channel.EMAIL  # an unknown name is refused
        campaign = {"channel": usual, "frequency": Frequency.MONTHLY.value, "duration_weeks": 12, **campaign}
    subgroups = complete.get("subgroups")
    if isinstance(subgroups, list):
        complete["subgroups"] = [_as_declared(group) for group in subgroups]
    return ExperimentResult.model_validate({**complete, "intervention": campaign})


def _as_declared(group: Any) -> Any:
    """A subgroup whose level is written as the catalogue declares it; what is none is left to the validation."""
    if not isinstance(group, Mapping) or not isinstance(group.get("level"), str):
        return group
    return {**group, "level": declared_level(str(group.get("dimension")), group["level"]) or group["level"]}


def _field_problems(error: ValidationError, name: str, tree: Tree, base: tuple[str | int, ...]) -> list[str]:
    clauses = describe_error(error).split("; ")
    details = error.errors(include_url=False)
    if len(details) != len(clauses):  # several types of one value are one clause
        return [f"{_place(name, tree, base)}: {clause}" for clause in clauses]
    return [
        f"{_place(name, tree, (*base, *item['loc']))}: {_advice(item) or clause}"
        for item, clause in zip(details, clauses, strict=True)
    ]


def _advice(problem: ErrorDetails) -> str | None:
    """How a number or a time is written, where a text is none; None for another problem."""
    kind, value, field = problem["type"], problem["input"], ".".join(map(str, problem["loc"]))
    if not isinstance(value, str):
        return None
    if kind in ("float_parsing", "int_parsing"):
        return f"{field}: {shorten(value)} is no number: {number_advice(value)}"
    if kind == "timezone_aware" or kind.startswith("datetime"):
        return f"{field}: {shorten(value)} is no time: write the day, the hour and the zone, such as {_example_time(value)}"
    return None


def _example_time(text: str) -> str:
    """The time that a text may mean, else any."""
    try:
        return f"{datetime.fromisoformat(text.strip()):%Y-%m-%dT%H:%M:%S}Z"
    except ValueError:
        return "2026-01-31T12:00:00Z"


def _place(name: str, tree: Tree, path: tuple[str | int, ...]) -> str:
    while path and path not in tree.values:
        path = path[:-1]
    mark = tree.values.get(path, Mark(1, 1))
    return f"{name}:{mark.line}:{mark.column}"
