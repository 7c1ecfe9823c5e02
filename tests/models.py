"""A trained model that tests share, as training takes seconds."""

from __future__ import annotations

from functools import cache

import numpy as np

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from engine.twins import TwinModel
from schemas import Brand, TwinType

__all__ = ["hcp_model"]


@cache
def hcp_model() -> TwinModel:
    """A model of 1,500 sample prescribers, trained once in a process; it is never changed."""
    generator = TwinGenerator(twin_type=TwinType.HCP, brand=Brand.KISQALI, n_jobs=1, seed=0)
    generator.train(sample_hcps(1500, np.random.default_rng(0)))
    return generator.model
