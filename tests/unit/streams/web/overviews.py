"""Overviews for tests of the pages, without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import numpy as np

from schemas import DriftState, FidelityMetrics, ModelCard, Verdict
from sql.overview_store import OverviewCounts, SimulationRun
from streams.reporting.overview import HistoryPoint, LineOverview, Overview, SegmentWindow, SeriesHistory
from tests.outcomes import LINE, make_card

__all__ = ["NOW", "line_with_charts", "overview_with_charts", "simulation"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_IDS = UUID("00000000-0000-0000-0000-00000000abce")


def overview_with_charts() -> Overview:
    """One line that two models predicted, in alarm, and three simulations with their effects."""
    runs = (
        simulation(0, "speaker_program_invitation", "deploy", (0.061, 0.109, 0.158)),
        simulation(1, "email_campaign", "test_further", (0.012, 0.046, 0.083)),
        simulation(2, "educational_content_share", "do_not_deploy", (-0.012, 0.011, 0.034)),
    )
    return Overview(NOW, (line_with_charts(),), runs, (), OverviewCounts(400, 3, 0))


def line_with_charts(line: str = LINE, state: DriftState = DriftState.ALARM) -> LineOverview:
    """A line with an hour of outcomes of the champion after some of its predecessor."""
    rng = np.random.default_rng(0)
    card = make_card(mae=0.8)
    champion = card.model_copy(update={"model_id": uuid5(_IDS, line)})
    series = (_history(card, 40, 20, 0.85, rng), _history(champion, 20, 0, 0.8, rng))
    verdict = Verdict(rule="mae_increase", action="retrain", fired=True, reason="MAE 0.98 is above 0.96")
    windows = tuple(_window(segment, state, (verdict,)) for segment in ("all", "region=south", "region=west"))
    return LineOverview(line, "auto", champion, champion, windows, NOW, 3600.0, series, (), (), None, (), {})


def _window(segment: str, state: DriftState, verdicts: tuple[Verdict, ...]) -> SegmentWindow:
    errors = {"mae": 0.02, "rmse": 0.03}
    metrics = FidelityMetrics(n=400, mae=0.98, rmse=1.0, correlation=-0.25, coverage_95pct=0.9, standard_errors=errors)
    return SegmentWindow(segment, metrics, state, 2.5, verdicts, "rule and detector agree")


def _history(card: ModelCard, n: int, ended: int, mae: float, rng: np.random.Generator) -> SeriesHistory:
    """``n`` intervals of five minutes, the last of which ended so many intervals ago; one of them has no figures."""
    return SeriesHistory(card, tuple(_point(k, n + ended, mae, rng) for k in range(n)))


def _point(number: int, of: int, mae: float, rng: np.random.Generator) -> HistoryPoint:
    metrics = FidelityMetrics(
        n=400,
        mae=None if number == 7 else mae + float(rng.normal(0, 0.02)),
        rmse=1.0,
        correlation=0.3,
        coverage_95pct=0.94 + float(rng.normal(0, 0.01)),
        standard_errors={"mae": 0.02, "coverage_95pct": 0.01},
    )
    return HistoryPoint(NOW - timedelta(minutes=5 * (of - number)), metrics)


def simulation(number: int, kind: str, recommendation: str, interval: tuple[float, float, float]) -> SimulationRun:
    """A completed simulation; ``interval`` is lower end, estimate and upper end."""
    lower, estimate, upper = interval
    return SimulationRun(
        simulation_id=uuid5(_IDS, f"simulation {number}"),
        line=LINE,
        status="completed",
        intervention={"intervention_type": kind},
        filters={"region": ["south"]},
        results={
            "ate": estimate,
            "ate_ci_lower": lower,
            "ate_ci_upper": upper,
            "affected_twin_count": 9000,
            "min_effect_threshold": 0.05,
            "rests_on_assumption": number == 0,
        },
        recommendation=recommendation,
        reason="90% are enough to deploy",
        started_at=NOW - timedelta(minutes=number),
        took_s=1.0,
    )
