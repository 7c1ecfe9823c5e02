"""The evidence page: how it shows a part, and that it loads nothing else."""

from __future__ import annotations

import pytest

from streams.reporting.charts import Curve, curves_chart
from tests.evidence.page import render, to_dict
from tests.evidence.part import Figure, Part, Plot, Table


def page(part: Part) -> str:
    return render({"about": "here", "parts": {"some": {**to_dict(part), "seconds": 3, "measured": "today"}}})


PART = Part(
    title="Some <part>",
    sentences=("What was done.",),
    figures=(
        Figure("coverage", 0.951, at_least=0.93, at_most=0.97, form=".1%"),
        Figure("AUC", 0.58, at_most=0.56),
        Figure("rows", 12, note="no bar"),
    ),
    tables=(Table("By size", ("n", "coverage"), (("10", "95 %"),)),),
    plots=(Plot("A curve", curves_chart([Curve("a", [0, 1], [1, 2])], title="t", description="d", x_label="x")),),
)


def test_a_page_counts_the_bars_that_are_met_and_says_which_are_missed():
    text = page(PART)
    assert "<b>1</b> of <b>2</b> bars met" in text
    assert text.count(">met<") == 1
    assert text.count(">missed<") == 1


def test_a_page_loads_nothing_and_escapes_texts_but_not_charts():
    text = page(PART)
    assert "Some &lt;part&gt;" in text
    assert "<svg" in text
    assert not any(forbidden in text for forbidden in ("<script", "<link", "src=", "url(", "@import"))


@pytest.mark.parametrize(
    ("figure", "bar", "met"),
    [
        (Figure("a", 0.93, at_least=0.93, at_most=0.97), "0.93 to 0.97", True),
        (Figure("a", 0.92, at_least=0.93), "≥ 0.93", False),
        (Figure("a", 0.92), "", None),
    ],
)
def test_a_bar_is_an_inclusive_range(figure, bar, met):
    assert (figure.bar, figure.met) == (bar, met)
