"""The evidence page: how it shows a part, and that it loads nothing else."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode

import pytest

from streams.reporting.charts import Curve, curves_chart
from streams.web.assets import CHART_LIBRARY, asset
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


def test_a_page_loads_nothing_and_escapes_texts():
    text = page(PART)
    assert "Some &lt;part&gt;" in text
    own = text.replace(asset(CHART_LIBRARY).content, "")
    assert not any(forbidden in own for forbidden in ("<link", "<script src", " src=", "url(", "@import"))


def test_a_page_names_the_digest_of_each_script_and_style_that_it_contains():
    text = page(PART)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1).replace("&#39;", "'")
    parts = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", text, re.DOTALL)
    digests = {b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts}
    assert digests == set(re.findall(r"'sha256-([^']+)'", policy))


def test_a_plot_that_was_drawn_when_it_was_measured_is_shown_as_it_is():
    drawn = {**to_dict(PART), "plots": [{"caption": "Drawn", "svg": "<svg class='chart'></svg>", "wide": True}]}
    text = render({"about": "here", "parts": {"some": {**drawn, "seconds": 3, "measured": "today"}}})
    assert "<svg class='chart'></svg></figure>" in text


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
