"""What is true: pure functions and the classes of the brief over columns."""

from engine.experiments.experiment_design import ExperimentDesigner
from engine.fidelity_tracker import FidelityTracker
from engine.simulation_engine import SimulationEngine
from engine.twin_generator import TwinGenerator

__all__ = ["ExperimentDesigner", "FidelityTracker", "SimulationEngine", "TwinGenerator"]
