"""Statistics of twins, simulations and fidelity: pure functions, and the classes that applications use.

Imports ``schemas`` only; it has no access to the network, the file system, databases, or the clock.
"""

from engine.experiments import ExperimentDesigner
from engine.fidelity_tracker import FidelityTracker
from engine.simulation_engine import SimulationEngine
from engine.twin_generator import TwinGenerator

__all__ = ["ExperimentDesigner", "FidelityTracker", "SimulationEngine", "TwinGenerator"]
