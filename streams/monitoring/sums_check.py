"""Checks messages with sums against Postgres, which holds the truth: anyone who may write to the topic can state anything.

A message names the rows that changed. Its rows are applied as they are stored, so that a forged one changes no window.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from schemas import FidelityErrors, OutcomeEvent, PaneRow
from schemas.base import EARLIEST, shorten
from schemas.events import EVERY_LINE, MAX_MESSAGE_ROWS
from sql.source_position_store import source_watermarks
from sql.window_store import stored_rows
from streams.bounds import BoundSettings, check_json, check_size
from streams.errors import require_no_nul
from streams.kafka import topic_of
from streams.kafka.app import TwinApp

__all__ = ["ForgedSums", "SumsCheck", "decode_sums"]

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
    return FidelityErrors.model_validate_json(require_no_nul(value))


class ForgedSums(ValueError):
    """The message states what no outcomes worker can have sent."""


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
            ForgedSums: when a row is not stored, or only in an older version.
        """
        rows = [row for row in message.rows if row.pane >= lowest_pane]
        stored = {_key(row): row for row in await stored_rows(self._app.pool, message.line, str(message.source), rows)}
        for row in rows:
            version = stored[_key(row)].version if _key(row) in stored else None
            if version is None or version < row.version:
                held = "is not stored" if version is None else f"is stored in version {version}"
                name = f"the sums of {shorten(row.segment)} in pane {row.pane:g} of model {row.model_id}"
                raise ForgedSums(f"{name}, version {shorten(row.version)}: this row {held}")
        return list(stored.values())


def _key(row: PaneRow) -> tuple[object, ...]:
    return row.model_id, row.segment, row.pane, row.width_s
