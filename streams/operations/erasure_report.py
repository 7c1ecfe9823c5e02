"""What an erasure did: rows by table, what stays in Postgres and why, and until when Kafka holds records with the id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from schemas.readings import SEARCHED_FORMS, UNSEARCHED_FORMS
from streams.operations.erased_topics import TopicHold

__all__ = ["ForgetReport", "RemainingValues"]


@dataclass(frozen=True)
class RemainingValues:
    """Values of a column that name the id and were not changed, and why."""

    column: str
    rows: int
    reason: str


@dataclass(frozen=True)
class ForgetReport:
    """What an erasure did, or would do.

    Attributes:
        counts: number of rows by table, of tables that were looked through.
        models: models that were trained when rows of the person were there to learn from: they keep what they learned.
        trainings: retrains that are running, which may have read rows of the person already.
        uploads: uploaded tables that name the person, which are deleted as a whole; a model trained on one keeps what it learned.
        remains: columns in which the id stays.
        kafka: how long Kafka holds records that may name the person, by topic.
        republished: keys of compacted topics that were published again without the id.
        erased_before: when the person was erased for the first time; None where this is it.
    """

    entity_id: str
    twin_type: str
    dry_run: bool
    counts: Mapping[str, int]
    models: Sequence[Mapping[str, Any]]
    trainings: Sequence[str] = ()
    uploads: Sequence[str] = ()
    remains: Sequence[RemainingValues] = ()
    kafka: Mapping[str, TopicHold] = field(default_factory=dict)
    republished: Sequence[str] = ()
    erased_before: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            **vars(self),
            "counts": dict(self.counts),
            "models": [dict(model) for model in self.models],
            "trainings": list(self.trainings),
            "uploads": list(self.uploads),
            "remains": [vars(values) for values in self.remains],
            "kafka": {topic: hold.to_dict() for topic, hold in self.kafka.items()},
            "republished": list(self.republished),
            "searched_forms": list(SEARCHED_FORMS),
            "unsearched_forms": list(UNSEARCHED_FORMS),
        }

    def format_text(self) -> str:
        """The report as text: rows by table, then what could not be reached."""
        verb = "to erase" if self.dry_run else "erased"
        changed = {table: rows for table, rows in self.counts.items() if rows}
        lines = [f"{table:<20} {rows:>10,} rows {verb}" for table, rows in changed.items()]
        if not changed:
            lines.append(f"none of {len(self.counts)} tables has a row {verb}")
        if self.erased_before is not None:
            lines.append(f"erased for the first time at {self.erased_before.isoformat()}")
        lines.append("outcomes keep their values and sums; outcomes of this id that arrive later are stored without it")
        lines.append("the id was looked for:")
        lines += [f"  {form}" for form in SEARCHED_FORMS]
        lines.append("it was not looked for, and may still be stored:")
        lines += [f"  {form}" for form in UNSEARCHED_FORMS]
        lines += [f"{values.column} keeps the id in {values.rows:,} rows: {values.reason}" for values in self.remains]
        lines += map(_model_text, self.models)
        lines += [f"the uploaded table {table} names this id: it is deleted as a whole" for table in self.uploads]
        lines += [f"training {retrain} is running: its model may learn from rows of this id" for retrain in self.trainings]
        if self.republished:
            lines.append(f"published again without the id: {', '.join(self.republished)}")
        if self.kafka:
            lines.append("Kafka may hold records with the id, at the latest:")
            lines += [f"  {topic:<20} {hold.format_text()}" for topic, hold in self.kafka.items()]
        return "\n".join(lines)


def _model_text(model: Mapping[str, Any]) -> str:
    name = f"{model['model_id']} of {model['line']}{' (champion)' if model['is_champion'] else ''}"
    return f"model {name} learned from rows of this id and cannot forget them: train a new one"
