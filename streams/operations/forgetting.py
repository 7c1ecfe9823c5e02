"""Erases a person: every row that names them, and the records of them that arrive later.

Outcomes stay with their values, so that sums and verification stay as they are, but lose id and features. An erasure first enters
the id, as a hash, into the list by which later records are stored without it; then it redacts what is stored, in one transaction. A
run that is killed leaves the list, and nothing half redacted: the next one does the rest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from schemas import TwinType
from schemas.redaction import Names, names_entity, redact
from sql import erasure_store
from sql.database import Connection, clock, connect
from sql.erasure_store import EntityUse, RefusedText
from streams.kafka.topics import DEAD_LETTERS, TOPICS
from streams.settings import Settings

__all__ = ["ForgetReport", "forget", "parse_twin_type", "require_entity_id"]

_SEGMENT_DAYS = 7  # Kafka deletes a record with the rest of its segment, which it closes after a week at the latest
_NAMING_TOPICS = ("outcome-events", "simulation-requests", "simulation-results", "experiment-results", DEAD_LETTERS)
_LOCK_TIMEOUT = "SET lock_timeout = '30s'"


@dataclass(frozen=True)
class ForgetReport:
    """What an erasure did, or would do.

    Attributes:
        counts: number of rows by table.
        models: models that were trained when rows of the person were there to learn from: they keep what they learned.
        trainings: retrains that are running, which may have read rows of the person already.
        kafka_until: when Kafka deletes the last record that names the person, by topic.
        erased_before: when the person was erased for the first time; None where this is it.
    """

    entity_id: str
    twin_type: str
    dry_run: bool
    counts: Mapping[str, int]
    models: Sequence[Mapping[str, Any]]
    trainings: Sequence[str] = ()
    kafka_until: Mapping[str, datetime] = field(default_factory=dict)
    erased_before: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            **vars(self),
            "counts": dict(self.counts),
            "models": [dict(model) for model in self.models],
            "trainings": list(self.trainings),
            "kafka_until": {topic: at.isoformat() for topic, at in self.kafka_until.items()},
        }

    def format_text(self) -> str:
        """The report as text: rows by table, then what could not be reached."""
        verb = "to erase" if self.dry_run else "erased"
        lines = [f"{table:<20} {rows:>10,} rows {verb}" for table, rows in self.counts.items()]
        if self.erased_before is not None:
            lines.append(f"erased for the first time at {self.erased_before.isoformat()}")
        lines.append("outcomes keep their values and sums; outcomes of this id that arrive later are stored without it")
        lines += map(_model_text, self.models)
        lines += [f"training {retrain} is running: its model may learn from rows of this id" for retrain in self.trainings]
        until = ", ".join(f"{topic} until {at:%Y-%m-%d}" for topic, at in self.kafka_until.items())
        return "\n".join([*lines, f"Kafka holds records with the id by its retention, at the latest: {until}"])


def _model_text(model: Mapping[str, Any]) -> str:
    name = f"{model['model_id']} of {model['line']}{' (champion)' if model['is_champion'] else ''}"
    return f"model {name} learned from rows of this id and cannot forget them: train a new one"


async def forget(settings: Settings, entity_id: str, twin_type: TwinType | None, by: str, *, dry_run: bool) -> ForgetReport:
    """Erase a person everywhere, or count what would be erased.

    Args:
        settings: where Postgres is.
        entity_id: exactly as records have it.
        twin_type: only erase this type's entity with the id; None for all types.
        by: who erases, for the audit trail.
        dry_run: change nothing.

    Raises:
        ValueError: when the id cannot be one.
    """
    require_entity_id(entity_id)
    scope = "" if twin_type is None else twin_type.value
    connection = await connect(settings.postgres_dsn.get_secret_value())
    try:
        await connection.execute(_LOCK_TIMEOUT)
        before = await erasure_store.find_erasure(connection, entity_id, scope)
        if not dry_run:
            await erasure_store.begin_erasure(connection, entity_id, scope, by)
        async with connection.transaction(readonly=dry_run):
            return await _erase(connection, _Erasure(entity_id, scope, before), dry_run=dry_run)
    finally:
        await connection.close()


@dataclass(frozen=True)
class _Erasure:
    """What to erase, and the erasure of the same person before, if any."""

    entity_id: str
    scope: str
    before: erasure_store.Erasure | None

    @property
    def models_before(self) -> list[Mapping[str, Any]]:
        return list(self.before.report.get("models", ())) if self.before else []

    @property
    def counts_before(self) -> Mapping[str, int]:
        return self.before.report.get("counts", {}) if self.before else {}


async def _erase(connection: Connection, erasure: _Erasure, *, dry_run: bool) -> ForgetReport:
    entity, scope = erasure.entity_id, erasure.scope
    models = _merge_models(erasure.models_before, await erasure_store.entity_use(connection, entity, scope))
    trainings = await erasure_store.running_trainings(connection, entity, scope)
    refused = await _redact_refused(connection, entity, scope, dry_run=dry_run)
    change = erasure_store.count_rows if dry_run else erasure_store.erase_entity
    counts = {**await change(connection, entity, scope), "refused_records": refused}
    if not dry_run:
        totals = {table: rows + erasure.counts_before.get(table, 0) for table, rows in counts.items()}
        await erasure_store.finish_erasure(connection, entity, scope, {"counts": totals, "models": models})
    return ForgetReport(
        entity_id=entity,
        twin_type=scope,
        dry_run=dry_run,
        counts=counts,
        models=models,
        trainings=[str(retrain) for retrain in trainings],
        kafka_until=_kafka_until(await clock(connection)),
        erased_before=erasure.before.finished_at if erasure.before else None,
    )


def parse_twin_type(text: str | None) -> TwinType | None:
    """The twin type by its name, None for None.

    Raises:
        ValueError: when there is no such type; it names those that there are.
    """
    if text is not None and text not in set(TwinType):
        raise ValueError(f"twin type {text!r} does not exist: use {', '.join(TwinType)}")
    return None if text is None else TwinType(text)


def require_entity_id(entity_id: str) -> None:
    """Check that a text can be the id of an entity.

    Raises:
        ValueError: when no stored id can be this one.
    """
    if not entity_id.strip():
        raise ValueError(f"entity id {entity_id!r} is empty: give the id as records have it in entity_id")
    if "\0" in entity_id:
        raise ValueError(f"entity id {entity_id!r} contains the character NUL, which no stored id can have")
    try:
        entity_id.encode()
    except UnicodeEncodeError:
        raise ValueError(f"entity id {entity_id!r} is no valid UTF-8 text") from None


def _merge_models(before: Sequence[Mapping[str, Any]], use: Sequence[EntityUse]) -> list[Mapping[str, Any]]:
    """Models by their id, with what was stored of them when the person was erased before."""
    models = {model["model_id"]: model for model in before}
    for model in use:
        fields = {"line": model.line, "trained_at": model.trained_at.isoformat(), "is_champion": model.is_champion}
        models[str(model.model_id)] = {"model_id": str(model.model_id), **fields}
    return list(models.values())


def _kafka_until(now: datetime) -> dict[str, datetime]:
    days = {topic.name: topic.retention_days + _SEGMENT_DAYS for topic in TOPICS}
    return {topic: now + timedelta(days=days[topic]) for topic in _NAMING_TOPICS}


async def _redact_refused(connection: Connection, entity: str, scope: str, *, dry_run: bool) -> int:
    """Redact the refused records that name the person; returns their number."""
    names, matches = names_entity(entity), []
    async for record in erasure_store.refused_texts(connection):
        redaction = _redaction_of(record, names)
        if redaction is not None and not _is_of_another_type(record.value, scope):
            matches.append((record.refusal_id, *redaction))
    for refusal_id, erase_key, value, headers in matches if not dry_run else ():
        await erasure_store.redact_refused(connection, refusal_id, value, headers, erase_key=erase_key)
    return len(matches)


def _redaction_of(record: RefusedText, names: Names) -> tuple[bool, bytes | None, list[int]] | None:
    """Whether to erase the key, the redacted value, and the headers to erase; None where nothing names the person."""
    value = redact(record.value, names)
    erase_key = redact(record.key, names) is not record.key
    headers = [index for index, (name, text) in enumerate(record.headers) if names(name) or _names_bytes(text, names)]
    is_named = value is not record.value or erase_key or headers or names(record.reason) or names(record.traceback)
    return (erase_key, value, headers) if is_named else None


def _names_bytes(text: str | None, names: Names) -> bool:
    value = None if text is None else base64.b64decode(text)
    return redact(value, names) is not value


def _is_of_another_type(value: bytes | None, scope: str) -> bool:
    """Whether a record says that it is about another twin type than the one that is erased."""
    if not scope or value is None:
        return False
    try:
        body = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and body.get("twin_type", scope) != scope
