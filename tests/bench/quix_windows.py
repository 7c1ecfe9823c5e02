"""The peer of the outcome path: Quix Streams, with tumbling windows of the same moments, state and changelog.

A program of its own, for the environment of the lock ``deploy/locks/quix.txt``: it imports nothing of the project.
``python quix_windows.py BOOTSTRAP TOPIC COUNT PANE_S CENTER SCALE``, where COUNT is that of the records.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from datetime import datetime
from typing import Any

QUANTUM, OUTLIER = 1e-5, 3.0
GRACE_S = 600.0
IDLE_S = 20.0


def main() -> None:
    """Read all records, and print seconds of clock and processor time from the first to the last."""
    from quixstreams import Application  # noqa: PLC0415  # only its own environment has it

    bootstrap, topic_name, count, pane_s, center, scale = sys.argv[1:]
    to_quanta = 1 / (float(scale) * QUANTUM)

    def moments(event: dict[str, Any]) -> tuple[int, ...]:
        predicted = round((event["predicted_value"] - float(center)) * to_quanta)
        actual = round((event["actual_value"] - float(center)) * to_quanta)
        error = abs(predicted - actual)
        inside = event["predicted_lower"] <= event["actual_value"] <= event["predicted_upper"]
        is_outlier = error * QUANTUM > OUTLIER
        products = (predicted * predicted, actual * actual, predicted * actual)
        return (1, 1, int(inside), predicted, actual, *products, error, int(is_outlier))

    def add(sums: list[int], event: dict[str, Any]) -> list[int]:
        return [total + number for total, number in zip(sums, moments(event), strict=True)]

    n_records, progress = 0, []  # clock and processor time at the first and at the last record

    def elements(value: Any) -> list[Any]:
        nonlocal n_records
        n_records += 1
        if n_records in {1, int(count)}:
            progress.append((time.perf_counter(), _cpu_s()))
        return value if isinstance(value, list) else [value]

    with tempfile.TemporaryDirectory(prefix="bench-quix-") as folder:
        app = Application(
            broker_address=bootstrap,
            consumer_group=f"bench-{time.time_ns()}",
            auto_offset_reset="earliest",
            state_dir=folder,
            use_changelog_topics=True,
            loglevel="WARNING",
        )
        events = app.dataframe(app.topic(topic_name, value_deserializer="json"))
        events = events.apply(elements, expand=True).set_timestamp(_observed_ms)
        windows = events.tumbling_window(round(1000 * float(pane_s)), grace_ms=round(1000 * GRACE_S))
        windows.reduce(reducer=add, initializer=lambda event: list(moments(event))).final()
        app.run(timeout=IDLE_S)
    (began, first_cpu), (ended, last_cpu) = progress
    print(json.dumps({"seconds": ended - began, "cpu": last_cpu - first_cpu}))


def _observed_ms(value: Any, *_: Any) -> int:
    return round(1000 * datetime.fromisoformat(value["observed_at"]).timestamp())


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
