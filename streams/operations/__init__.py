"""Operators' tools: verify and repair stored counts, replay ranges of topics, and correct and replay refused records.

It imports from the packages below it. ``verify`` and ``topic_replay`` load numpy and the engine, so that commands import these
modules where they need them.
"""

from streams.operations.corrections import Correction, parse_assignment
from streams.operations.dead_letter_replay import SentReplay, SkippedReplay, replay_dead_letters
from streams.operations.dead_letter_view import DeadLetter, await_replay_results, load_dead_letters
from streams.operations.record_parking import AlreadyProcessed, ParkedRecord, park_record

__all__ = [
    "AlreadyProcessed",
    "Correction",
    "DeadLetter",
    "ParkedRecord",
    "SentReplay",
    "SkippedReplay",
    "await_replay_results",
    "load_dead_letters",
    "park_record",
    "parse_assignment",
    "replay_dead_letters",
]
