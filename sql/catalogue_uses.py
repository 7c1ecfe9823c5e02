"""What a new catalogue would break: entries that stored models, experiments or open windows depend on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from schemas.base import count_of
from schemas.catalogue import Catalogue
from schemas.twin_types import Target, TwinType
from sql.catalogue_ranges import range_findings
from sql.database import Database

__all__ = ["CatalogueInUse", "refuse_breaking"]

_LINES = "SELECT line, twin_type::text AS twin_type, brand::text AS brand, target FROM model_lines ORDER BY line"
_FEATURES = """
SELECT DISTINCT m.line, m.twin_type::text AS twin_type, feature
FROM digital_twin_models m JOIN model_lines l ON l.champion = m.model_id, unnest(m.features) AS feature
ORDER BY m.line, feature"""
_EXPERIMENTS = """
SELECT intervention, split_part(line, ':', 1) AS twin_type, count(*) AS n
FROM experiments WHERE withdrawn_at IS NULL GROUP BY 1, 2 ORDER BY 1, 2"""
_OPEN_SEGMENTS = """
SELECT DISTINCT l.twin_type::text AS twin_type, split_part(split_part(p.segment, '=', 1), ':', 1) AS dimension,
       to_timestamp(max(p.pane + l.window_s)) AS closes_at
FROM fidelity_panes p JOIN model_lines l USING (line)
WHERE p.segment <> 'all' AND p.pane > extract(epoch FROM clock_timestamp()) - l.window_s
GROUP BY 1, 2 ORDER BY 1, 2"""
_MEANING = ("unit", "scale", "direction", "share_of")


class CatalogueInUse(ValueError):
    """A catalogue that would break what is stored, with a sentence for each part of it, and the way out."""


class _Line(NamedTuple):
    line: str
    twin_type: TwinType
    brand: str
    target: str


async def refuse_breaking(database: Database, before: Catalogue, after: Catalogue) -> list[str]:
    """Check that everything that is stored, and still used, means under ``after`` what it means under ``before``.

    Returns:
        What it changes without breaking it, a sentence each.

    Raises:
        CatalogueInUse: when it does not.
    """
    lines = [_Line(row["line"], TwinType(row["twin_type"]), row["brand"], row["target"]) for row in await database.fetch(_LINES)]
    problems = [*_line_problems(lines, before, after)]
    features = [(row["line"], TwinType(row["twin_type"]), row["feature"]) for row in await database.fetch(_FEATURES)]
    problems += _feature_problems(features, before, after)
    targets = [(line.line, line.twin_type, line.target) for line in lines]
    ranges = [finding async for finding in range_findings(database, targets, features, before, after)]
    problems += [finding.text for finding in ranges if finding.refuses]
    experiments = [(row["intervention"], TwinType(row["twin_type"]), row["n"]) for row in await database.fetch(_EXPERIMENTS)]
    problems += _campaign_problems(experiments, after)
    for row in await database.fetch(_OPEN_SEGMENTS):
        twin_type, dimension = TwinType(row["twin_type"]), row["dimension"]
        is_segment = dimension in before.entries[twin_type].segments
        if is_segment and (
            dimension not in after.entries[twin_type].segments or before.levels.get(dimension) != after.levels.get(dimension)
        ):
            until = f"{row['closes_at']:%Y-%m-%d %H:%M:%S} UTC"
            problems.append(
                f"the segment {dimension} of {twin_type} twins has open windows until {until}: apply it then, or keep the segment"
                " and its levels"
            )
    if problems:
        raise CatalogueInUse("; ".join(problems))
    return [finding.text for finding in ranges if not finding.refuses]


def _line_problems(lines: list[_Line], before: Catalogue, after: Catalogue) -> Iterator[str]:
    for line in lines:
        if line.brand not in after.brands:
            yield f"the brand {line.brand} has the model line {line.line}: keep its entry, which costs nothing"
        declared = after.entries[line.twin_type].declared
        if line.target not in declared:
            yield f"the target {line.target} has the model line {line.line}: keep its entry, which costs nothing"
        elif changed := _changed_meaning(before.entries[line.twin_type].declared.get(line.target), declared[line.target]):
            yield (
                f"{', '.join(changed)} of the target {line.target} would change the meaning of the outcomes of {line.line}:"
                " declare a target of another name, and train a model of it"
            )


def _changed_meaning(before: Target | None, after: Target) -> list[str]:
    return [name for name in _MEANING if before is not None and getattr(before, name) != getattr(after, name)]


def _feature_problems(features: list[tuple[str, TwinType, str]], before: Catalogue, after: Catalogue) -> Iterator[str]:
    for line, twin_type, name in features:
        old, new = before.entries[twin_type].by_name.get(name), after.entries[twin_type].by_name.get(name)
        if old is not None and new is None:
            yield f"the champion of {line} predicts from {name}: keep the feature until a model without it is champion"
        elif old is not None and new is not None and old.kind != new.kind:
            yield (
                f"the champion of {line} has learned {name} as a {old.kind}, not as a {new.kind}: declare a feature of another"
                " name, train with it, and take the old one out later"
            )
        elif old is not None and new is not None and old.unit and old.unit != new.unit:
            unit = f"in {new.unit!r}" if new.unit else "without a unit"
            yield (
                f"the champion of {line} has learned {name} in {old.unit!r}, not {unit}: keep its unit, or declare a feature of"
                " another name, train with it, and take the old one out later"
            )


def _campaign_problems(experiments: list[tuple[str, TwinType, int]], after: Catalogue) -> Iterator[str]:
    for name, twin_type, count in experiments:
        campaign = after.campaigns.get(name)
        if campaign is None or (campaign.twin_types and twin_type not in campaign.twin_types):
            number = count_of(count, "experiment")
            yield f"the campaign {name} has {number} on {twin_type} twins: keep its entry, or withdraw what is there first"
