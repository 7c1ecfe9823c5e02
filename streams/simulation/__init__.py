"""Simulations of interventions: decodes, bounds and queues requests, computes them in two lanes, and updates effect priors.

It imports ``streams.kafka.app``, ``streams.registry``, ``streams.ingestion`` and what lies below them, ``engine``, ``sql`` and
``schemas``.
"""

from streams.simulation.effect_updates import (
    ImplausibleExperiment,
    SetAsideExperiment,
    calibrated_prior,
    check_result,
    require_observed,
    update_effects,
)
from streams.simulation.intake import RequestIntake
from streams.simulation.lane import SimulationLane, publish_answer
from streams.simulation.reproduction import reproduce
from streams.simulation.request_decoding import UnreadableRequest, decode_request, find_simulation_id
from streams.simulation.simulation_process import simulate_in_subprocess
from streams.simulation.simulator import Simulator, failed, rejected

__all__ = [
    "ImplausibleExperiment",
    "RequestIntake",
    "SetAsideExperiment",
    "SimulationLane",
    "Simulator",
    "UnreadableRequest",
    "calibrated_prior",
    "check_result",
    "decode_request",
    "failed",
    "find_simulation_id",
    "publish_answer",
    "rejected",
    "reproduce",
    "require_observed",
    "simulate_in_subprocess",
    "update_effects",
]
