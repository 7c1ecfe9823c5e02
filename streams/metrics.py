"""Declares every Prometheus metric of the service; the help text says what to do when it looks wrong."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["REGISTRY", "start_at_zero"]

REGISTRY = CollectorRegistry()
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def _counter(name: str, help_text: str, *labels: str) -> Counter:
    return Counter(name, help_text, labels, registry=REGISTRY)


def _gauge(name: str, help_text: str, *labels: str) -> Gauge:
    return Gauge(name, help_text, labels, registry=REGISTRY)


def _seconds(name: str, help_text: str, *labels: str) -> Histogram:
    return Histogram(name, help_text, labels, registry=REGISTRY, buckets=_BUCKETS_S)


def start_at_zero(counter: Counter, **values: Iterable[str]) -> None:
    """Let a counter exist for every combination of these label values: ``increase()`` does not count a first appearance."""
    for combination in product(*values.values()):
        counter.labels(**dict(zip(values, combination, strict=True)))


OUTCOMES = _counter("twin_outcomes_total", "Outcomes stored, by fate. Many duplicates: a producer sends twice.", "line", "fate")
OUTLIERS = _counter(
    "twin_outliers_total",
    "Outcomes whose error is beyond 3 standard deviations. Rising: twinstream fidelity lists the events."
    " Check them at their producer.",
    "line",
)
REFUSED = _counter(
    "twin_refused_total", "Refused records. Rising: list the dead letters, which have the reasons.", "topic", "reason"
)
EXPERIMENT_WARNINGS = _counter(
    "twin_experiment_warnings_total",
    "Results of experiments that were taken although they are surprising or their arms are uneven: the log of the role"
    " experiments names them.",
)
PARKED = _counter(
    "twin_parked_total",
    "Records parked: they fail for a reason that no rule foresees, or an operator parked them. Rising: twinstream dlq list --kind"
    " parked, and dlq show has the traceback.",
    "topic",
)
PARTITION_BLOCKED = _gauge(
    "twin_partition_blocked",
    "1 while a partition waits because every record of it fails alike. Read the reason at /ready, and correct what they share.",
    "topic",
    "partition",
)
TOPIC_MISSING = _gauge(
    "twin_topic_missing",
    "1 while a topic that this role needs does not exist. 1: twinstream migrate creates it; the role goes on by itself.",
    "topic",
)
TOPIC_RESTARTS = _counter(
    "twin_topic_restarts_total",
    "Topics that were deleted and created anew while a role ran.  Rising: what was not read before is lost. Ask who did it.",
    "topic",
)
RECORDS_EXPIRED = _counter(
    "twin_expired_records_total",
    "Offsets that Kafka removed before they were read. Rising: the retention of the topic is too short for the lag of its role.",
    "topic",
)
TASK_FAILURES = _counter(
    "twin_task_failures_total",
    "Failures of work that is repeated: timers, lines, publications. Rising: the log has the traceback, once a minute.",
    "role",
    "task",
)
BATCH_SECONDS = _seconds(
    "twin_slice_seconds", "Processing time of one poll batch, from poll to publication. Slow: check Postgres first."
)
SOURCE_LAG = _gauge(
    "twin_source_lag_records",
    "Records that are not processed yet. Growing: add a worker, or check Kafka and Postgres.",
    "topic",
    "partition",
)
PARTITION_STANDSTILL = _gauge(
    "twin_partition_standstill_seconds",
    "Time for which records of a partition have waited while none was finished, outages left out. Growing: its records take too"
    " long, or fail alike; /ready of the role and its log have the reason.",
    "topic",
    "partition",
)
WINDOW_OUTCOMES = _gauge("twin_window_outcomes", "Outcomes in the newest window.", "line", "segment")
WINDOW_MAE = _gauge("twin_window_mae", "Mean absolute error of the newest window, in units of the target.", "line", "segment")
WINDOW_RMSE = _gauge("twin_window_rmse", "Root mean squared error of the newest window, in units of the target.", "line", "segment")
WINDOW_CORRELATION = _gauge("twin_window_correlation", "Pearson correlation of the newest window.", "line", "segment")
WINDOW_COVERAGE = _gauge(
    "twin_window_coverage_ratio", "Share of outcomes inside their 95 % interval in the newest window.", "line", "segment"
)
BASELINE_MAE = _gauge("twin_baseline_mae", "Mean absolute error of the champion when it was promoted.", "line")
BASELINE_CORRELATION = _gauge("twin_baseline_correlation", "Pearson correlation of the champion when it was promoted.", "line")
BASELINE_COVERAGE = _gauge(
    "twin_baseline_coverage_ratio", "Share of outcomes inside the champion's 95 % interval when it was promoted.", "line"
)
DRIFT_LIMIT = _gauge(
    "twin_drift_limit", "Value beyond which a drift rule fires for the champion; NaN where it has no baseline.", "line", "rule"
)
SEGMENT_VALUES = _gauge(
    "twin_segment_values",
    "Values of a segment dimension with series of their own. At TWIN_MAX_SEGMENT_VALUES: all further ones are counted together.",
    "line",
    "dimension",
)
IN_OTHER = _counter(
    "twin_segment_other_outcomes_total",
    "Outcomes whose segment value has no series of its own. Rising: correct the producer, or raise TWIN_MAX_SEGMENT_VALUES.",
    "line",
    "dimension",
)
FEATURE_MISSING = _counter(
    "twin_feature_missing_outcomes_total",
    "Outcomes predicted without a feature that the champion uses. Rising: the producer has lost it, or renamed it.",
    "line",
    "feature",
)
FEATURE_UNSEEN = _counter(
    "twin_feature_unseen_level_outcomes_total",
    "Outcomes with a level that the champion never saw, predicted as for rare levels. Rising: codes have changed, or train again.",
    "line",
    "feature",
)
FEATURE_UNUSED = _counter(
    "twin_feature_unused_outcomes_total",
    "Outcomes with a feature that the champion does not have. Expected while a new feature is rolled out: train with it.",
    "line",
    "feature",
)
WINDOW_OUTLIERS = _gauge("twin_window_outliers", "Errors in the newest window beyond 3 standard deviations.", "line", "segment")
WINDOW_ROBUST_MAE = _gauge(
    "twin_window_robust_mae",
    "Mean absolute error of the newest window with outliers counted up to a bound. Far below the plain one: look at the outliers.",
    "line",
    "segment",
)
EVIDENCE = _gauge(
    "twin_detector_evidence_ratio", "Evidence of drift divided by its limit; 1 or more raises an alarm.", "line", "segment"
)
ESTIMATED_MAE = _gauge(
    "twin_estimated_mae", "Estimated mean absolute error of the newest predictions, before their outcomes arrive.", "line"
)
INPUT_SHIFT = _gauge(
    "twin_input_shift_ratio",
    "Population stability index of a feature divided by its limit; above 1 it is distributed differently than in training.",
    "line",
    "column",
)
PREDICTIONS = _gauge(
    "twin_predictions",
    "Simulated predictions whose outcomes are tracked, by state. Many expired: outcomes are not reported.",
    "line",
    "state",
)
VERDICTS = _counter("twin_drift_verdicts_total", "Drift rules that fired on a window.", "line", "rule")
RETRAINS = _counter(
    "twin_retrains_total", "Retrains, by outcome. Many rejected: more data of the same kind does not help.", "line", "outcome"
)
RETRAINING_STOPPED = _gauge(
    "twin_retraining_stopped",
    "1 while retraining of a line is stopped because its last retrains did not improve it: read the report, correct the data, set"
    " the policy again.",
    "line",
)
CHAMPION = _gauge("twin_champion_info", "1 for the champion of a line.", "line", "model_id")
SIMULATIONS = _counter("twin_simulations_total", "Simulation requests answered, by status.", "status")
SIMULATION_SECONDS = _seconds(
    "twin_simulation_seconds", "Time from receipt of a simulation request to its answer, without those of the large lane."
)
LARGE_SIMULATION_SECONDS = Histogram(
    "twin_large_simulation_seconds",
    "Time from receipt of a large simulation request to its answer. Long: add a worker with the role simulation.",
    registry=REGISTRY,
    buckets=(5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0),
)
COMPUTED_SIMULATIONS = _counter(
    "twin_simulations_computed_total",
    "Queued simulation requests answered, by lane. No increase while some wait: the lane stands still.",
    "lane",
)
SHARDS = _counter(
    "twin_simulation_shards_total",
    "Shards of simulations computed. No increase while twin_simulations_waiting is above 0 in the lane sharded: it stands still.",
)
WAITING_SIMULATIONS = _gauge(
    "twin_simulations_waiting",
    "Simulation requests that no worker computes yet, by lane, the same from every worker. Growing: add a worker with the role"
    " simulation.",
    "lane",
)
OLDEST_SIMULATION = _gauge(
    "twin_simulations_oldest_seconds", "Age of the oldest queued simulation request, by lane. Growing: see its lane.", "lane"
)
MODEL_CACHE = _counter(
    "twin_model_cache_requests_total", "Lookups in the model cache. Many misses: raise TWIN_MODEL_CACHE_SIZE.", "result"
)
TWIN_CACHE = _counter(
    "twin_population_cache_requests_total",
    "Simulations on twins in memory, and on others. Many misses: raise TWIN_SIMULATION_CACHE_MB, or name no seed.",
    "result",
)
for _cache in (MODEL_CACHE, TWIN_CACHE):
    start_at_zero(_cache, result=("hit", "miss"))
OLDEST_UNFINISHED = _gauge(
    "twin_oldest_unfinished_seconds",
    "Age of the oldest event in work. Growing: the role is stuck, or waits for Kafka or Postgres.",
    "role",
)
PARTS = ("kafka", "postgres", "mlflow")
OUTAGES = _counter(
    "twin_outages_total", "Failed attempts to reach a part. Rising: see twin_dependency_up, and the log of the role.", "part"
)
start_at_zero(OUTAGES, part=PARTS)
DEPENDENCY_UP = _gauge(
    "twin_dependency_up",
    "1 while a part answers this role, 0 while it is out, as /ready says. 0: bring the part back; the role goes on by itself.",
    "part",
)
ROLE_READY = _gauge("twin_role_ready", "1 while a role processes events. 0: its /ready names the reason.", "role")
CATALOGUE_VERSION = _gauge(
    "twin_catalogue_version",
    "Version of the catalogue that a role follows; 0: the built-in one. Roles that stay behind: see their logs.",
    "role",
)
SUPERVISOR_SILENCE = _gauge(
    "twin_supervisor_silence_seconds",
    "Time since the worker last looked after this role's process. Rising: the worker hangs; restart it.",
    "role",
)
ROLE_EXITS = _counter(
    "twin_role_exits_total",
    "Ends of a role's process that nobody ordered. Rising: the log of the worker has each reason.",
    "role",
)
AGED_ROWS = _counter(
    "twin_aged_rows_total", "Rows that sweeps deleted because they aged out. Flat for weeks: read the last sweep's error.", "table"
)
LAST_SWEEP = _gauge(
    "twin_last_sweep_timestamp_seconds",
    "Unix time of the last sweep without an error, 0 before the first. Older than a day: run twinstream sweep, which shows why.",
)
PARTITIONS_AHEAD = _gauge(
    "twin_partitions_ahead_months",
    "Months after the present one whose partition of the outcome table exists. Below 1: run twinstream sweep.",
)
