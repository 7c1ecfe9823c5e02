"""The way of an outcome from the bytes of Kafka to exact sums in Postgres: decode, score, resolve revisions, store, publish.

It imports ``streams.kafka`` and what lies below it, ``engine``, ``sql`` and ``schemas``.
"""

from streams.ingestion.batch_steps import BatchSteps
from streams.ingestion.isolation import RecordIsolation
from streams.ingestion.outcome_batch import REFUSAL_KINDS
from streams.ingestion.pipeline import OutcomePipeline
from streams.ingestion.publication import publish_result
from streams.ingestion.revisions import cell_of
from streams.ingestion.rows import IngestResult
from streams.ingestion.scoring_context import ContextLoader, SimulatedTwins

__all__ = [
    "REFUSAL_KINDS",
    "BatchSteps",
    "ContextLoader",
    "IngestResult",
    "OutcomePipeline",
    "RecordIsolation",
    "SimulatedTwins",
    "cell_of",
    "publish_result",
]
