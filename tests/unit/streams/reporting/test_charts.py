"""Charts: positions, labels and tooltips, and that labels are escaped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.reporting.chart_axes import ticks
from streams.reporting.charts import (
    CHART_STYLE,
    ChartInterval,
    ChartSeries,
    Curve,
    EventMarker,
    ReferenceLine,
    ValueMarker,
    curves_chart,
    intervals_chart,
    series_chart,
)

SVG = "{http://www.w3.org/2000/svg}"
START = datetime(2025, 3, 4, 10, tzinfo=UTC)
TEXTS = {"title": "Effects", "description": "what the interventions change"}


def parse(svg: str) -> Element:
    return fromstring(svg)


def labels(svg: Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


def elements(svg: Element, tag: str, css_class: str) -> list[Element]:
    return [element for element in svg.iter(SVG + tag) if css_class in element.get("class", "").split()]


def at_minutes(*minutes: float) -> list[datetime]:
    return [START + timedelta(minutes=minute) for minute in minutes]


def test_an_interval_reaches_from_its_lower_to_its_upper_end_with_the_estimate_between():
    svg = parse(intervals_chart([ChartInterval("a", 0.1, 0.0, 0.2, "deploy", "good")], **TEXTS))
    (whisker,) = elements(svg, "line", "whisker")
    (zero,) = elements(svg, "line", "axis")
    (dot,) = svg.iter(f"{SVG}circle")
    low, high = float(whisker.get("x1")), float(whisker.get("x2"))
    assert float(zero.get("x1")) == low
    assert float(dot.get("cx")) == pytest.approx((low + high) / 2, abs=0.1)


def test_rows_keep_their_order():
    items = [ChartInterval(name, 0.1, 0.0, 0.2) for name in ("first", "second", "third")]
    heights = {text.text: float(text.get("y")) for text in parse(intervals_chart(items, **TEXTS)).iter(f"{SVG}text")}
    assert heights["first"] < heights["second"] < heights["third"]


def test_verdicts_differ_in_shape_and_not_only_in_colour():
    def shape(tone):
        svg = parse(intervals_chart([ChartInterval("a", 0.1, 0.0, 0.2, tone=tone)], **TEXTS))
        return (len(list(svg.iter(f"{SVG}rect"))), len(elements(svg, "circle", "ink")), len(elements(svg, "circle", "hollow")))

    assert {tone: shape(tone) for tone in ("good", "bad", "warn")} == {"good": (0, 1, 0), "bad": (1, 0, 0), "warn": (0, 0, 1)}


def test_a_row_shows_its_numbers_as_a_tooltip():
    svg = parse(intervals_chart([ChartInterval("email", -0.012, -0.03, 0.004, "do not deploy")], **TEXTS))
    assert "email: −1.2%, −3.0% to 0.4%. do not deploy" in [title.text for title in svg.iter(f"{SVG}title")]


def test_a_chart_has_a_title_and_a_description_for_screen_readers():
    svg = parse(series_chart([], title="Error", description="over time"))
    texts = {element.get("id"): element.text for element in (svg.find(f"{SVG}title"), svg.find(f"{SVG}desc"))}
    assert svg.get("role") == "img"
    assert [texts[element_id] for element_id in svg.get("aria-labelledby").split()] == ["Error", "over time"]


def test_two_charts_on_one_page_have_different_ids():
    first, second = (parse(series_chart([], title=title, description="d")).find(f"{SVG}title").get("id") for title in "ab")
    assert first != second


def test_a_chart_without_data_is_labelled_so():
    assert labels(parse(series_chart([], **TEXTS))) == ["no data yet"]
    assert labels(parse(series_chart([ChartSeries("a", at_minutes(1), [None])], **TEXTS))) == ["no data yet"]
    assert labels(parse(intervals_chart([], **TEXTS))) == ["no data yet"]


def test_a_missing_value_breaks_the_curve_instead_of_bridging_it():
    svg = parse(series_chart([ChartSeries("mae", at_minutes(0, 5, 10, 15), [1.0, 2.0, None, 1.5])], **TEXTS))
    curves = elements(svg, "polyline", "curve")
    assert [len(curve.get("points").split()) for curve in curves] == [2, 1]
    assert len(list(svg.iter(f"{SVG}circle"))) == 3


def test_equal_steps_in_time_and_value_are_equal_steps_on_the_canvas():
    svg = parse(series_chart([ChartSeries("mae", at_minutes(0, 5, 10), [1.0, 2.0, 3.0])], **TEXTS))
    (curve,) = elements(svg, "polyline", "curve")
    (x1, y1), (x2, y2), (x3, y3) = (tuple(map(float, corner.split(","))) for corner in curve.get("points").split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y3 < y2 < y1


def test_a_limit_lies_where_a_point_of_the_same_value_lies():
    svg = parse(series_chart([ChartSeries("mae", at_minutes(0), [1.0])], lines=[ReferenceLine(1.0, "limit", "bad")], **TEXTS))
    (limit,) = elements(svg, "line", "limit")
    (dot,) = svg.iter(f"{SVG}circle")
    assert limit.get("y1") == limit.get("y2") == f"{float(dot.get('cy')):g}"
    assert "limit" in labels(svg)


def test_a_marker_is_drawn_at_its_time_and_beyond_the_data_too():
    markers = [
        EventMarker(START + timedelta(minutes=5), "shift", "warn"),
        EventMarker(START + timedelta(minutes=60), "promoted", "good"),
    ]
    svg = parse(series_chart([ChartSeries("mae", at_minutes(0, 5), [1.0, 2.0])], markers=markers, **TEXTS))
    dots = [float(dot.get("cx")) for dot in svg.iter(f"{SVG}circle")]
    (shift, promoted) = (float(line.get("x1")) for line in elements(svg, "line", "mark"))
    assert shift == pytest.approx(dots[1], abs=0.1)
    assert promoted > shift


def test_labels_of_markers_that_would_overlap_are_in_different_rows():
    markers = [EventMarker(at, "retrain requested", "bad") for at in at_minutes(30, 30.5, 31, 59)]
    svg = parse(series_chart([ChartSeries("mae", at_minutes(0, 60), [1.0, 2.0])], markers=markers, **TEXTS))
    heights = [float(text.get("y")) for text in svg.iter(f"{SVG}text") if text.text == "retrain requested"]
    assert len(set(heights[:3])) == 3
    assert heights[3] == min(heights)


def test_labels_of_limits_do_not_overlap():
    lines = [ReferenceLine(1.0, "baseline"), ReferenceLine(1.001, "limit", "bad")]
    svg = parse(series_chart([ChartSeries("mae", at_minutes(0, 60), [1.0, 2.0])], lines=lines, **TEXTS))
    heights = sorted(float(text.get("y")) for text in svg.iter(f"{SVG}text") if text.text in ("baseline", "limit"))
    assert heights[1] - heights[0] >= 12


def test_several_series_have_a_legend_and_a_single_one_has_none():
    both = [ChartSeries(name, at_minutes(0, 1), [1.0, 2.0]) for name in ("before", "after")]
    assert {"before", "after"} <= set(labels(parse(series_chart(both, **TEXTS))))
    assert "before" not in labels(parse(series_chart(both[:1], **TEXTS)))


def test_times_are_shown_in_utc_whatever_their_zone():
    from_elsewhere = [datetime.fromisoformat("2025-03-04T12:00:00+02:00"), datetime.fromisoformat("2025-03-04T14:00:00+02:00")]
    shown = labels(parse(series_chart([ChartSeries("mae", from_elsewhere, [1.0, 2.0])], **TEXTS)))
    assert "UTC" in shown
    assert {"10:30", "11:30"} <= set(shown)
    assert "13:00" not in shown


def test_labels_are_escaped():
    bad = '</title><script>alert("x")</script>&'
    svg = intervals_chart([ChartInterval(bad, 0.1, 0.0, 0.2, bad)], title=bad, description=bad, lines=[ReferenceLine(0.1, bad)])
    assert "<script" not in svg
    assert bad in labels(parse(svg))


def test_the_style_has_two_values_for_each_of_its_colours():
    for name in ("ink", "soft", "rule", "one", "two", "good", "warn", "bad"):
        assert f"--{name}: light-dark(" in CHART_STYLE


@pytest.mark.parametrize(
    ("low", "high", "about", "expected"),
    [(0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-0.03, 0.17, 4, [0, 0.05, 0.1, 0.15]), (0.9, 1.0, 2, [0.9, 0.95, 1.0])],
)
def test_ticks_are_round(low, high, about, expected):
    assert ticks(low, high, about) == pytest.approx(expected)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9), st.integers(2, 12))
def test_ticks_are_within_the_ends_and_about_as_many_as_requested(low, length, about):
    values = ticks(low, low + length, about)
    assert all(low - length * 1e-6 <= tick <= low + length * (1 + 1e-6) for tick in values)
    assert about / 2.6 - 1 <= len(values) <= about + 1


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.one_of(st.none(), st.floats(-1e12, 1e12)), st.floats(0, 1e6)), min_size=1, max_size=20
    )
)
def test_everything_that_is_drawn_stays_on_the_canvas(rows):
    times = [START + timedelta(seconds=second) for second, _, _ in rows]
    svg = parse(series_chart([ChartSeries("a", times, [v for _, v, _ in rows], [m for _, _, m in rows])], **TEXTS))
    for dot in svg.iter(f"{SVG}circle"):
        assert 0 <= float(dot.get("cx")) <= 760
        assert 0 <= float(dot.get("cy")) <= 250


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis():
    curve = Curve("width", [1_000, 10_000, 100_000], [1.0, 1.0, 1.0])
    svg = parse(curves_chart([curve], x_label="twins", x_form=",.0f", log_x=True, **TEXTS))
    first, second, third = (float(dot.get("cx")) for dot in svg.iter(f"{SVG}circle"))
    assert third - second == pytest.approx(second - first, abs=0.2)
    assert {"1,000", "10,000", "100,000", "twins"} <= set(labels(svg))


def test_curves_have_a_legend_and_tooltips():
    curves = [Curve("before", [0, 1], [0.5, 0.25]), Curve("after", [0, 1], [0.5, 0.125], [0.1, 0.1], tone="two")]
    svg = parse(curves_chart(curves, x_label="experiments", **TEXTS))
    assert {"before", "after"} <= set(labels(svg))
    assert "after 0.125 at 1" in [title.text for title in svg.iter(f"{SVG}title")]
    assert len(elements(svg, "polygon", "band")) == 1


def test_a_marker_at_a_number_is_drawn_there_with_its_label_beyond_the_data_too():
    markers = [ValueMarker(5, "the shift", "bad"), ValueMarker(40, "promoted", "good")]
    svg = parse(curves_chart([Curve("mae", [0, 5], [1.0, 2.0])], x_label="outcomes", markers=markers, **TEXTS))
    dots = [float(dot.get("cx")) for dot in svg.iter(f"{SVG}circle")]
    shift, promoted = (float(line.get("x1")) for line in elements(svg, "line", "mark"))
    assert shift == pytest.approx(dots[1], abs=0.1)
    assert promoted > shift
    assert {"the shift", "promoted"} <= set(labels(svg))
    assert "promoted, at 40" in [title.text for title in svg.iter(f"{SVG}title")]
