"""The page without a database: tones and numbers of a line's newest window."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from markupsafe import escape

from schemas import BUILT_IN, DriftState, FidelityMetrics, RealismReport, Verdict, install
from sql.overview_store import OverviewCounts
from sql.population_realism_store import FilterRealism
from streams.outages import Outage
from streams.reporting.line_list import LineList
from streams.reporting.overview import LineChoice, LineOverview, SegmentWindow
from streams.settings import Settings
from streams.web.dashboard_charts import line_charts
from streams.web.page_lists import HISTORY, MAX_CHOSEN, ListChoice
from streams.web.page_reader import PageReader
from streams.web.pages import Pages
from streams.web.rendering import PageState, render_page
from tests.outcomes import LINE, make_card

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def line_page(line: LineOverview) -> str:
    """The page of a line."""
    content = {"charts": line_charts(line, NOW), "choice": LineChoice(), "history": HISTORY, "max_chosen": MAX_CHOSEN}
    return render_page("line.html", Settings(), "/", at=NOW, line=line, **content)


def first_page(counts: OverviewCounts | None, state: PageState | None = None) -> str:
    """The first page of a service without lines, or without figures."""
    pages = Pages(PageReader(Settings()), Settings(), lambda problem: PageState(problem=problem))
    return pages.render_lines(None if counts is None else LineList(NOW, (), counts), ListChoice(ranged=False), state or PageState())


def page_of(mae: float, *, fired: bool, state: DriftState = DriftState.OK, evidence_ratio: float = 0.25) -> str:
    """The page of a line whose baseline has an error of 0.8 and whose newest window has the error ``mae``."""
    card = make_card(mae=0.8)
    metrics = FidelityMetrics(n=400, mae=mae, rmse=1.0, correlation=-0.25, coverage_95pct=0.9, n_effective=10.0)
    verdict = Verdict(rule="mae_increase", action="retrain", fired=fired, reason="as tested")
    window = SegmentWindow("all", metrics, state, evidence_ratio, (verdict,), "as tested")
    line = LineOverview(LINE, "auto", card, card, (window,), NOW, 3600.0, (), (), (), None, (), {})
    return line_page(line)


def tone_of_error(html: str) -> str:
    match = re.search(r'<span class="moved (\w+)">', html)
    assert match is not None
    return match.group(1)


@pytest.mark.parametrize(
    ("mae", "fired", "tone"),
    [(0.85, True, "bad"), (0.85, False, "muted"), (1.6, False, "muted"), (1.6, True, "bad"), (0.7, False, "good")],
)
def test_the_rule_and_not_the_page_decides_whether_an_error_is_bad(mae, fired, tone):
    assert tone_of_error(page_of(mae, fired=fired)) == tone


def test_only_the_rule_on_the_mean_absolute_error_marks_it():
    verdicts = tuple(
        Verdict(rule=rule, action="warn", fired=fired, reason="as tested")
        for rule, fired in (("mae_increase", False), ("correlation_drop", True), ("coverage_drop", True))
    )
    assert not SegmentWindow("all", FidelityMetrics(n=1), DriftState.OK, None, verdicts, "").error_has_risen


def test_the_page_names_the_version_of_the_catalogue_of_a_champion():
    line = LineOverview(LINE, "auto", make_card(), None, (), None, 3600.0, (), (), (), None, (), {}, catalogue_version=7)
    html = line_page(line)
    assert ", under catalogue version 7. Retraining" in html


def test_a_brand_of_ones_own_has_its_label_on_the_page_in_whatever_letters():
    label = 'Acme "mab" <b>& Söhne'
    install(BUILT_IN.with_entries({"brands": {"acmezumab": {"label": label}}}))
    name = "hcp:acmezumab:prescribing_change"
    line = LineOverview(name, "auto", make_card(), None, (), None, 3600.0, (), (), (), None, (), {}, catalogue_version=1)
    html = line_page(line)
    assert f"HCP · {escape(label)}" in html
    assert label not in html


def test_numbers_have_a_minus_sign_and_separators():
    html = page_of(0.85, fired=True, evidence_ratio=1768.352)
    assert "<dd>\N{MINUS SIGN}0.25</dd>" in html
    assert "1,768 <small>times its limit</small>" in html
    assert "effective sample size 10" in html
    assert "2026-03-01 12:00:00 UTC" in html


def test_a_window_of_too_few_outcomes_has_insufficient_data():
    assert ">insufficient data</span>" in page_of(0.85, fired=False, state=DriftState.INSUFFICIENT)


def test_roles_that_are_not_ready_are_named_with_what_they_do():
    state = PageState({"fidelity": "restoring 3 of 7 lines", "trainer": "starts its process"})
    html = first_page(OverviewCounts(0, 0, 0), state)
    assert "fidelity (restoring 3 of 7 lines), trainer (starts its process)." in html
    assert "Not all roles are ready" not in first_page(OverviewCounts(0, 0, 0))


def test_a_part_that_is_out_is_named_with_what_it_means_and_its_error_is_escaped():
    outage = Outage("kafka", NOW, 0.0, 1234, "OSError: <script>", 0.0)
    html = first_page(OverviewCounts(0, 0, 0), PageState({"trainer": "kafka is out"}, [outage]))
    assert "Kafka has not answered since 12:00:00 UTC" in html
    assert "producers have to wait" in html
    assert "1,234 attempts failed: OSError: &lt;script&gt;" in html
    assert "Not all roles are ready" not in html  # the part that is out is the reason


def test_a_server_of_the_local_stack_that_ended_is_shown_with_what_happens_to_it():
    ended = "Kafka of the local stack ended (killed by SIGKILL); it is started again in 4 s"
    html = first_page(None, PageState(servers=[ended, "Postgres <ended>"]))
    assert f">{ended}.</li>" in html
    assert "Postgres &lt;ended&gt;." in html


def test_a_page_without_figures_says_why():
    html = first_page(None, PageState(problem="no answer from Postgres for 3 s"))
    assert "The figures cannot be read now (no answer from Postgres for 3 s)." in html
    assert "outcomes ingested" not in html


def page_with(windows: tuple[SegmentWindow, ...]) -> str:
    card = make_card()
    line = LineOverview(LINE, "auto", card, card, windows, NOW, 3600.0, (), (), (), None, (), {})
    return line_page(line)


def window_of(segment: str, n: int = 1, state: DriftState = DriftState.OK) -> SegmentWindow:
    return SegmentWindow(segment, FidelityMetrics(n=n), state, None, (), "as tested")


def test_the_page_shows_the_most_important_segments_and_counts_the_rest():
    windows = [window_of(f"region=r{number}", number) for number in range(1, 601)]
    page = page_with((window_of("all", 1000), *windows, window_of("region=burning", 1, DriftState.ALARM)))

    assert page.count("<td>region=") == 30
    assert "<td>region=burning</td>" in page
    assert "<td>region=r600</td>" in page
    assert "<td>region=r1</td>" not in page
    assert "and 571 more" in page
    assert len(page) < 100_000


def test_the_values_without_a_series_of_their_own_have_a_plain_name():
    page = page_with((window_of("all", 1000), window_of("region:other", 700), window_of("region=other", 3)))

    assert "<td>region: all other values</td>" in page
    assert "<td>region=other</td>" in page


def test_no_value_on_the_page_is_markup():
    assert "<script>alert(1)" not in page_with((window_of("all"), window_of("region=<script>alert(1)</script>")))


def test_parked_records_are_shown_when_there_are_any() -> None:
    def page(counts: OverviewCounts) -> str:
        return first_page(counts)

    assert "parked" not in page(OverviewCounts(10, 0, 3))
    waiting = page(OverviewCounts(10, 0, 3, 2, 1))
    assert "2 parked" in waiting
    assert "1 of them was not replayed, and counts nowhere until then" in waiting
    assert "All of them were replayed." in page(OverviewCounts(10, 0, 3, 2, 0))


def test_the_page_shows_the_verdict_on_twins_of_each_filter_and_escapes_its_values():
    shares = {"exact_copies": 0.0, "near_copies": 0.05, "closer_to_training": 0.5}
    report = RealismReport(auc=0.95, marginal_score=0.99, association_error=0.01, **shares, n_synthetic=2000, n_held_out=2000)
    card = make_card(mae=0.8)
    realism = (
        FilterRealism({"region": ["<south>", "west"], "min_decile": 8}, report),
        FilterRealism({"decile": [10]}, unassessed="only 31 real rows satisfy the filters"),
        FilterRealism({"decile": [9]}),
    )
    line = LineOverview(LINE, "auto", card, card, (), None, 3600.0, (), (), (), None, (), {}, realism=realism)
    html = line_page(line)
    assert "Twins with min_decile 8, region &lt;south&gt; or west: not realistic (an AUC of 0.950 is above 0.818), safe." in html
    assert "Twins with decile 10: not assessed (only 31 real rows satisfy the filters)." in html
    assert "Twins with decile 9: not assessed (not measured yet)." in html
