"""Publishes what a stored batch has changed; Postgres has it already, so a message that cannot be sent holds nothing up."""

from __future__ import annotations

from functools import partial

from sql.dead_letter_store import unsent_refused_since
from streams.errors import is_waited_for
from streams.ingestion import rows
from streams.ingestion.rows import IngestResult
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import publish_dead_letters
from streams.retries import report_failure, retry_unforeseen

__all__ = ["publish_result"]


async def publish_result(app: TwinApp, result: IngestResult) -> None:
    """Publish the rows and the refused records of a stored batch, and wait until the broker has them (rules 3, 4 and 12).

    What cannot be sent at all is logged and counted: the sweeps of the roles read it from Postgres (rule 14).
    """
    try:
        await retry_unforeseen(partial(_publish, app, result), part="kafka", attempts=app.parking.attempts)
    except Exception as error:
        if is_waited_for(error) or app.should_stop:
            raise
        report_failure(app.role, "publication", error)


async def _publish(app: TwinApp, result: IngestResult) -> None:
    for sent in [await app.send_event(message, key=message.line) for message in rows.pane_messages(result)]:
        await sent
    # Copies of records refused by an earlier attempt may not have been sent.
    refused = await unsent_refused_since(app.pool, result.source, result.first_offset) if result.n_replayed else result.refused
    await publish_dead_letters(app, refused)
