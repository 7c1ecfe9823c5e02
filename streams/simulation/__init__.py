"""Simulations of interventions: decodes, bounds and queues requests, computes them in two lanes, and updates effect priors.

It imports ``streams.kafka.app``, ``streams.registry``, ``streams.ingestion`` and what lies below them, ``engine``, ``sql`` and
``schemas``.
"""

from streams.simulation.effect_updates import (
    ImplausibleExperiment,
    SetAsideExperiment,
    calibrated_prior,
    check_result,
    doubts,
    require_observed,
    update_effects,
)
from streams.simulation.intake import OpenLane, RequestIntake
from streams.simulation.lane import SimulationLane
from streams.simulation.reproduction import reproduce
from streams.simulation.request_decoding import UnreadableRequest, decode_request
from streams.simulation.request_slice import REQUEST_KINDS, RequestSlice
from streams.simulation.shard_lane import ShardEntrance, ShardLane
from streams.simulation.shards import conclude_shards
from streams.simulation.simulation_process import simulate_in_subprocess
from streams.simulation.simulator import Simulator, rejected

__all__ = [
    "REQUEST_KINDS",
    "ImplausibleExperiment",
    "OpenLane",
    "RequestIntake",
    "RequestSlice",
    "SetAsideExperiment",
    "ShardEntrance",
    "ShardLane",
    "SimulationLane",
    "Simulator",
    "UnreadableRequest",
    "calibrated_prior",
    "check_result",
    "conclude_shards",
    "decode_request",
    "doubts",
    "rejected",
    "reproduce",
    "require_observed",
    "simulate_in_subprocess",
    "update_effects",
]
