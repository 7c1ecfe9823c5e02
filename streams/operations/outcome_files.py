"""Reads and checks a file of outcomes, and publishes it with the features that its models know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from schemas import TWIN_TYPES, TwinType
from sql.database import Pool
from streams.operations.outcome_columns import named_as_outcomes, outcome_scale, without_left_out
from streams.operations.own_columns import find_own_columns
from streams.operations.publication import PublicationRefused, Published, Publisher, publish_file
from streams.operations.publication_rows import OutcomeFile
from streams.settings import Settings
from streams.tables import TableOptions, outcome_columns, read_table

__all__ = ["OutcomeLine", "ReadOutcomes", "publish_outcomes", "read_outcome_file", "require_plausible_scale"]


class OutcomeLine(NamedTuple):
    """The model line of rows that do not name theirs; without a target that of the twin type."""

    twin_type: TwinType
    brand: str
    target: str | None = None


class ReadOutcomes(NamedTuple):
    """The rows of a file, and what was converted."""

    file: OutcomeFile
    remarks: Sequence[str]


def read_outcome_file(
    path: Path, line: OutcomeLine, options: TableOptions, now: datetime, *, partly: bool, name: str | None = None
) -> ReadOutcomes:
    """Read the rows of a file; the first bad cells are in the error.

    Args:
        path: where it is.
        line: of rows that do not name theirs.
        options: how it is read.
        now: the time of rows without one.
        partly: leave out rows with bad cells.
        name: by which messages and the receipt name it; that of ``path`` by default.

    Raises:
        PublicationRefused: when a cell is bad, and ``partly`` is not set.
        ValueError: when it is no table.
    """
    reading = read_table(path, outcome_columns(line.twin_type), options)
    known_as = name or reading.name
    if reading.bad_cells and not partly:
        raise PublicationRefused(
            f"{known_as}: nothing is sent, as {reading.n_bad:,} of {reading.n_rows:,} rows are bad: "
            f"{'; '.join(reading.examples())}. Correct them, or leave them out with --partly"
        )
    metric_type = TWIN_TYPES[line.twin_type].target(line.target).name
    frame, renamed = named_as_outcomes(reading.frame, line.twin_type, metric_type)
    constants = {"twin_type": line.twin_type.value, "brand": str(line.brand), "metric_type": metric_type}
    file = OutcomeFile.oldest_first(known_as, frame, reading.rows, constants, now)
    return ReadOutcomes(file, [*reading.remarks(), *renamed])


def require_plausible_scale(outcomes: OutcomeFile, *, accept: bool) -> list[str]:
    """What is doubtful about the unit of the outcomes, when it is confirmed or concerns single ones.

    Raises:
        PublicationRefused: when they are in another unit than their target, and that is not confirmed.
    """
    scale = outcome_scale(outcomes.frame, outcomes.constants)
    if scale.problems and not accept:
        raise PublicationRefused(
            f"{outcomes.name}: nothing is sent, as {'; '.join(scale.problems)}. Correct it, or confirm the values with --accept"
        )
    return [*scale.problems, *scale.warnings]


async def publish_outcomes(
    settings: Settings,
    pool: Pool,
    outcomes: OutcomeFile,
    twin_type: TwinType,
    publisher: Publisher,
    *,
    partly: bool,
    backfill: bool,
    notify: Callable[[str], object],
    report_progress: Callable[[int], object] = lambda _rows: None,
) -> Published:
    """Publish the outcomes of a file as :func:`~streams.operations.publication.publish_file` does.

    Args:
        settings: where Kafka and Postgres are.
        pool: connections to Postgres.
        outcomes: the rows.
        twin_type: of the line of rows that do not name theirs.
        publisher: who publishes them.
        partly: publish the other rows when some are bad or too late.
        backfill: publish rows that are too late to be counted as well, as history.
        notify: called with each sentence about features that a model will lack, or does not take.
        report_progress: called with the number of rows that are done, twice for each.

    Raises:
        PublicationRefused: when a row is bad or too late, and the options do not allow it.
    """
    own = await find_own_columns(pool, outcomes.frame.assign(**outcomes.constants), notify)
    frame, notes = without_left_out(outcomes.frame, twin_type, own.left_out)
    for note in notes:
        notify(note)
    prepared = replace(outcomes, frame=frame, own_features=own.features)
    return await publish_file(
        settings, pool, prepared, publisher, partly=partly, backfill=backfill, report_progress=report_progress
    )
