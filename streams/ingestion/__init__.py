"""The way of an outcome from the bytes of Kafka to exact sums in Postgres: decode, score, resolve revisions, store, publish.

It imports ``streams.kafka`` and what lies below it, ``engine``, ``sql`` and ``schemas``.
"""

from streams.ingestion.outcome_batch import REFUSAL_KINDS
from streams.ingestion.pipeline import OutcomePipeline, publish_result
from streams.ingestion.revisions import cell_of
from streams.ingestion.rows import IngestResult
from streams.ingestion.scoring_context import ContextLoader, SimulatedTwins

__all__ = ["REFUSAL_KINDS", "ContextLoader", "IngestResult", "OutcomePipeline", "SimulatedTwins", "cell_of", "publish_result"]
