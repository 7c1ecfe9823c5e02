"""Charts: where things are drawn, what they say, and that foreign words stay words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.reporting.charts import (
    CHART_STYLE,
    ChartInterval,
    ChartSeries,
    Curve,
    Line,
    Mark,
    Place,
    curves_chart,
    intervals_chart,
    series_chart,
    ticks,
)

SVG = "{http://www.w3.org/2000/svg}"
START = datetime(2025, 3, 4, 10, tzinfo=UTC)
SAID = {"title": "Effects", "description": "what they would do"}


def drawn(svg: str) -> Element:
    return fromstring(svg)


def words(svg: Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


def named(svg: Element, tag: str, kind: str) -> list[Element]:
    return [found for found in svg.iter(SVG + tag) if kind in found.get("class", "").split()]


def at_minutes(*minutes: float) -> list[datetime]:
    return [START + timedelta(minutes=minute) for minute in minutes]


def test_an_interval_reaches_from_its_lower_to_its_upper_end_with_the_estimate_between():
    svg = drawn(intervals_chart([ChartInterval("a", 0.1, 0.0, 0.2, "deploy", "good")], **SAID))
    (whisker,) = named(svg, "line", "whisker")
    (zero,) = named(svg, "line", "axis")
    (dot,) = svg.iter(f"{SVG}circle")
    low, high = float(whisker.get("x1")), float(whisker.get("x2"))
    assert float(zero.get("x1")) == low
    assert float(dot.get("cx")) == pytest.approx((low + high) / 2, abs=0.1)


def test_rows_keep_the_order_that_was_given():
    items = [ChartInterval(name, 0.1, 0.0, 0.2) for name in ("first", "second", "third")]
    heights = {text.text: float(text.get("y")) for text in drawn(intervals_chart(items, **SAID)).iter(f"{SVG}text")}
    assert heights["first"] < heights["second"] < heights["third"]


def test_verdicts_differ_in_shape_and_not_only_in_colour():
    def shape(tone):
        svg = drawn(intervals_chart([ChartInterval("a", 0.1, 0.0, 0.2, tone=tone)], **SAID))
        return (len(list(svg.iter(f"{SVG}rect"))), len(named(svg, "circle", "ink")), len(named(svg, "circle", "hollow")))

    assert {tone: shape(tone) for tone in ("good", "bad", "warn")} == {"good": (0, 1, 0), "bad": (1, 0, 0), "warn": (0, 0, 1)}


def test_numbers_are_told_when_a_row_is_pointed_at():
    svg = drawn(intervals_chart([ChartInterval("email", -0.012, -0.03, 0.004, "do not deploy")], **SAID))
    assert "email: −1.2%, −3.0% to 0.4%. do not deploy" in [title.text for title in svg.iter(f"{SVG}title")]


def test_a_chart_tells_its_title_and_its_description_to_who_cannot_see_it():
    svg = drawn(series_chart([], title="Error", description="over time"))
    told = {element.get("id"): element.text for element in (svg.find(f"{SVG}title"), svg.find(f"{SVG}desc"))}
    assert svg.get("role") == "img"
    assert [told[name] for name in svg.get("aria-labelledby").split()] == ["Error", "over time"]


def test_two_charts_on_one_page_have_different_ids():
    first, second = (drawn(series_chart([], title=title, description="d")).find(f"{SVG}title").get("id") for title in "ab")
    assert first != second


def test_a_chart_without_anything_to_show_says_so():
    assert words(drawn(series_chart([], **SAID))) == ["nothing to show yet"]
    assert words(drawn(series_chart([ChartSeries("a", at_minutes(1), [None])], **SAID))) == ["nothing to show yet"]
    assert words(drawn(intervals_chart([], **SAID))) == ["nothing to show yet"]


def test_a_missing_value_breaks_the_curve_instead_of_bridging_it():
    svg = drawn(series_chart([ChartSeries("mae", at_minutes(0, 5, 10, 15), [1.0, 2.0, None, 1.5])], **SAID))
    curves = named(svg, "polyline", "curve")
    assert [len(curve.get("points").split()) for curve in curves] == [2, 1]
    assert len(list(svg.iter(f"{SVG}circle"))) == 3


def test_equal_steps_in_time_and_value_are_equal_steps_on_the_canvas():
    svg = drawn(series_chart([ChartSeries("mae", at_minutes(0, 5, 10), [1.0, 2.0, 3.0])], **SAID))
    (curve,) = named(svg, "polyline", "curve")
    (x1, y1), (x2, y2), (x3, y3) = (tuple(map(float, corner.split(","))) for corner in curve.get("points").split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y3 < y2 < y1


def test_a_limit_lies_where_a_point_of_the_same_value_lies():
    svg = drawn(series_chart([ChartSeries("mae", at_minutes(0), [1.0])], lines=[Line(1.0, "limit", "bad")], **SAID))
    (limit,) = named(svg, "line", "limit")
    (dot,) = svg.iter(f"{SVG}circle")
    assert limit.get("y1") == limit.get("y2") == f"{float(dot.get('cy')):g}"
    assert "limit" in words(svg)


def test_a_mark_stands_at_its_moment_and_outside_of_the_data_too():
    marks = [Mark(START + timedelta(minutes=5), "shift", "warn"), Mark(START + timedelta(minutes=60), "promoted", "good")]
    svg = drawn(series_chart([ChartSeries("mae", at_minutes(0, 5), [1.0, 2.0])], marks=marks, **SAID))
    dots = [float(dot.get("cx")) for dot in svg.iter(f"{SVG}circle")]
    (shift, promoted) = (float(line.get("x1")) for line in named(svg, "line", "mark"))
    assert shift == pytest.approx(dots[1], abs=0.1)
    assert promoted > shift


def test_names_of_marks_that_would_overlap_stand_in_rows_of_their_own():
    marks = [Mark(at, "retrain asked", "bad") for at in at_minutes(30, 30.5, 31, 59)]
    svg = drawn(series_chart([ChartSeries("mae", at_minutes(0, 60), [1.0, 2.0])], marks=marks, **SAID))
    heights = [float(text.get("y")) for text in svg.iter(f"{SVG}text") if text.text == "retrain asked"]
    assert len(set(heights[:3])) == 3
    assert heights[3] == min(heights)


def test_names_of_limits_keep_apart():
    lines = [Line(1.0, "baseline"), Line(1.001, "limit", "bad")]
    svg = drawn(series_chart([ChartSeries("mae", at_minutes(0, 60), [1.0, 2.0])], lines=lines, **SAID))
    heights = sorted(float(text.get("y")) for text in svg.iter(f"{SVG}text") if text.text in ("baseline", "limit"))
    assert heights[1] - heights[0] >= 12


def test_several_series_have_a_legend_and_a_single_one_has_none():
    both = [ChartSeries(name, at_minutes(0, 1), [1.0, 2.0]) for name in ("before", "after")]
    assert {"before", "after"} <= set(words(drawn(series_chart(both, **SAID))))
    assert "before" not in words(drawn(series_chart(both[:1], **SAID)))


def test_times_are_shown_in_utc_whatever_their_zone():
    from_elsewhere = [datetime.fromisoformat("2025-03-04T12:00:00+02:00"), datetime.fromisoformat("2025-03-04T14:00:00+02:00")]
    shown = words(drawn(series_chart([ChartSeries("mae", from_elsewhere, [1.0, 2.0])], **SAID)))
    assert "UTC" in shown
    assert {"10:30", "11:30"} <= set(shown)
    assert "13:00" not in shown


def test_words_from_outside_never_become_markup():
    bad = '</title><script>alert("x")</script>&'
    svg = intervals_chart([ChartInterval(bad, 0.1, 0.0, 0.2, bad)], title=bad, description=bad, lines=[Line(0.1, bad)])
    assert "<script" not in svg
    assert bad in words(drawn(svg))


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
def test_ticks_lie_inside_and_are_neither_too_few_nor_too_many(low, length, about):
    found = ticks(low, low + length, about)
    assert all(low - length * 1e-6 <= tick <= low + length * (1 + 1e-6) for tick in found)
    assert about / 2.6 - 1 <= len(found) <= about + 1


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.one_of(st.none(), st.floats(-1e12, 1e12)), st.floats(0, 1e6)), min_size=1, max_size=20
    )
)
def test_everything_that_is_drawn_stays_on_the_canvas(rows):
    times = [START + timedelta(seconds=second) for second, _, _ in rows]
    svg = drawn(series_chart([ChartSeries("a", times, [v for _, v, _ in rows], [m for _, _, m in rows])], **SAID))
    for dot in svg.iter(f"{SVG}circle"):
        assert 0 <= float(dot.get("cx")) <= 760
        assert 0 <= float(dot.get("cy")) <= 250


def test_a_factor_is_a_distance_where_a_curve_is_drawn_on_a_logarithmic_axis():
    curve = Curve("width", [1_000, 10_000, 100_000], [1.0, 1.0, 1.0])
    svg = drawn(curves_chart([curve], x_label="twins", x_form=",.0f", log_x=True, **SAID))
    first, second, third = (float(dot.get("cx")) for dot in svg.iter(f"{SVG}circle"))
    assert third - second == pytest.approx(second - first, abs=0.2)
    assert {"1,000", "10,000", "100,000", "twins"} <= set(words(svg))


def test_curves_are_named_and_say_their_numbers():
    curves = [Curve("before", [0, 1], [0.5, 0.25]), Curve("after", [0, 1], [0.5, 0.125], [0.1, 0.1], tone="two")]
    svg = drawn(curves_chart(curves, x_label="experiments", **SAID))
    assert {"before", "after"} <= set(words(svg))
    assert "after 0.125 at 1" in [title.text for title in svg.iter(f"{SVG}title")]
    assert len(named(svg, "polygon", "band")) == 1


def test_a_mark_at_a_number_stands_there_with_its_name_beyond_the_data_too():
    marks = [Place(5, "the shift", "bad"), Place(40, "promoted", "good")]
    svg = drawn(curves_chart([Curve("mae", [0, 5], [1.0, 2.0])], x_label="outcomes", marks=marks, **SAID))
    dots = [float(dot.get("cx")) for dot in svg.iter(f"{SVG}circle")]
    shift, promoted = (float(line.get("x1")) for line in named(svg, "line", "mark"))
    assert shift == pytest.approx(dots[1], abs=0.1)
    assert promoted > shift
    assert {"the shift", "promoted"} <= set(words(svg))
    assert "promoted, at 40" in [title.text for title in svg.iter(f"{SVG}title")]
