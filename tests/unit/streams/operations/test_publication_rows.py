"""Which rows of a file are events, and which revision each is of what is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from schemas import OutcomeEvent
from sql.publication_store import KnownRevision
from streams.operations.publication import BadRow, describe_rows
from streams.operations.publication_rows import FileEvent, FileEvents, OutcomeFile, resolve_revision
from tests.outcomes import LINE, START, outcome

CONSTANTS = {"twin_type": "hcp", "brand": "kisqali", "metric_type": "prescribing_change"}


def item(*, has_time: bool = True, has_revision: bool = False, **fields: Any) -> FileEvent:
    return FileEvent(OutcomeEvent.model_validate(outcome(1) | fields), has_time, has_revision)


def known(of: FileEvent, *, is_stored: bool = True) -> KnownRevision:
    """The revision that an event of a file was stated as when it was new."""
    stated = resolve_revision(of, []).stated
    return KnownRevision(stated.line, stated.revision, stated.digest, stated.observed_at, is_stored)


def added(table: pd.DataFrame) -> FileEvents:
    file = OutcomeFile.oldest_first("rows.csv", table, np.arange(len(table)) + 2, CONSTANTS, START)
    events = FileEvents()
    for first, items in file.chunks(2):
        for index, each in enumerate(items, first):
            assert isinstance(each, FileEvent)
            events.add(each, int(file.rows[index]))
    return events


def table(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"actual_value": values, "predicted_value": 0.5})


def test_an_unknown_event_is_new():
    resolved = resolve_revision(item(), [])
    assert (resolved.stated.origin, resolved.event.revision, resolved.stated.line, resolved.is_stored) == ("new", 0, LINE, False)


def test_the_same_content_is_the_same_revision_again():
    again = resolve_revision(item(), [known(item())])
    assert (again.stated.origin, again.event.revision, again.is_stored) == ("known", 0, True)
    assert not resolve_revision(item(), [known(item(), is_stored=False)]).is_stored


def test_other_content_corrects_the_highest_revision_and_earlier_content_stays_what_it_was():
    first, second = known(item()), known(item(revision=4, actual_value=2.0, has_revision=True))
    corrected = resolve_revision(item(actual_value=3.0), [first, second])
    assert (corrected.stated.origin, corrected.event.revision) == ("correction", 5)
    assert resolve_revision(item(), [second, first]).event.revision == 0


def test_revisions_of_the_file_stay_as_they_are():
    assert resolve_revision(item(revision=2, has_revision=True), [known(item())]).stated.origin == "correction"
    assert resolve_revision(item(revision=2, has_revision=True), [known(item())]).event.revision == 2


def test_a_time_that_was_filled_in_before_is_kept():
    first = item(has_time=False)
    later = item(has_time=False, observed_at=(START + timedelta(days=9)).isoformat())
    again = resolve_revision(later, [known(first)])
    assert (again.stated.origin, again.event.observed_at) == ("known", first.event.observed_at)
    corrected = resolve_revision(later._replace(event=later.event.model_copy(update={"actual_value": 7.0})), [known(first)])
    assert (corrected.stated.origin, corrected.event.observed_at) == ("correction", first.event.observed_at)


def test_a_file_is_the_same_in_any_order_and_another_one_with_one_more_equal_row():
    same = {added(table(0.1, 0.2, 0.1)).publication_id(), added(table(0.2, 0.1, 0.1)).publication_id()}
    assert len(same) == 1
    assert added(table(0.2, 0.1, 0.1, 0.1)).publication_id() not in same


def test_rows_of_one_name_repeat_or_contradict_each_other():
    at = pd.to_datetime([START] * 3, utc=True)
    rows = pd.DataFrame({"entity_id": ["a", "a", "a"], "observed_at": at, "actual_value": [1.0, 1.0, 2.0], "predicted_value": 1.0})
    assert added(rows.head(2)).n_repeated == 1
    events, file = FileEvents(), OutcomeFile.oldest_first("f", rows, np.array([2, 3, 4]), CONSTANTS, START)
    results = [
        events.add(each, row) for row, each in zip([2, 3, 4], next(file.chunks(9))[1], strict=True) if isinstance(each, FileEvent)
    ]
    assert [contradicted for _, contradicted in results] == [None, None, 2]
    assert [event is None for event, _ in results] == [False, True, True]
    revised = rows.assign(revision=[0, 0, 1])
    assert added(revised).n_repeated == 1


def test_the_oldest_row_comes_first():
    times = [datetime(2026, 3, day, tzinfo=UTC) for day in (3, 1, 2)]
    rows = table(3, 1, 2).assign(observed_at=pd.to_datetime(times, utc=True))
    file = OutcomeFile.oldest_first("f", rows, np.array([2, 3, 4]), CONSTANTS, START)
    assert (file.frame["actual_value"].tolist(), file.rows.tolist()) == ([1, 2, 3], [3, 4, 2])


@pytest.mark.parametrize("count", [1, 3])
def test_a_row_that_is_no_outcome_is_given_with_its_reason(count: int):
    rows = pd.DataFrame({"actual_value": [0.1] * count, "predicted_value": [None] * count})
    reasons = [
        each for _, items in OutcomeFile.oldest_first("f", rows, np.arange(count), CONSTANTS, START).chunks(2) for each in items
    ]
    assert len(reasons) == count
    assert all(isinstance(reason, str) and "exactly one source of the prediction" in reason for reason in reasons)


def test_an_id_of_the_file_is_the_event():
    rows = table(1.0).assign(event_id=[str(UUID(int=9))])
    assert added(rows).ids == [UUID(int=9).bytes]


def test_the_same_rows_with_levels_in_another_spelling_are_known_and_no_corrections():
    def row(region: str, decile: int = 3) -> FileEvent:
        predicted = dict.fromkeys(("predicted_value", "predicted_lower", "predicted_upper"))
        return item(features={"region": region, "decile": decile}, entity_id="a", **predicted)

    stored = known(row("south"))._replace(features={"decile": 3, "region": "south"})
    for spelling in ("south", "SOUTH", "South "):
        resolved = resolve_revision(row(spelling), [stored])
        assert (resolved.stated.origin, resolved.stated.digest, resolved.is_stored) == ("known", stored.digest, True)
    assert resolve_revision(row("north"), [stored]).stated.origin == "correction"
    assert resolve_revision(row("SOUTH", 4), [stored]).stated.origin == "correction"


def test_the_same_segment_in_another_spelling_is_known():
    stored = known(item(segment={"region": "south"}))._replace(segments=("all", "region=south"))
    assert resolve_revision(item(segment={"region": "SOUTH"}), [stored]).stated.origin == "known"
    assert resolve_revision(item(segment={"region": "north"}), [stored]).stated.origin == "correction"
    written = known(item(segment={"region": "South"}))._replace(segments=("all", "region=south"))  # series have one spelling
    assert resolve_revision(item(segment={"region": "South"}), [written]).stated.origin == "known"


def test_rows_without_a_name_have_one_id_for_all_spellings_of_their_levels():
    frame = pd.DataFrame({"actual_value": [0.1], "predicted_value": [0.2], "segment.region": ["south"]})
    respelled = frame.assign(**{"segment.region": "SOUTH"})
    assert added(frame).ids == added(respelled).ids
    assert added(frame).publication_id() == added(respelled).publication_id()


def test_rows_that_are_bad_for_one_reason_are_one_line_whatever_their_values():
    bad = [BadRow(row, f"decile: input should be a valid number, not {row!r}") for row in range(2, 10)]
    text = describe_rows([*bad, BadRow(3, "region: missing")])
    assert text == "row 2, 3, 4, 5, 6 ...: decile: input should be a valid number, not 2; row 3: region: missing"


def test_a_file_without_times_says_which_time_it_gets_and_that_true_times_count_again():
    rows = pd.DataFrame({"entity_id": ["a", "b"], "actual_value": [0.1, 0.2]})
    (remark,) = OutcomeFile.oldest_first("f", rows, np.array([2, 3]), CONSTANTS, START).remarks()
    assert f"of all 2 rows is the time of their first publication, now {START:%Y-%m-%d %H:%M:%S} UTC" in remark
    assert "they count again as other outcomes" in remark
    named = rows.assign(event_id=["x", "y"])
    assert "count again" not in OutcomeFile.oldest_first("f", named, np.array([2, 3]), CONSTANTS, START).remarks()[0]
    timed = rows.assign(observed_at=START)
    assert OutcomeFile.oldest_first("f", timed, np.array([2, 3]), CONSTANTS, START).remarks() == []
