"""Simulations of interventions: decodes requests, pins their inputs, computes their results, and reproduces them.

It imports ``streams.registry``, ``streams.ingestion`` and what lies below them, ``engine``, ``sql`` and ``schemas``.
"""

from streams.simulation.reproduction import reproduce
from streams.simulation.request_decoding import UnreadableRequest, decode_request
from streams.simulation.simulator import Simulator, rejected

__all__ = ["Simulator", "UnreadableRequest", "decode_request", "rejected", "reproduce"]
