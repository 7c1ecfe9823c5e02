"""Erases a person from Postgres, table by table, each in a short transaction of its own.

The id is first entered into the list by which later records are stored without it, and the transactions that may not have found it
there are waited for. A run that is killed leaves the list and the tables that are done: the next one does the rest.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import UUID

from schemas.readings import spellings
from schemas.redaction import Names, names_entity, redact, replace_entity
from sql import erasure_scan, erasure_store, upload_store
from sql.database import Connection, transaction
from sql.erasure_scan import Column, ScannedRow
from sql.erasure_store import OWN_ROWS, EntityUse, Erasure, RefusedText, StoringTransaction
from sql.experiment_store import redact_experiment
from streams.operations.erased_uploads import names_table
from streams.operations.erasure_report import RemainingValues

__all__ = ["EntityEraser", "StoringTransactionOpen", "merge_models"]

_POLL_S = 0.05
_PASSES = 3  # a row that is changed between the look and its redaction is looked at again
_REFUSED, _EXPERIMENTS, _UPLOADS = "refused_records", "experiments", "uploaded_tables"


class StoringTransactionOpen(RuntimeError):
    """A transaction that may store the id does not end."""

    def __init__(self, running: Sequence[StoringTransaction], waited_s: float) -> None:
        oldest = running[0]
        since = f", open since {oldest.since:%H:%M:%S} UTC" if oldest.since else ""
        super().__init__(
            f"the id is erased from what arrives from now on, but {len(running)} transactions that began before have not ended"
            f" within {waited_s:g} s and may store it (the oldest: process {oldest.pid} of user {oldest.user!r}{since}): end them"
            " and erase again"
        )


@dataclass
class EntityEraser:
    """Erases one person on one connection, or counts what would be erased.

    Attributes:
        scope: a twin type, or empty for all.
        counts: number of rows by table so far.
        remains: number of rows in which the id stays, by column.
        uploads: ids of the uploaded tables that name the person, and are deleted.
    """

    connection: Connection
    entity: str
    scope: str
    dry_run: bool
    counts: dict[str, int] = field(default_factory=dict)
    remains: dict[Column, int] = field(default_factory=dict)
    uploads: list[UUID] = field(default_factory=list)

    @cached_property
    def names(self) -> Names:
        """Whether a text names the person."""
        return names_entity(self.entity)

    @cached_property
    def spellings(self) -> Sequence[str]:
        """The id in every spelling: the ids of rows and of later records are compared with each."""
        return spellings(self.entity)

    async def enter(self, by: str, wait_s: float) -> None:
        """Enter the id into the list of erased ones, and wait for the transactions that may not have found it there.

        Raises:
            StoringTransactionOpen: when one of them has not ended after ``wait_s`` seconds; it is named.
        """
        for spelling in self.spellings:
            await erasure_store.begin_erasure(self.connection, spelling, self.scope, by)
        open_before = {storing.key for storing in await erasure_store.storing_transactions(self.connection)}
        deadline = time.monotonic() + wait_s
        while running := await self._still_storing(open_before):
            if time.monotonic() > deadline:
                raise StoringTransactionOpen(running, wait_s)
            await asyncio.sleep(_POLL_S)

    async def _still_storing(self, keys: Collection[str]) -> list[StoringTransaction]:
        return [storing for storing in await erasure_store.storing_transactions(self.connection) if storing.key in keys]

    async def erase(self, before: Erasure | None, models: Sequence[Mapping[str, Any]]) -> None:
        """Go through every table; the list of erasures has what is done so far."""
        await self._erase_uploads()
        columns = await erasure_scan.text_columns(self.connection)
        for table in [_EXPERIMENTS, *(table for table in columns if table != _EXPERIMENTS)]:
            async with transaction(self.connection):
                self.counts[table] = self.counts.get(table, 0) + await self._erase_table(table, columns[table])
                await self._record(before, models, is_finished=False)
        async with transaction(self.connection):
            self.counts[_REFUSED] = self.counts.get(_REFUSED, 0) + await self._redact_refused()
            await self._record(before, models, is_finished=True)

    def remaining(self) -> list[RemainingValues]:
        """The columns in which the id stays."""
        return [
            RemainingValues(f"{column.table}.{column.name}", rows, erasure_scan.reason_to_stay(column))
            for column, rows in sorted(self.remains.items())
        ]

    async def _record(self, before: Erasure | None, models: Sequence[Mapping[str, Any]], *, is_finished: bool) -> None:
        if not self.dry_run:
            counted: Mapping[str, int] = before.report.get("counts", {}) if before else {}
            totals = dict(Counter(counted) + Counter(self.counts))
            report = {"counts": totals, "models": list(models)}
            for spelling in self.spellings:
                await erasure_store.record_erasure(self.connection, spelling, self.scope, report, is_finished=is_finished)

    async def _erase_uploads(self) -> None:
        """Delete every uploaded table that names the person: a table cannot be changed, as trainings name it by its bytes."""
        for table_id, ending in await upload_store.tables_with_blocks(self.connection, self.scope):
            content = await upload_store.table_bytes(self.connection, table_id)
            if await asyncio.to_thread(names_table, content, ending, self.names):
                self.uploads.append(table_id)
                if not self.dry_run:
                    await upload_store.erase_table(self.connection, table_id)
        self.counts[_UPLOADS] = len(self.uploads)

    async def _erase_table(self, table: str, columns: Sequence[Column]) -> int:
        """Erase one table: the long look for the id comes first, so that rows are locked for a moment only."""
        rows = await self._redact_experiments(columns) if table == _EXPERIMENTS else 0
        rows += await self._redact_rows(columns)
        if table in OWN_ROWS:
            own = erasure_store.count_own_rows if self.dry_run else erasure_store.erase_own_rows
            for spelling in self.spellings:
                rows += await own(self.connection, spelling, self.scope, table)
        return rows

    async def _redact_rows(self, columns: Sequence[Column]) -> int:
        """Replace the id in the erasable columns of a table; returns the number of rows in which it was replaced."""
        redacted = 0
        for _ in range(_PASSES):
            named = await self._named_values(columns)
            changes = [(row, values) for row, values in named if values]
            if self.dry_run or not changes:
                return redacted + len(changes)
            done = [await erasure_scan.redact_values(self.connection, row, values) for row, values in changes]
            redacted += sum(done)
        return redacted

    async def _named_values(self, columns: Sequence[Column]) -> list[tuple[ScannedRow, dict[Column, Any]]]:
        """The rows of a table that name the person, with the redactions of their values; counts those in which the id stays."""
        rows, stays = [], Counter[Column]()
        async for row in erasure_scan.scan(self.connection, columns, self.entity, self.scope):
            redactions = {
                column: redaction
                for column, value in zip(columns, row.values, strict=True)
                if (redaction := self._redaction(column, value)) is not None
            }
            stays.update(column for column in redactions if erasure_scan.reason_to_stay(column))
            erasable = {} if row.is_own else {column: value for column, value in redactions.items() if column.is_erasable}
            rows.append((row, erasable))
        self.remains.update({column: stays[column] for column in columns if stays[column]})
        return rows

    def _redaction(self, column: Column, value: Any) -> Any:
        """The redaction of a value, None where it does not name the person."""
        if value is None:
            return None
        if column.is_bytes:
            return None if redact(value, self.names) is value else value
        replaced = replace_entity(value, self.entity)
        return None if replaced == value else replaced

    async def _redact_experiments(self, columns: Sequence[Column]) -> int:
        """Redact experiments, whose ids are also part of effects versions and priors."""
        names = [column.name for column in columns]
        rows = [row async for row in erasure_scan.scan(self.connection, columns, self.entity, self.scope)]
        redacted = 0
        for row in rows:
            stored = dict(zip(names, row.values, strict=True))
            body = replace_entity(stored["body"], self.entity)
            is_renamed = replace_entity(stored["experiment_id"], self.entity) != stored["experiment_id"]
            if body != stored["body"] or is_renamed:
                redacted += 1
                if not self.dry_run:
                    await redact_experiment(self.connection, stored["experiment_id"], body, stored["line"], is_renamed=is_renamed)
        return redacted

    async def _redact_refused(self) -> int:
        """Redact the refused records that name the person; returns their number."""
        names, matches = self.names, []
        async for record in erasure_store.refused_texts(self.connection):
            redaction = _redaction_of(record, names)
            if redaction is not None and not _is_of_another_type(record.value, self.scope):
                matches.append((record.refusal_id, *redaction))
        for refusal_id, erase_key, value, headers in matches if not self.dry_run else ():
            await erasure_store.redact_refused(self.connection, refusal_id, value, headers, erase_key=erase_key)
        return len(matches)


def merge_models(before: Erasure | None, use: Sequence[EntityUse]) -> list[Mapping[str, Any]]:
    """Models by their id, with what was stored of them when the person was erased before."""
    models = {model["model_id"]: model for model in (before.report.get("models", ()) if before else ())}
    for model in use:
        fields = {"line": model.line, "trained_at": model.trained_at.isoformat(), "is_champion": model.is_champion}
        models[str(model.model_id)] = {"model_id": str(model.model_id), **fields}
    return list(models.values())


def _redaction_of(record: RefusedText, names: Names) -> tuple[bool, bytes | None, list[int]] | None:
    """Whether to erase the key, the redacted value, and the headers to erase; None where nothing names the person."""
    value = redact(record.value, names)
    erase_key = redact(record.key, names) is not record.key
    headers = [index for index, (name, text) in enumerate(record.headers) if names(name) or _names_bytes(text, names)]
    texts = (record.reason, record.traceback)
    is_named = value is not record.value or erase_key or headers or any(_names_bytes(_base64(text), names) for text in texts)
    return (erase_key, value, headers) if is_named else None


def _base64(text: str) -> str:
    return base64.b64encode(text.encode(errors="replace")).decode()


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
