"""A metric with a value for each partition that a process reads."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Gauge

__all__ = ["PartitionGauge"]


class PartitionGauge:
    """A metric with a value for each partition, by topic and number, that is read now; those of other partitions are removed."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._reported: set[tuple[str, int]] = set()

    def set(self, values: Mapping[tuple[str, int], float]) -> None:
        """Set the values of all partitions that are read now."""
        for topic, partition in self._reported - values.keys():
            self._gauge.remove(topic, str(partition))
        for (topic, partition), value in values.items():
            self._gauge.labels(topic=topic, partition=partition).set(value)
        self._reported = {*values}
