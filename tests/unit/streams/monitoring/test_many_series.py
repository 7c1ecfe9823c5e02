"""The work of an evaluation grows with the number of series, not with its square."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from engine.fidelity import Detection
from schemas import DriftState, ModelCard, PaneRow
from schemas.events import SUM_FIELDS
from sql.window_store import MonitoredLine
from streams.monitoring.alarms import Alarms
from streams.monitoring.drift_detection import DriftEvaluator, Mix
from streams.monitoring.line_state import LineState
from streams.monitoring.window_state import SeriesKey, WindowState
from tests.outcomes import make_card

CARD = make_card()


class CountingState(WindowState):
    """Counts how often all segments were added up."""

    sums_of_segments = 0

    def segment_sums(self, model_id: UUID, start: float, end: float) -> dict[str, tuple[int, ...]]:
        self.sums_of_segments += 1
        return super().segment_sums(model_id, start, end)


def rows(card: ModelCard, segments: int) -> Iterator[PaneRow]:
    for segment, n in [("all", segments), *((f"region=r{number}", 1) for number in range(segments))]:
        sums = tuple(n if field == "n" else 0 for field in SUM_FIELDS)
        yield PaneRow(model_id=card.model_id, segment=segment, pane=0.0, width_s=60.0, version=1, last_offset=0, sums=sums)


@pytest.mark.parametrize("segment", ["all", "region=r0"])
@pytest.mark.parametrize("n", [1, 199, 200, 500])
@pytest.mark.parametrize("detection", [*Detection])
def test_a_series_stays_insufficient_exactly_where_its_assessment_says_so(segment: str, n: int, detection: Detection):
    state, evaluator = WindowState(60.0, 60.0), DriftEvaluator(200, 1e6, {CARD.model_id: CARD})
    for row in rows(CARD, n):
        state.hold_row("outcome-events:0:0", row)
    series = SeriesKey(CARD.model_id, segment)
    for mix in (None, Mix("region=r1", 0.0), Mix("specialty=a", 0.0)):
        assessed = evaluator.assess_series(state, series, mix, detection).state is DriftState.INSUFFICIENT
        stays = evaluator.stays_insufficient(state, series, detection)
        assert assessed or not stays
        assert stays or not assessed or detection is Detection.SUPPRESSED


@pytest.mark.parametrize("segments", [10, 1200])
async def test_all_segments_are_added_up_once_for_all_series(segments: int):
    state = CountingState(60.0, 60.0)
    evaluator = DriftEvaluator(10_000, 1e6, {CARD.model_id: CARD})
    line = LineState(MonitoredLine(CARD.line, CARD.model_id, 1, None, 60.0, 60.0), state, evaluator, datetime.now(UTC))
    line.hold_rows(("outcome-events:0:0", row) for row in rows(CARD, segments))
    line.changed_series = {SeriesKey(CARD.model_id, row.segment) for row in rows(CARD, segments)}
    await Alarms(app=None).evaluate(line)  # type: ignore[arg-type]  # no state changes, so nothing is stored or published
    assert state.sums_of_segments == 1
    assert line.changed_series == set()
