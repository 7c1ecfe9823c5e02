"""Every Prometheus metric of the service, with what to do when it looks wrong."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["REGISTRY"]

REGISTRY = CollectorRegistry()
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def _counter(name: str, what: str, *labels: str) -> Counter:
    return Counter(name, what, labels, registry=REGISTRY)


def _gauge(name: str, what: str, *labels: str) -> Gauge:
    return Gauge(name, what, labels, registry=REGISTRY)


def _seconds(name: str, what: str, *labels: str) -> Histogram:
    return Histogram(name, what, labels, registry=REGISTRY, buckets=_SECONDS)


OUTCOMES = _counter("twin_outcomes_total", "Outcomes stored, by fate. Many duplicates: a producer retries.", "line", "fate")
REFUSED = _counter("twin_refused_total", "Refused records. Rising: list the dead letters, they tell the reason.", "topic", "reason")
SLICE_SECONDS = _seconds("twin_slice_seconds", "One poll slice from poll to publication. Slow: look at Postgres first.")
SOURCE_LAG = _gauge(
    "twin_source_lag_records", "Records not yet taken in. Growing: add a worker, or a part is out.", "topic", "partition"
)
WINDOW_OUTCOMES = _gauge("twin_window_outcomes", "Outcomes in the newest window.", "line", "segment")
WINDOW_MAE = _gauge("twin_window_mae", "Mean absolute error of the newest window, units of the target.", "line", "segment")
WINDOW_RMSE = _gauge("twin_window_rmse", "Root mean squared error of the newest window.", "line", "segment")
WINDOW_CORRELATION = _gauge("twin_window_correlation", "Pearson correlation of the newest window.", "line", "segment")
WINDOW_COVERAGE = _gauge("twin_window_coverage_ratio", "Share inside the 95 % interval, newest window.", "line", "segment")
BASELINE_MAE = _gauge("twin_baseline_mae", "Mean absolute error the champion was promoted with.", "line")
BASELINE_CORRELATION = _gauge("twin_baseline_correlation", "Correlation the champion was promoted with.", "line")
BASELINE_COVERAGE = _gauge("twin_baseline_coverage_ratio", "Share inside the 95 % interval the champion was promoted with.", "line")
EVIDENCE = _gauge("twin_detector_evidence_ratio", "Evidence of drift over its limit; 1 or more is an alarm.", "line", "segment")
ESTIMATED_MAE = _gauge(
    "twin_estimated_mae", "Mean absolute error to expect of the newest rows before their outcomes arrive.", "line"
)
INPUT_SHIFT = _gauge(
    "twin_input_shift_ratio",
    "Stability index of an input over its limit; above 1 the model is asked about other rows than it learned from.",
    "line",
    "column",
)
PREDICTIONS = _gauge(
    "twin_predictions",
    "Simulated predictions whose outcomes are followed. Many expired: reports of outcomes are lost.",
    "line",
    "state",
)
VERDICTS = _counter("twin_drift_verdicts_total", "Rules that fired on a window.", "line", "rule")
RETRAINS = _counter(
    "twin_retrains_total", "Retrains by how they ended. Many rejected: more of the same data does not help.", "line", "outcome"
)
RETRAINING_STOPPED = _gauge(
    "twin_retraining_stopped",
    "1 where a line waits for a person because its last retrains bought nothing: ask why, mend the data, choose the policy again.",
    "line",
)
CHAMPION = _gauge("twin_champion_info", "1 for the model that answers now.", "line", "model_id")
SIMULATIONS = _counter("twin_simulations_total", "Simulation requests answered, by status.", "status")
SIMULATION_SECONDS = _seconds("twin_simulation_seconds", "One request from receipt to answer.")
MODEL_CACHE = _counter(
    "twin_model_cache_requests_total", "Models asked of the cache. Many misses: raise TWIN_MODEL_CACHE_SIZE.", "result"
)
OLDEST_UNFINISHED = _gauge(
    "twin_oldest_unfinished_seconds", "Age of the oldest event in work. Growing: the role is stuck or waits for a part.", "role"
)
OUTAGES = _counter("twin_outages_total", "Times a part could not be reached and was waited for.", "part")
