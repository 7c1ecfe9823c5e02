"""Checks messages with sums against Postgres, which holds the truth: anyone who may write to the topic can state anything.

A message names the rows that changed. Its rows are applied as they are stored, so that a forged one changes no window, and one that
states what no outcomes worker can have sent is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from engine.fidelity import LARGEST_CONTRIBUTION
from schemas import FidelityErrors, OutcomeEvent, PaneRow, SourceId
from schemas.base import EARLIEST, shorten
from schemas.events import EVERY_LINE, MAX_MESSAGE_ROWS, SUM_FIELDS
from sql.source_position_store import count_elements, source_watermarks
from sql.window_store import aged_horizon, stored_rows
from streams.bounds import BoundSettings, check_json, check_size
from streams.errors import require_clear
from streams.kafka import topic_of
from streams.kafka.app import TwinApp

__all__ = ["ForgedSums", "SumsCheck", "check_key", "decode_sums"]

_OUTCOMES = topic_of(OutcomeEvent)
_CLOCK_TOLERANCE = timedelta(
    seconds=60
)  # between the clocks of a worker, whose time is the watermark of a silent source, and Kafka


_OWN_SIZES = {"max_array_elements": MAX_MESSAGE_ROWS, "max_string_length": 4096}
"""Rows of a message, and bytes of the longest name of a series, of 500 characters."""


def decode_sums(key: bytes | None, value: bytes | None, bounds: BoundSettings) -> FidelityErrors:
    """Decode a message with sums; bounds below what the service itself writes into one count as that.

    Raises:
        OutOfBounds: when the record or a part of its value is too large.
        ContainsNul: when the value contains NUL.
        pydantic.ValidationError: when it is no valid message.
    """
    check_size(key, value, bounds)
    least = {name: size for name, size in _OWN_SIZES.items() if getattr(bounds, name) < size}
    check_json(value or b"", bounds.model_copy(update=least) if least else bounds)
    return FidelityErrors.model_validate_json(require_clear(value))


class ForgedSums(ValueError):
    """The message states what no outcomes worker can have sent."""


def check_key(key: bytes | None, message: FidelityErrors) -> None:
    """Check the key of a message with sums, by which the worker of its line reads it.

    Raises:
        ForgedSums: when it is not the line.
    """
    if key != message.line.encode():
        raise ForgedSums(f"the key of the message is {shorten(key)}, and not its line, {shorten(message.line)}")


class SumsCheck:
    """Checks messages with sums; ``app`` has the pool and the settings."""

    def __init__(self, app: TwinApp) -> None:
        self._app = app
        self._stored_sources: set[str] = set()

    async def check_source(self, message: FidelityErrors, arrived_at: datetime) -> None:
        """Check the source of a message, and its watermark, which no outcome can have moved beyond the skew after Kafka's time.

        A message without rows must concern all lines.

        Raises:
            ForgedSums: when either is impossible.
        """
        source, watermark = message.source, message.watermark
        if not message.rows and message.line != EVERY_LINE:
            raise ForgedSums(f"a message without rows concerns all lines, {EVERY_LINE!r}, and not {shorten(message.line)}")
        if watermark is not None and watermark < EARLIEST:
            raise ForgedSums(f"the watermark {watermark.isoformat()} is before {EARLIEST:%Y-%m-%d}")
        latest = arrived_at + timedelta(seconds=self._app.settings.skew_s) + _CLOCK_TOLERANCE
        if watermark is not None and watermark > latest:
            stated = f"the watermark {watermark.isoformat()} is more than TWIN_SKEW_S after {arrived_at.isoformat()}"
            raise ForgedSums(f"{stated}, when the message arrived")
        if source.topic != _OUTCOMES:
            raise ForgedSums(f"the source {shorten(str(source))} is no partition of {_OUTCOMES}")
        if str(source) not in self._stored_sources:
            if not await source_watermarks(self._app.pool, [source]):
                raise ForgedSums(f"the source {shorten(str(source))} was never read")
            self._stored_sources.add(str(source))

    async def stored_rows(self, message: FidelityErrors, lowest_pane: float) -> Sequence[PaneRow]:
        """The rows of a message as they are stored, without those below the lowest pane, which can no longer change.

        Raises:
            ForgedSums: when a row is stated twice, is not stored and has not aged out, or differs from what is or was stored.
        """
        stored = {_key(row): row for row in await stored_rows(self._app.pool, message.line, str(message.source), message.rows)}
        if len({_key(row) for row in message.rows}) < len(message.rows):
            raise ForgedSums("the message states the sums of one pane more than once")
        for row in message.rows:
            if _key(row) in stored:
                await self._check_version(message.source, row, stored[_key(row)])
            else:
                await self._check_aged_out(message.line, row)
        return [row for row in stored.values() if row.pane >= lowest_pane]

    async def _check_aged_out(self, line: str, row: PaneRow) -> None:
        """Check a row that is not stored: only those of an old pane are deleted."""
        if not EARLIEST.timestamp() - row.width_s < row.pane < await aged_horizon(self._app.pool, line):
            raise ForgedSums(f"{_name(row)}: this row is not stored")

    async def _check_version(self, source: SourceId, row: PaneRow, stored: PaneRow) -> None:
        """Check what a row states against the stored one, which may have changed since."""
        if row.version > stored.version:
            raise ForgedSums(f"{_name(row)}: this row is stored in version {stored.version}")
        if row.version == stored.version and row != stored:
            raise ForgedSums(f"{_name(row)}: this row is stored with other sums, or another offset")
        if row.last_offset > stored.last_offset:
            stated = f"its last change is stated at offset {shorten(row.last_offset)}"
            raise ForgedSums(f"{_name(row)}: {stated}, and a later one at {stored.last_offset}")
        if row.version < stored.version:
            await self._check_possible(source, row)

    async def _check_possible(self, source: SourceId, row: PaneRow) -> None:
        """Check that all outcomes of the source together can have brought these sums, each as the correction of another one."""
        n_elements = await count_elements(self._app.pool, source)
        for name, total, largest in zip(SUM_FIELDS, row.sums, LARGEST_CONTRIBUTION, strict=False):  # no limit for the last fields
            if abs(total) > (bound := 2 * n_elements * largest):
                stated = f"{name} of {shorten(total)} exceeds {bound}"
                raise ForgedSums(f"{_name(row)}: {stated}, more than the {n_elements} outcomes of {source} can have brought")


def _name(row: PaneRow) -> str:
    version = shorten(row.version)
    return f"the sums of {shorten(row.segment)} in pane {row.pane:g} of model {row.model_id}, version {version}"


def _key(row: PaneRow) -> tuple[object, ...]:
    return row.model_id, row.segment, row.pane, row.width_s
