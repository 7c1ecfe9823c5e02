"""Twins that are kept in memory change no answer: cached ones equal new ones, bit for bit, and their memory is bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from engine.twins import TwinModel, common_seed, population_id
from schemas import BUILT_IN, Brand, Catalogue, SimulationRequest, SimulationResult, TwinType
from sql.simulation_store import Pins, Recipe
from streams.registry import MlflowRegistry, ModelLoader
from streams.simulation import Simulator, simulator
from streams.simulation.computation import generate_population, prepare_twins
from streams.simulation.twin_cache import TwinCache

CAMPAIGNS = [
    {"intervention_type": name, "channel": channel, "frequency": "monthly", "duration_weeks": weeks}
    for name, channel, weeks in (
        ("email_campaign", "email", 12),
        ("speaker_program_invitation", "in_person", 8),
        ("email_campaign", "phone", 24),
    )
]


@pytest.fixture(scope="module")
def model() -> TwinModel:
    generator = TwinGenerator(twin_type=TwinType.HCP, brand=Brand.KISQALI, n_jobs=1, seed=0)
    generator.train(sample_hcps(1000, np.random.default_rng(0)))
    return generator.model


def some_pins(model: TwinModel, campaign: dict[str, Any] = CAMPAIGNS[0], **fields: Any) -> Pins:
    """A pinned request without a seed, as the intake pins it."""
    request = SimulationRequest.model_validate(
        {
            "simulation_id": uuid4(),
            "requested_at": "2026-03-01T00:00:00Z",
            "twin_type": "hcp",
            "brand": "kisqali",
            "intervention": campaign,
            "twin_count": 500,
            **fields,
        }
    )
    filters = request.filters.model_dump(exclude_none=True)
    seed = common_seed(model.card.model_id, TwinType.HCP, filters) if request.seed is None else request.seed
    recipe = Recipe(population_id(model.card.model_id, TwinType.HCP, 500, filters, seed), 500, seed, filters)
    pinned = request.model_copy(update={"seed": seed})
    return Pins(request.simulation_id, request.line, model.card.model_id, 0, recipe, False, pinned, None, compared=())


def a_simulator(model: TwinModel, cache_bytes: int) -> Simulator:
    """A simulator whose model and priors are in memory, so that it needs no database."""
    models = ModelLoader(None, MlflowRegistry(""), size=1)
    models._cache[model.card.model_id] = model
    made = Simulator(None, models, cache_bytes=cache_bytes)
    made._calibrated["hcp:kisqali:prescribing_change", 0] = {}
    return made


async def answers(computing: Simulator, all_pins: list[Pins]) -> list[SimulationResult]:
    results = [await computing.compute(pins, pins.request) for pins in all_pins]
    return [result.model_copy(update={"simulated_at": None}) for result in results]


async def test_answers_on_cached_twins_equal_those_on_new_ones_to_the_last_bit(model: TwinModel) -> None:
    filters = ({}, {"min_decile": 5}, {"specialty": ["oncology"]})
    all_pins = [some_pins(model, campaign, filters=filter_) for _ in range(2) for campaign in CAMPAIGNS for filter_ in filters]
    alternatives = some_pins(model, alternatives=CAMPAIGNS[1:])
    together = await answers(a_simulator(model, 2**30), [*all_pins, alternatives])
    alone = [(await answers(a_simulator(model, 0), [pins]))[0] for pins in (*all_pins, alternatives)]
    assert [result.model_dump_json() for result in together] == [result.model_dump_json() for result in alone]


async def test_campaigns_without_a_seed_are_compared_on_the_same_twins_and_others_on_their_own(model: TwinModel) -> None:
    with_cache = a_simulator(model, 2**30)
    first, second, filtered, own = (
        some_pins(model),
        some_pins(model, CAMPAIGNS[1]),
        some_pins(model, filters={"min_decile": 5}),
        some_pins(model, seed=7),
    )
    assert first.recipe == second.recipe
    assert len({pins.recipe.population_id for pins in (first, filtered, own)}) == 3
    same, other = await answers(with_cache, [first, some_pins(model)])
    assert (same.ate, same.heterogeneity) == (other.ate, other.heterogeneity)


def test_the_seed_that_requests_share_follows_from_the_model_and_from_filters_whatever_their_order() -> None:
    seed = common_seed(UUID(int=1), TwinType.HCP, {"min_decile": 5, "specialty": ["oncology"]})
    assert 0 <= seed < 2**63
    assert seed == common_seed(UUID(int=1), TwinType.HCP, {"specialty": ["oncology"], "min_decile": 5})
    assert seed != common_seed(UUID(int=2), TwinType.HCP, {"min_decile": 5, "specialty": ["oncology"]})
    assert seed != common_seed(UUID(int=1), TwinType.HCP, {"min_decile": 6, "specialty": ["oncology"]})


def test_the_cache_keeps_the_twins_that_were_used_last_within_its_bytes(model: TwinModel) -> None:
    all_pins = [some_pins(model, seed=seed) for seed in range(3)]
    twins = [prepare_twins(generate_population(model, pins.recipe)) for pins in all_pins]
    cache = TwinCache(2 * max(each.n_bytes for each in twins))
    for pins, each in zip(all_pins[:2], twins, strict=False):
        cache.add(pins, each)
    assert cache.get(all_pins[0]) is twins[0]
    cache.add(all_pins[2], twins[2])
    assert [cache.get(pins) for pins in all_pins] == [twins[0], None, twins[2]]
    small = TwinCache(twins[0].n_bytes - 1)
    small.add(all_pins[0], twins[0])
    assert small.get(all_pins[0]) is None


async def test_the_memory_of_generated_twins_is_returned_and_that_of_cached_ones_stays(model: TwinModel, monkeypatch) -> None:
    trims: list[str] = []
    monkeypatch.setattr(simulator, "trim", lambda: trims.append("trim"))
    n_bytes = prepare_twins(generate_population(model, some_pins(model, seed=0).recipe)).n_bytes
    monkeypatch.setattr(simulator, "_RELEASED_BYTES", 2 * n_bytes)
    on_new_twins = a_simulator(model, 0)
    await answers(on_new_twins, [some_pins(model, seed=seed) for seed in range(9)])
    assert 3 <= len(trims) <= 9  # what is derived from twins counts too
    trims.clear()
    await answers(a_simulator(model, 2**30), [some_pins(model, seed=0)] * 9)
    assert len(trims) <= 1


def test_bytes_of_twins_are_at_least_those_of_their_arrays(model: TwinModel) -> None:
    twins = prepare_twins(generate_population(model, some_pins(model).recipe))
    arrays = [
        twins.design().terms,
        twins.design((("region", "north"),)).terms,
        twins.per_effect,
        *(groups.codes for groups in twins.groups().values()),
    ]
    assert twins.n_bytes >= sum(array.nbytes for array in arrays) + twins.population.frame.memory_usage(deep=True).sum()


def test_another_catalogue_has_twins_of_its_own_and_stored_twins_are_never_cached(model: TwinModel) -> None:
    pins = some_pins(model)
    twins, cache = prepare_twins(generate_population(model, pins.recipe)), TwinCache(2**30)
    cache.add(pins, twins)
    other = Catalogue.model_validate({**BUILT_IN.model_dump(), "levels": {"region": {"north": ["nord"]}}})
    assert cache.get(pins) is twins
    assert cache.get(replace(pins, catalogue=other)) is None
    assert cache.get(replace(pins, stored=True)) is None
    stored = replace(some_pins(model, seed=9), stored=True)
    cache.add(stored, twins)
    assert cache.get(replace(stored, stored=False)) is None
