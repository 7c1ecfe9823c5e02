"""Messages with sums against a real PostgreSQL: rows are applied as they are stored, and forged messages are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NoReturn
from uuid import UUID

import pytest
from pydantic import ValidationError

from schemas import FidelityErrors, PaneRow, SourceId
from schemas.events import MAX_MESSAGE_ROWS, SUM_FIELDS
from sql import source_position_store
from sql.database import Pool, open_pool
from streams.bounds import DEFAULT_BOUNDS, BoundSettings, OutOfBounds
from streams.ingestion import ContextLoader, OutcomePipeline
from streams.kafka import event_value
from streams.monitoring.sums_check import ForgedSums, SumsCheck, check_key, decode_sums
from streams.settings import Settings
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome, poll_batches, record

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
SOURCE = SourceId(topic=TOPIC, partition=0)


async def unused(item_id: UUID) -> NoReturn:
    raise LookupError(f"{item_id} is not needed here")


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, make_card(), pane_s=60.0, window_s=300.0)
    opened = await open_pool(dsn=fresh_database)
    await source_position_store.begin_source(opened, SOURCE)
    yield opened
    await opened.close()


@pytest.fixture
def check(pool: Pool) -> SumsCheck:
    app: Any = SimpleNamespace(pool=pool, settings=Settings(skew_s=300.0))
    return SumsCheck(app)


@pytest.fixture
async def message(pool: Pool) -> FidelityErrors:
    """What the outcomes worker published of five outcomes."""
    return await ingest(pool, range(5))


async def ingest(pool: Pool, numbers: Iterable[int]) -> FidelityErrors:
    pipeline = OutcomePipeline(pool, ContextLoader(pool, unused, unused), 300.0, 30 * 86_400.0)
    (batch,) = poll_batches([record(number, outcome(number)) for number in numbers], size=100)
    result = await pipeline.ingest(batch)
    return FidelityErrors(line=LINE, source=SOURCE, watermark=None, rows=tuple(row for _, row in result.rows))


def changed(message: FidelityErrors, **fields: Any) -> FidelityErrors:
    """The message with other fields of its first row."""
    first, *rest = message.rows
    return message.model_copy(update={"rows": (first.model_copy(update=fields), *rest)})


def by_key(rows: Any) -> dict[Any, PaneRow]:
    return {(row.segment, row.pane): row for row in rows}


async def test_a_message_of_the_service_is_accepted(check: SumsCheck, message: FidelityErrors):
    await check.check_source(message.model_copy(update={"watermark": NOW + timedelta(seconds=300)}), NOW)

    assert by_key(await check.stored_rows(message, 0.0)) == by_key(message.rows)


@pytest.mark.parametrize("fields", [{"sums": (10**40,) * len(SUM_FIELDS)}, {"last_offset": 3}, {"last_offset": 2**63}])
async def test_a_row_that_differs_from_the_stored_one_of_its_version_refuses_the_message(
    check: SumsCheck, message: FidelityErrors, fields: dict[str, Any]
):
    with pytest.raises(ForgedSums, match="version 1: this row is stored with other sums, or another offset"):
        await check.stored_rows(changed(message, **fields), 0.0)


async def test_an_earlier_version_of_a_row_is_accepted_and_applied_as_it_is_stored(
    pool: Pool, check: SumsCheck, message: FidelityErrors
):
    later = await ingest(pool, range(5, 10))

    assert by_key(await check.stored_rows(message, 0.0)) == by_key(later.rows)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"last_offset": 10}, "its last change is stated at offset 10, and a later one at 9"),
        ({"sums": (21, *[0] * (len(SUM_FIELDS) - 1))}, "n of 21 exceeds 20, more than the 10 outcomes of outcome-events:0:0"),
        ({"sums": (-(10**40), *[0] * (len(SUM_FIELDS) - 1))}, "n of -10{40} exceeds 20"),
        (
            {"sums": (1, 1, 1, 0, 0, 2 * 10**19 + 1, *[0] * (len(SUM_FIELDS) - 6))},
            "predicted_squared of 20000000000000000001 exceeds",
        ),
    ],
)
async def test_an_earlier_version_with_what_no_outcomes_can_have_brought_is_refused(
    pool: Pool, check: SumsCheck, message: FidelityErrors, fields: dict[str, Any], reason: str
):
    await ingest(pool, range(5, 10))

    with pytest.raises(ForgedSums, match=reason):
        await check.stored_rows(changed(message, **fields), 0.0)


async def test_a_row_that_is_stated_twice_refuses_the_message(check: SumsCheck, message: FidelityErrors):
    with pytest.raises(ForgedSums, match="more than once"):
        await check.stored_rows(message.model_copy(update={"rows": (*message.rows, message.rows[0])}), 0.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"version": 2**63},
        {"version": 10**400},
        {"segment": "region=nowhere"},
        {"segment": "x" * 100_000},
        {"pane": 60.0},
        {"pane": 1e300},
        {"pane": -1e18},
        {"pane": 0.0},
        {"width_s": 1.5},
        {"model_id": UUID(int=99)},
    ],
)
async def test_a_row_that_is_not_stored_refuses_the_message(check: SumsCheck, message: FidelityErrors, fields: dict[str, Any]):
    for lowest_pane in (0.0, 1e12):
        with pytest.raises(ForgedSums, match=r"is (not stored|stored in version 1)") as refusal:
            await check.stored_rows(changed(message, **fields), lowest_pane)
        assert len(str(refusal.value)) < 500


async def test_rows_of_another_line_or_source_are_not_stored(check: SumsCheck, message: FidelityErrors):
    for update in ({"line": "hcp:kisqali:other"}, {"source": SourceId(topic=TOPIC, partition=1)}):
        with pytest.raises(ForgedSums):
            await check.stored_rows(message.model_copy(update=update), 0.0)


async def test_rows_that_can_no_longer_change_are_left_out(check: SumsCheck, message: FidelityErrors):
    assert await check.stored_rows(message, message.rows[0].pane + 60.0) == []


async def test_a_pane_that_has_aged_out_need_not_be_stored_any_more(owner_pool: Pool, check: SumsCheck, message: FidelityErrors):
    await owner_pool.execute("INSERT INTO aged_lines (line, horizon) VALUES ($1, 120.0)", LINE)

    rows = await check.stored_rows(changed(message, pane=60.0), 120.0)

    assert by_key(rows) == by_key(message.rows[1:])
    for pane in (120.0, -1e18):
        with pytest.raises(ForgedSums, match="this row is not stored"):
            await check.stored_rows(changed(message, pane=pane), 120.0)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (SourceId(topic=TOPIC, partition=4), "was never read"),
        (SourceId(topic=TOPIC, partition=2**70), "was never read"),
        (SourceId(topic="other", partition=0), "is no partition of outcome-events"),
        (SourceId(topic=TOPIC, partition=1), "was never read"),
        (SourceId(topic=TOPIC, partition=0, incarnation=1), "was never read"),
        (SourceId(topic=TOPIC, partition=0, incarnation=2**70), "was never read"),
    ],
)
async def test_a_source_that_was_never_read_is_refused(check: SumsCheck, source: SourceId, reason: str):
    with pytest.raises(ForgedSums, match=reason):
        await check.check_source(FidelityErrors(line="*", source=source, watermark=NOW), NOW)


@pytest.mark.parametrize("watermark", [NOW + timedelta(seconds=361), datetime.max.replace(tzinfo=UTC)])
async def test_a_watermark_ahead_of_the_skew_is_refused_with_the_setting(check: SumsCheck, watermark: datetime):
    with pytest.raises(ForgedSums, match="TWIN_SKEW_S"):
        await check.check_source(FidelityErrors(line="*", source=SOURCE, watermark=watermark), NOW)


@pytest.mark.parametrize("watermark", [datetime(1, 1, 1, tzinfo=UTC), datetime(1899, 12, 31, 23, 59, tzinfo=UTC)])
async def test_a_watermark_that_no_outcome_can_have_moved_is_refused(check: SumsCheck, watermark: datetime):
    with pytest.raises(ForgedSums, match="is before 1900-01-01"):
        await check.check_source(FidelityErrors(line="*", source=SOURCE, watermark=watermark), NOW)


@pytest.mark.parametrize("line", [LINE, "", "x" * 100_000])
async def test_a_message_without_rows_about_one_line_is_refused(check: SumsCheck, line: str):
    with pytest.raises(ForgedSums, match=r"a message without rows concerns all lines, '\*', and not"):
        await check.check_source(FidelityErrors(line=line, source=SOURCE, watermark=NOW), NOW)


def test_a_message_of_the_service_is_decoded_however_low_the_bounds_are_set(message: FidelityErrors):
    row = message.rows[0].model_copy(update={"segment": "specialty=" + "\U0001f600" * 500})
    full = message.model_copy(update={"rows": (row,) * MAX_MESSAGE_ROWS})
    bounds = BoundSettings(max_array_elements=1, max_string_length=200, max_json_depth=4, max_number_length=32)
    assert decode_sums(LINE.encode(), event_value(full), bounds) == full
    with pytest.raises(OutOfBounds, match="an array of 501 elements exceeds 500, TWIN_MAX_ARRAY_ELEMENTS"):
        decode_sums(LINE.encode(), event_value(full.model_copy(update={"rows": (row,) * 501})), bounds)


def test_a_message_with_more_rows_than_any_of_the_service_is_refused(message: FidelityErrors):
    forged = message.model_copy(update={"rows": message.rows[:1] * (MAX_MESSAGE_ROWS + 1)})
    with pytest.raises(ValidationError, match="at most 500 items"):
        decode_sums(LINE.encode(), event_value(forged), DEFAULT_BOUNDS)


@pytest.mark.parametrize("key", [None, b"", b"hcp:kisqali:other", b"x" * 1000])
def test_a_message_with_another_key_than_its_line_is_refused(message: FidelityErrors, key: bytes | None):
    check_key(LINE.encode(), message)
    with pytest.raises(ForgedSums, match=r"the key of the message is .*, and not its line, 'hcp:kisqali:prescribing_change'"):
        check_key(key, message)
