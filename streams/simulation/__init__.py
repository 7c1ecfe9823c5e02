"""Simulations of interventions: decodes requests, pins inputs, computes and reproduces results, and updates effect priors.

It imports ``streams.registry``, ``streams.ingestion`` and what lies below them, ``engine``, ``sql`` and ``schemas``.
"""

from streams.simulation.effect_updates import ImplausibleExperiment, calibrated_prior, update_effects
from streams.simulation.reproduction import reproduce
from streams.simulation.request_decoding import UnreadableRequest, decode_request, find_simulation_id
from streams.simulation.simulator import Simulator, rejected

__all__ = [
    "ImplausibleExperiment",
    "Simulator",
    "UnreadableRequest",
    "calibrated_prior",
    "decode_request",
    "find_simulation_id",
    "rejected",
    "reproduce",
    "update_effects",
]
