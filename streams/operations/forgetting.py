"""Erases a person: every row that names them, the records of them that arrive later, and what compacted topics hold of them.

Outcomes stay with their values, so that sums and verification stay as they are, but lose id and features.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from engine.effects import catalogue_prior
from schemas import TwinType
from sql import erasure_store
from sql.database import connect
from sql.effects_store import calibrated_lines, chosen_effects
from sql.experiment_store import effects_of_erased, names_erased_experiment
from streams.operations.erased_topics import republish_effects, topic_holds
from streams.operations.erasing import EntityEraser, merge_models
from streams.operations.erasure_report import ForgetReport
from streams.settings import Settings

__all__ = ["erase_rows", "forget", "parse_twin_type", "require_entity_id"]

_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', $1, false)"


async def forget(settings: Settings, entity_id: str, twin_type: TwinType | None, by: str, *, dry_run: bool) -> ForgetReport:
    """Erase a person everywhere, or count what would be erased.

    Args:
        settings: where Postgres and Kafka are.
        entity_id: as records have it, in one of the spellings that :data:`~schemas.readings.SEARCHED_FORMS` names.
        twin_type: only erase this type's entity with the id; None for all types.
        by: who erases, for the audit trail.
        dry_run: change nothing.

    Raises:
        ValueError: when the id cannot be one.
        StoringTransactionOpen: when a transaction that may store the id does not end.
    """
    require_entity_id(entity_id)
    holds = await topic_holds(settings, datetime.now(UTC))  # first: without Kafka nothing is begun
    report = await erase_rows(settings, entity_id, twin_type, by, dry_run=dry_run)
    republished = [] if dry_run else await _republish(settings)
    return replace(report, kafka=holds, republished=republished)


async def _republish(settings: Settings) -> list[str]:
    """Publish the priors again that follow from experiments of erased ids, also of earlier erasures that ended before this."""
    connection = await connect(settings.postgres_dsn.get_secret_value())
    try:
        effects = await effects_of_erased(connection)
        keys = {event.key for event in effects}
        for line in await calibrated_lines(connection):  # the newest record of a key is the prior that simulations take
            choices = await chosen_effects(connection, line, catalogue_prior)
            effects += [event for event in choices if event.key in keys or names_erased_experiment(event.experiments)]
    finally:
        await connection.close()
    return await republish_effects(settings, effects)


async def erase_rows(settings: Settings, entity_id: str, twin_type: TwinType | None, by: str, *, dry_run: bool) -> ForgetReport:
    """Erase a person from Postgres alone, as :func:`forget` does."""
    require_entity_id(entity_id)
    scope = "" if twin_type is None else twin_type.value
    connection = await connect(settings.postgres_dsn.get_secret_value())
    try:
        await connection.execute(_LOCK_TIMEOUT, f"{settings.postgres_lock_timeout_s * 1000:.0f}ms")
        before = await erasure_store.find_erasure(connection, entity_id, scope)
        eraser = EntityEraser(connection, entity_id, scope, dry_run)
        if not dry_run:
            await eraser.enter(by, settings.postgres_statement_timeout_s + settings.postgres_idle_in_transaction_timeout_s)
        written = eraser.spellings
        models = merge_models(before, [use for id_ in written for use in await erasure_store.entity_use(connection, id_, scope)])
        trainings = [retrain for id_ in written for retrain in await erasure_store.running_trainings(connection, id_, scope)]
        await eraser.erase(before, models)
    finally:
        await connection.close()
    return ForgetReport(
        entity_id=entity_id,
        twin_type=scope,
        dry_run=dry_run,
        counts=eraser.counts,
        models=models,
        trainings=list(dict.fromkeys(map(str, trainings))),
        uploads=list(map(str, eraser.uploads)),
        remains=eraser.remaining(),
        erased_before=before.finished_at if before else None,
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
