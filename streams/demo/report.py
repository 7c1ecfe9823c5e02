"""The report of the demonstration: as text, as JSON values, and as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from schemas import FidelityMetrics, SimulationAnswer
from sql.overview_store import RetrainSummary
from streams.demo.scenario import DemoRun
from streams.operations.verify import VerificationReport
from streams.reporting import (
    EventMarker,
    count,
    labelled,
    number,
    one_decimal,
    plain_words,
    share,
    signed_share,
    signed_share_range,
    standard_error,
)
from streams.reporting.overview import HistoryPoint, LineOverview, SeriesHistory
from streams.reporting.text import model_facts
from streams.training import ImportedTable
from streams.web.rendering import render_report

__all__ = ["DemoReport", "make_report"]

PAGE = "report.html"
_LABEL_WIDTH = 12

_BEFORE_SHIFT, _UNDER_SHIFT, _NEW_MODEL = "first model before the shift", "first model under the shift", "new model under the shift"


@dataclass(frozen=True)
class DemoReport:
    """The results of a demonstration.

    Attributes:
        fidelity: metrics of the first model before and under the shift, and of the new model, by these names.
        retrain: the retrain that the shift led to; None where there was none.
        detection_delay: shifted outcomes until the retrain was requested, approximately; None without a retrain.
        seconds: duration of each step.
    """

    table: ImportedTable
    run: DemoRun
    verification: VerificationReport
    seconds: dict[str, float]
    fidelity: dict[str, FidelityMetrics]
    retrain: RetrainSummary | None
    detection_delay: int | None
    home: Path

    @property
    def succeeded(self) -> bool:
        """Whether a model with a smaller error was promoted and every count is right."""
        errors = {name: metrics.mae for name, metrics in self.fidelity.items()}
        before, after = errors.get(_UNDER_SHIFT), errors.get(_NEW_MODEL)
        is_better = before is not None and after is not None and after < before
        return is_better and self.run.promoted is not None and not self.verification.mismatches

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        run = self.run
        return {
            "succeeded": self.succeeded,
            "table": {"source": self.table.source, "rows": len(self.table.frame), "left_out": self.table.left_out},
            "model": run.first_model.model_dump(mode="json"),
            "simulations": [answer.model_dump(mode="json", exclude={"result": {"heterogeneity"}}) for answer in run.answers],
            "outcomes": run.published,
            "accident": run.fault.to_dict() if run.fault else None,
            "shift": str(run.shift),
            "delay_outcomes": self.detection_delay,
            "retrain": {"reason": self.retrain.reason, "status": self.retrain.status, "comparison": self.retrain.comparison}
            if self.retrain
            else None,
            "promoted": run.promoted,
            "fidelity": {name: metrics.model_dump(mode="json") for name, metrics in self.fidelity.items()},
            "verify": self.verification.to_dict(),
            "seconds": self.seconds,
            "page": str(self.home / PAGE),
        }

    def format_text(self) -> str:
        """The report for a terminal."""
        first_model = self.run.first_model
        sections: dict[str, Sequence[str]] = {
            "table": [f"{self.table.source}, {count(len(self.table.frame))} rows", *self._unused_features(), *self.table.notes],
            "model": [*model_facts(first_model), *first_model.metrics.warnings],
            "simulations": [answer_text(answer) for answer in self.run.answers],
            "stream": self._stream_lines(),
            "fidelity": [f"{name}: {fidelity_text(metrics)}" for name, metrics in self.fidelity.items()],
            "verification": self.verification.format_text().splitlines(),
            "seconds": [f"{one_decimal(seconds):>6}  {step}" for step, seconds in self.seconds.items()],
            "next": self._next_steps(),
        }
        lines = [line for name, section in sections.items() for line in labelled(name, section, _LABEL_WIDTH)]
        return "\n".join(["", f"DEMONSTRATION {'SUCCEEDED' if self.succeeded else 'FAILED'}", *lines])

    def _unused_features(self) -> list[str]:
        left_out = self.table.left_out
        return [f"features that the table has no column for: {', '.join(left_out)}"] if left_out else []

    def _stream_lines(self) -> list[str]:
        lines = [
            f"{count(self.run.published)} outcomes, the later ones with an injected shift: {self.run.shift}",
            "the order, the times and the shift are generated",
        ]
        if self.run.fault is not None:
            lines.append(str(self.run.fault))
        if self.retrain is not None:
            lines.append(f"retrain requested after about {count(self.detection_delay)} shifted outcomes: {self.retrain.reason}")
            lines.append(f"{self.retrain.status}: {self.retrain.outcome}".rstrip(": "))
        return lines

    def _next_steps(self) -> list[str]:
        home = self.home
        return [
            f"{home / PAGE}  (this report, with charts)",
            f"twinstream up --home {home}  (run the service on the data of this demonstration, with its dashboard)",
            f"mlflow server --backend-store-uri sqlite:///{home.resolve() / 'mlflow' / 'mlflow.db'}  (browse the models)",
            f"{home / 'logs'}  (logs of every process)",
        ]


def make_report(
    table: ImportedTable, run: DemoRun, verification: VerificationReport, seconds: dict[str, float], home: Path
) -> DemoReport:
    """Make the report and write its page into ``home``.

    Raises:
        ValueError: when the run ended before its line was read.
    """
    line = run.line_overview
    if line is None or run.overview is None:
        raise ValueError(f"the demonstration ended before the state of {run.line} was read: no report can be made")
    retrain = _decisive_retrain(line)
    report = DemoReport(
        table=table,
        run=run,
        verification=verification,
        seconds=seconds,
        fidelity=fidelity_by_part(line, run),
        retrain=retrain,
        detection_delay=_detection_delay(run, retrain),
        home=home,
    )
    html = render_report(run.overview, report.to_dict(), report.format_text(), event_markers(run))
    (home / PAGE).write_text(html, encoding="utf-8")
    return report


def _decisive_retrain(line: LineOverview) -> RetrainSummary | None:
    """The first retrain that was promoted, else the newest one; stale requests do not count."""
    retrains = sorted((retrain for retrain in line.retrains if retrain.status != "stale"), key=lambda retrain: retrain.requested_at)
    return next((retrain for retrain in retrains if retrain.status == "promoted"), retrains[-1] if retrains else None)


def event_markers(run: DemoRun) -> tuple[EventMarker, ...]:
    """Markers of the kill and of the injected shift, for the charts."""
    killed = [EventMarker(run.fault.at, "worker killed", "bad")] if run.fault else []
    shifted = [EventMarker(run.shifted_from, "injected shift", "warn")] if run.shifted_from else []
    return (*killed, *shifted)


def fidelity_by_part(line: LineOverview, run: DemoRun) -> dict[str, FidelityMetrics]:
    """Metrics of the last full interval of each part of the stream, by the part's name."""
    series_by_model = {series.card.model_id: series for series in line.series}
    first = series_by_model.get(run.first_model.model_id)
    parts: dict[str, FidelityMetrics | None] = {}
    if first is not None and run.shifted_from is not None:
        parts[_BEFORE_SHIFT] = _last_metrics(first, before=run.shifted_from)
        parts[_UNDER_SHIFT] = _last_metrics(first)
    new = series_by_model.get(run.promoted) if run.promoted else None
    if new is not None:
        parts[_NEW_MODEL] = _last_metrics(new)
    return {name: metrics for name, metrics in parts.items() if metrics is not None}


def _last_metrics(series: SeriesHistory, before: datetime | None = None) -> FidelityMetrics | None:
    """Metrics of the largest of the last three intervals, as the last one may have only begun."""
    points = [point for point in series.points if before is None or point.at < before]
    if before is not None:
        points = points[:-1]  # the interval that contains the time
    return max(points[-3:], key=_sample_size).metrics if points else None


def _sample_size(point: HistoryPoint) -> int:
    return point.metrics.n


def _detection_delay(run: DemoRun, retrain: RetrainSummary | None) -> int | None:
    """Shifted outcomes up to the end of the window that the retrain was requested for."""
    if retrain is None or run.shifted_from is None:
        return None
    window_end = datetime.fromisoformat(retrain.evidence["window_end"])
    return max(0, round((window_end - run.shifted_from).total_seconds() * run.rate))


def answer_text(answer: SimulationAnswer) -> str:
    """A simulation on one line."""
    result = answer.result
    if result is None or result.intervention is None:
        return f"{answer.status.value}: {answer.reason}"
    interval = f"{signed_share(result.ate)} ({signed_share_range(result.ate_ci_lower, result.ate_ci_upper)}) {result.effect_unit}"
    assumed = " on an assumption" if result.rests_on_assumption else ""
    recommendation = f"{plain_words(result.recommendation.value)}{assumed}, {count(result.affected_twin_count)} twins"
    return f"{plain_words(result.intervention.intervention_type):<28} {interval:<56} {recommendation}"


def fidelity_text(metrics: FidelityMetrics) -> str:
    """Error and coverage on one line."""
    coverage = f", coverage {share(metrics.coverage_95pct)}" if metrics.coverage_95pct is not None else ""
    mae = f"MAE {number(metrics.mae)} ± {standard_error(metrics.standard_errors.get('mae', 0.0))}"
    return f"{mae}{coverage}, {count(metrics.n)} outcomes"
