"""Counts of the features with which outcomes were predicted, by model: missing, unseen and unused ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from schemas.events import SourceId
from sql.database import Connection, Database

__all__ = ["FeatureCount", "LineColumns", "add_feature_counts", "feature_counts", "line_columns"]


class FeatureCount(NamedTuple):
    """Outcomes of a model that were predicted from features.

    Attributes:
        outcomes: all of them that could have had this feature.
        missing: of these without a value of the feature.
        unseen: of these with a level of it that the model never saw.
        unused: outcomes that have the feature although the model does not use it.
    """

    line: str
    model_id: UUID
    feature: str
    outcomes: int = 0
    missing: int = 0
    unseen: int = 0
    unused: int = 0


_ADD = """
INSERT INTO feature_counts AS c (line, model_id, feature, outcomes, missing, unseen, unused, source)
SELECT n.*, $8 FROM unnest($1::text[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) AS n
ON CONFLICT (model_id, feature, source) DO UPDATE
SET outcomes = c.outcomes + excluded.outcomes, missing = c.missing + excluded.missing,
    unseen = c.unseen + excluded.unseen, unused = c.unused + excluded.unused"""


async def add_feature_counts(connection: Connection, source: SourceId, counts: Sequence[FeatureCount]) -> None:
    """Add the counts of a batch, in its transaction; only the one that holds the position of the source changes its rows."""
    if counts:
        await connection.execute(_ADD, *map(list, zip(*counts, strict=True)), str(source))


_COUNTS = """
SELECT line, model_id, feature, sum(outcomes)::bigint AS outcomes, sum(missing)::bigint AS missing, sum(unseen)::bigint AS unseen,
       sum(unused)::bigint AS unused
FROM feature_counts WHERE model_id = $1
GROUP BY line, model_id, feature
ORDER BY feature"""


async def feature_counts(database: Database, model_id: UUID) -> list[FeatureCount]:
    """The counts of a model since its first outcome, by feature."""
    return [FeatureCount(**row) for row in await database.fetch(_COUNTS, model_id)]


_LINE_COLUMNS = """
SELECT line, array_agg(DISTINCT name) FILTER (WHERE is_feature) AS features,
       array_agg(DISTINCT name) FILTER (WHERE NOT is_feature) AS left_out
FROM (
    SELECT m.line, f.name, bool_or(f.is_feature) AS is_feature
    FROM digital_twin_models m, LATERAL (
        SELECT unnest(m.features) AS name, true AS is_feature
        UNION ALL
        SELECT jsonb_array_elements_text(m.metrics -> 'left_out'), false
    ) AS f
    WHERE m.line = ANY($1)
    GROUP BY 1, 2
) AS named
GROUP BY line"""


class LineColumns(NamedTuple):
    """Names of the columns that models of a line were trained with, challengers included.

    Attributes:
        features: of any of these models.
        left_out: columns of their training tables that none of them has as a feature, such as ids and times.
    """

    features: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()


async def line_columns(database: Database, lines: Iterable[str]) -> dict[str, LineColumns]:
    """The columns of each of these lines; a line without models has none."""
    names = sorted(set(lines))
    rows = await database.fetch(_LINE_COLUMNS, names)
    by_line = {line: LineColumns(frozenset(features or ()), frozenset(left_out or ())) for line, features, left_out in rows}
    return {line: by_line.get(line, LineColumns()) for line in names}
