"""What the demonstration showed: for the terminal, for a program, and as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from schemas import FidelityMetrics, SimulationAnswer
from sql.overview_store import RetrainSummary
from streams.demo.scenario import DemoRun
from streams.operations.verify import VerificationReport as Verified
from streams.reporting.charts import EventMarker
from streams.reporting.overview import HistoryPoint, LineOverview, SeriesHistory
from streams.reporting.text import model_facts
from streams.training.datasets import ImportedTable
from streams.web.dashboard import render_report

__all__ = ["DemoReport", "make_report"]

PAGE = "report.html"


@dataclass(frozen=True)
class DemoReport:
    """The main job in numbers.

    Attributes:
        fidelity: error and coverage of the first model before the shift and under it, and of the new model, by these names.
        delay: about how many shifted outcomes it took until a retrain was decided on; None when none was.
        seconds: of each step.
    """

    table: ImportedTable
    journey: DemoRun
    verified: Verified
    seconds: dict[str, float]
    fidelity: dict[str, FidelityMetrics]
    retrain: RetrainSummary | None
    delay: int | None
    home: Path

    @property
    def succeeded(self) -> bool:
        """Whether a better model took over, all requests were answered, and every count is right."""
        fidelity = {name: metrics.mae for name, metrics in self.fidelity.items()}
        before, after = fidelity.get("first model under the shift"), fidelity.get("new model under the shift")
        better = before is not None and after is not None and after < before
        return better and self.journey.promoted is not None and not self.verified.mismatches

    def to_dict(self) -> dict[str, Any]:
        """The report for a program."""
        card = self.journey.first
        return {
            "succeeded": self.succeeded,
            "table": {"source": self.table.source, "rows": len(self.table.frame), "left_out": self.table.left_out},
            "model": card.model_dump(mode="json"),
            "simulations": [
                answer.model_dump(mode="json", exclude={"result": {"heterogeneity"}}) for answer in self.journey.answers
            ],
            "outcomes": self.journey.published,
            "accident": asdict(self.journey.accident) if self.journey.accident else None,
            "shift": str(self.journey.shift),
            "delay_outcomes": self.delay,
            "retrain": {"reason": self.retrain.reason, "status": self.retrain.status, "comparison": self.retrain.comparison}
            if self.retrain
            else None,
            "promoted": self.journey.promoted,
            "fidelity": {name: metrics.model_dump(mode="json") for name, metrics in self.fidelity.items()},
            "verify": self.verified.to_dict(),
            "seconds": self.seconds,
            "page": str(self.home / PAGE),
        }

    def format_text(self) -> str:
        """The report for a terminal."""
        return "\n".join(
            [
                "",
                f"THE MAIN JOB: {'done' if self.succeeded else 'NOT DONE'}",
                *self._told(
                    "table", [f"{self.table.source}, {len(self.table.frame):,} rows", *self._left_out(), *self.table.notes]
                ),
                *self._told("model", [*model_facts(self.journey.first), *self.journey.first.metrics.warnings]),
                *self._told("simulations", [answer_text(answer) for answer in self.journey.answers]),
                *self._told("stream", self._stream()),
                *self._told("fidelity", [f"{name}: {fidelity_text(metrics)}" for name, metrics in self.fidelity.items()]),
                *self._told("verify", self.verified.format_text().splitlines()),
                *self._told("seconds", [f"{seconds:6.1f}  {name}" for name, seconds in self.seconds.items()]),
                *self._told("look at", self._addresses()),
            ]
        )

    def _told(self, name: str, lines: Sequence[str]) -> list[str]:
        return [f"  {name if number == 0 else '':<12} {line}" for number, line in enumerate(lines)]

    def _left_out(self) -> list[str]:
        return [f"left out, the table has nothing for them: {', '.join(self.table.left_out)}"] if self.table.left_out else []

    def _stream(self) -> list[str]:
        told = [
            f"{self.journey.published:,} outcomes, the later ones with an injected shift: {self.journey.shift}",
            "the order, the times and the shift are ours",
        ]
        if self.journey.accident is not None:
            told.append(str(self.journey.accident))
        if self.retrain is not None:
            told.append(f"retrain asked for on about {self.delay:,} shifted outcomes: {self.retrain.reason}")
            told.append(f"{self.retrain.status}: {self.retrain.outcome}".rstrip(": "))
        return told

    def _addresses(self) -> list[str]:
        home = self.home
        return [
            f"{home / PAGE}  (this report, with plots)",
            f"twinstream up --home {home}  (the live page, on what this run has left)",
            f"mlflow server --backend-store-uri sqlite:///{home.resolve() / 'mlflow' / 'mlflow.db'}  (the models)",
            f"{home / 'logs'}  (what every process said)",
        ]


def make_report(table: ImportedTable, journey: DemoRun, verified: Verified, seconds: dict[str, float], home: Path) -> DemoReport:
    """Put the report together and write its page into ``home``.

    Raises:
        ValueError: when the journey never looked at the line.
    """
    line = journey.line_overview
    if line is None or journey.seen is None:
        raise ValueError(f"nothing is known of {journey.line}: the journey ended before a look at it")
    asked = sorted((told for told in line.retrains if told.status != "stale"), key=lambda told: told.requested_at)
    retrain = next((told for told in asked if told.status == "promoted"), asked[-1] if asked else None)
    report = DemoReport(
        table=table,
        journey=journey,
        verified=verified,
        seconds=seconds,
        fidelity=fidelity_by_part(line, journey),
        retrain=retrain,
        delay=_delay(journey, retrain),
        home=home,
    )
    (home / PAGE).write_text(
        render_report(journey.seen, report.to_dict(), report.format_text(), marks_of(journey)), encoding="utf-8"
    )
    return report


def marks_of(journey: DemoRun) -> tuple[EventMarker, ...]:
    """The moments of the kill and of the injected shift, for the charts."""
    killed = [EventMarker(journey.accident.at, "worker killed", "bad")] if journey.accident else []
    return (*killed, *([EventMarker(journey.shifted_from, "injected shift", "warn")] if journey.shifted_from else []))


def fidelity_by_part(line: LineOverview, journey: DemoRun) -> dict[str, FidelityMetrics]:
    """The last stretch of each part of the stream that lies wholly in it, by the part's name."""
    by_model = {series.card.model_id: series for series in line.series}
    first = by_model.get(journey.first.model_id)
    parts: dict[str, FidelityMetrics | None] = {}
    if first is not None and journey.shifted_from is not None:
        parts["first model before the shift"] = _last(first, before=journey.shifted_from)
        parts["first model under the shift"] = _last(first)
    new = by_model.get(journey.promoted) if journey.promoted else None
    if new is not None:
        parts["new model under the shift"] = _last(new)
    return {name: metrics for name, metrics in parts.items() if metrics is not None}


def _last(series: SeriesHistory, before: datetime | None = None) -> FidelityMetrics | None:
    """Figures of the fullest of the last three stretches: the very last one may have only begun."""
    starts = [point for point in series.points if before is None or point.at < before]
    whole = starts[:-1] if before is not None else starts
    return max(whole[-3:], key=_size).metrics if whole else None


def _size(point: HistoryPoint) -> int:
    return point.metrics.n


def _delay(journey: DemoRun, retrain: RetrainSummary | None) -> int | None:
    """Shifted outcomes up to the end of the panes on which the retrain was decided."""
    if retrain is None or journey.shifted_from is None:
        return None
    decided_on = datetime.fromisoformat(retrain.evidence["window_end"])
    return max(0, round((decided_on - journey.shifted_from).total_seconds() * journey.rate))


def answer_text(answer: SimulationAnswer) -> str:
    """One simulation on one line."""
    result = answer.result
    if result is None or result.intervention is None:
        return f"{answer.status.value}: {answer.reason}"
    name = result.intervention.intervention_type.replace("_", " ")
    interval = f"{result.ate:+.1%} ({result.ate_ci_lower:+.1%} to {result.ate_ci_upper:+.1%})"
    return f"{name:<28} {interval:<28} {result.recommendation.value.replace('_', ' ')}, {result.affected_twin_count:,} twins"


def fidelity_text(metrics: FidelityMetrics) -> str:
    """Error and coverage on one line."""
    coverage = f", coverage {metrics.coverage_95pct:.1%}" if metrics.coverage_95pct is not None else ""
    return f"MAE {metrics.mae:.4f} ± {metrics.standard_errors.get('mae', 0.0):.4f}{coverage}, {metrics.n:,} outcomes"
