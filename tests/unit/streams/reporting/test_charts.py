"""Charts as data: exact numbers, texts of points, tables with the same figures, and refused input."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.reporting.charts import (
    ChartInterval,
    ChartSeries,
    Curve,
    EventMarker,
    ReferenceLine,
    ValueMarker,
    chart_data,
    chart_table,
    curves_chart,
    intervals_chart,
    series_chart,
)

START = datetime(2025, 3, 4, 10, tzinfo=UTC)
START_MS = 1_741_082_400_000.0
TEXTS = {"title": "Effects", "description": "what the interventions change"}


def at_minutes(*minutes: float) -> list[datetime]:
    return [START + timedelta(minutes=minute) for minute in minutes]


def test_an_interval_keeps_its_numbers_its_order_and_its_tone():
    items = [ChartInterval("a", 0.1, 0.0, 0.2, "deploy", "good"), ChartInterval("b", 1 / 3, -0.1, 0.7, tone="bad")]
    rows = chart_data(intervals_chart(items, **TEXTS))["intervals"]
    assert [(row["label"], row["values"], row["tone"]) for row in rows] == [
        ("a", [0.0, 0.1, 0.2], "good"),
        ("b", [-0.1, 1 / 3, 0.7], "bad"),
    ]


def test_an_interval_has_its_numbers_as_text():
    chart = intervals_chart([ChartInterval("email", -0.012, -0.03, 0.004, "do not deploy")], **TEXTS)
    assert chart_data(chart)["intervals"][0]["text"] == "email: −1.2%, −3.0% to 0.4%. do not deploy"


def test_a_chart_has_a_title_and_a_description_for_those_who_do_not_see_it():
    data = chart_data(series_chart([], title="Error", description="over time"))
    assert (data["title"], data["description"]) == ("Error", "over time")


def test_a_chart_without_data_is_empty():
    assert series_chart([], **TEXTS).is_empty
    assert series_chart([ChartSeries("a", at_minutes(1), [None])], **TEXTS).is_empty
    assert intervals_chart([], **TEXTS).is_empty
    assert not series_chart([ChartSeries("a", at_minutes(1), [0.0])], **TEXTS).is_empty


def test_a_missing_value_stays_missing_instead_of_being_bridged():
    chart = series_chart([ChartSeries("mae", at_minutes(0, 5, 10), [1.0, None, 1.5], [0.1, None, 0.2])], **TEXTS)
    points = chart_data(chart)["curves"][0]["points"]
    assert [point[:3] for point in points] == [
        [START_MS, 1.0, 0.1],
        [START_MS + 300_000, None, None],
        [START_MS + 600_000, 1.5, 0.2],
    ]


def test_a_point_has_its_value_its_margin_and_its_time_as_text():
    chart = series_chart([ChartSeries("mae", at_minutes(0, 1), [1.0, -2.0], [0.25, 0.0])], **TEXTS)
    texts = [point[3] for point in chart_data(chart)["curves"][0]["points"]]
    assert texts == ["mae 1 ± 0.25 at 2025-03-04 10:00:00 UTC", "mae −2 at 2025-03-04 10:01:00 UTC"]


def test_times_are_in_utc_whatever_their_zone():
    from_elsewhere = [datetime.fromisoformat("2025-03-04T12:00:00+02:00")]
    chart = series_chart([ChartSeries("mae", from_elsewhere, [1.0])], **TEXTS)
    (point,) = chart_data(chart)["curves"][0]["points"]
    assert point[0] == START_MS
    assert chart_table(chart)[1][0][1] == "2025-03-04 10:00:00 UTC"


def test_limits_and_events_are_part_of_the_data_and_of_the_table():
    chart = series_chart(
        [ChartSeries("mae", at_minutes(0), [1.0])],
        lines=[ReferenceLine(1.2, "limit", "bad")],
        markers=[EventMarker(START + timedelta(minutes=60), "promoted", "good")],
        **TEXTS,
    )
    data = chart_data(chart)
    assert data["lines"] == [{"value": 1.2, "label": "limit", "tone": "bad"}]
    assert data["markers"] == [{"x": START_MS + 3_600_000, "label": "promoted", "tone": "good", "at": "2025-03-04 11:00:00 UTC"}]
    assert chart_table(chart) == (
        ["Curve", "Time (UTC)", "Value", "±"],
        [
            ["mae", "2025-03-04 10:00:00 UTC", "1", ""],
            ["limit", "throughout", "1.2", ""],
            ["promoted", "2025-03-04 11:00:00 UTC", "", ""],
        ],
    )


def test_the_table_of_intervals_has_each_estimate_and_limit():
    items = [ChartInterval("email", 0.05, 0.01, 0.09, "test further")]
    assert chart_table(intervals_chart(items, lines=[ReferenceLine(0.05, "worthwhile")], **TEXTS)) == (
        ["Estimate", "Value", "From", "To", "Note"],
        [["email", "5.0%", "1.0%", "9.0%", "test further"], ["worthwhile", "5.0%", "", "", ""]],
    )


def test_curves_are_over_numbers_with_their_markers():
    chart = curves_chart(
        [Curve("width", [1_000, 10_000], [1.0, 0.5], [0.1, 0.0])],
        x_label="twins",
        x_form=",.0f",
        log_x=True,
        markers=[ValueMarker(5_000, "the shift", "bad")],
        **TEXTS,
    )
    data = chart_data(chart)
    assert data["x"] == {"label": "twins", "form": ",.0f", "log": True}
    assert [point[:3] for point in data["curves"][0]["points"]] == [[1_000.0, 1.0, 0.1], [10_000.0, 0.5, 0.0]]
    assert data["curves"][0]["points"][1][3] == "width 0.5 at 10,000"
    assert data["markers"] == [{"x": 5_000, "label": "the shift", "tone": "bad", "at": "5,000"}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_missing(value):
    chart = curves_chart([Curve("a", [1.0], [value])], x_label="x", **TEXTS)
    assert chart_data(chart)["curves"][0]["points"][0][1] is None
    assert chart_table(chart)[1][0][2] == "–"
    assert chart_data(intervals_chart([ChartInterval("a", 0.1, value, 0.2)], **TEXTS))["intervals"][0]["values"][0] is None


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.one_of(st.none(), st.floats()), st.one_of(st.none(), st.floats())),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_is_plotted_is_valid_json_with_the_exact_numbers(rows):
    times = [START + timedelta(seconds=second) for second, _, _ in rows]
    chart = series_chart([ChartSeries("a", times, [v for _, v, _ in rows], [m for _, _, m in rows])], **TEXTS)
    points = json.loads(json.dumps(chart_data(chart), allow_nan=False))["curves"][0]["points"]
    assert [point[1] for point in points] == [v if v is not None and math.isfinite(v) else None for _, v, _ in rows]
    assert len(chart_table(chart)[1]) == len(rows)


@pytest.mark.parametrize("form", [".3e", "d", ">10", ".12f", "x"])
def test_a_form_that_the_script_cannot_write_is_refused_with_what_it_can(form):
    with pytest.raises(ValueError, match=r"the form '.*' of a chart is none of .*%, f and g"):
        intervals_chart([], form=form, **TEXTS)


def test_a_logarithmic_axis_refuses_what_is_not_positive():
    with pytest.raises(ValueError, match="positive numbers only, not 0"):
        curves_chart([Curve("a", [0.0, 1.0], [1.0, 1.0])], x_label="x", log_x=True, **TEXTS)


def test_times_values_and_margins_have_one_length():
    with pytest.raises(ValueError, match="shorter"):
        series_chart([ChartSeries("a", at_minutes(0, 1), [1.0])], **TEXTS)
