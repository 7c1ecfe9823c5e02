"""Publishes what a stored batch has changed."""

from __future__ import annotations

from sql.dead_letter_store import unsent_refused_between
from streams.errors import is_waited_for
from streams.ingestion import rows
from streams.ingestion.rows import IngestResult
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import publish_dead_letters
from streams.retries import any_error, report_failure, retry_transient

__all__ = ["publish_result"]


async def publish_result(app: TwinApp, result: IngestResult) -> None:
    """Publish the rows and the refused records of a stored batch, and wait until the broker has them (rules 3, 4 and 12).

    It is tried until it succeeds, whatever it raises: the batch is not acknowledged before.
    """

    async def publish() -> None:
        try:
            await _publish(app, result)
        except Exception as error:
            if not is_waited_for(error):
                report_failure(app.role, "publication", error)
            raise

    await retry_transient(publish, part="kafka", waits_for=any_error)


async def _publish(app: TwinApp, result: IngestResult) -> None:
    for sent in [await app.send_event(message, key=message.line) for message in rows.pane_messages(result)]:
        await sent
    refused = result.refused
    if result.n_replayed:  # copies of records that an earlier attempt refused may not have been sent
        refused = await unsent_refused_between(app.pool, result.source, result.first_offset, result.last_offset)
    await publish_dead_letters(app, refused)
