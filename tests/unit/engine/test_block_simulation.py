"""Simulations in blocks: the same bits however the blocks are shared out, and the answer that one table of the same twins gives."""

from __future__ import annotations

import pandas as pd
import pytest

import engine.block_simulation as blocks
from engine import SimulationEngine
from engine.block_simulation import block_count, describe_population, is_in_blocks, sum_blocks
from engine.effects import ExactSums, PreparedTwins
from engine.twins import EmptyFilter, TwinModel
from schemas import InterventionConfig, SimulationResult, TwinPopulation
from tests.models import hcp_model

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
VISITS = InterventionConfig(
    intervention_type="speaker_program_invitation", channel="in_person", frequency="monthly", duration_weeks=6
)
SEED, BLOCK, TWINS = 5, 1000, 6500


@pytest.fixture(scope="module")
def model() -> TwinModel:
    return hcp_model()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_TWINS", BLOCK)


def engine_on(twins: PreparedTwins | TwinPopulation) -> SimulationEngine:
    return SimulationEngine(twins, seed=SEED)


def sums(model: TwinModel, numbers: list[int], filters: object = None) -> ExactSums:
    return sum_blocks(model, numbers, TWINS, filters, SEED, engine_on, [EMAIL, VISITS])


def concluded(model: TwinModel, total: ExactSums, filters: object = None) -> SimulationResult:
    few = PreparedTwins(describe_population(model, filters, SEED), is_block=True)
    return engine_on(few).conclude(total.to_sums(), EMAIL, filters, alternatives=[VISITS])


def test_any_order_and_size_of_shards_gives_the_same_bytes(model):
    whole = sums(model, list(range(7)))
    for shards in ([[6], [5, 4], [0, 1, 2, 3]], [[n] for n in (3, 1, 2, 6, 0, 5, 4)]):
        assert ExactSums.merge_all([sums(model, shard) for shard in shards]).to_bytes() == whole.to_bytes()
    assert concluded(model, whole) == concluded(model, ExactSums.from_bytes(whole.to_bytes()))


@pytest.mark.parametrize("filters", [None, {"min_decile": 6, "region": ["south", "west"]}])
def test_the_result_is_that_of_one_table_of_the_same_twins(model, filters):
    result = concluded(model, sums(model, list(range(7)), filters), filters)
    sizes = [min(BLOCK, TWINS - number * BLOCK) for number in range(7)]
    parts = [model.generate_block(number, n, filters, SEED) for number, n in enumerate(sizes)]
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    like = model.generate(TWINS, filters, SEED)
    table = like.model_copy(update={"frame": frame.assign(**{like.target: parts[0].frame[like.target].std()})})
    direct = engine_on(table).simulate(EMAIL, filters, alternatives=[VISITS])
    assert numbers(result) == pytest.approx(numbers(direct), rel=1e-9)
    assert result.affected_twin_count == direct.affected_twin_count == TWINS
    assert {name: [(g.group, g.n) for g in groups] for name, groups in result.heterogeneity.by_dimension.items()} == {
        name: [(g.group, g.n) for g in groups] for name, groups in direct.heterogeneity.by_dimension.items()
    }
    assert (result.warnings, result.recommendation, result.recommendation_reason, result.required_sample_size) == (
        direct.warnings,
        direct.recommendation,
        direct.recommendation_reason,
        direct.required_sample_size,
    )


def numbers(result: SimulationResult) -> list[float]:
    groups = [group for of_dimension in result.heterogeneity.by_dimension.values() for group in of_dimension]
    change, other = result.change, result.alternatives[0]
    assert change is not None
    return [
        *(result.ate, result.ate_ci_lower, result.ate_ci_upper, result.probability_worthwhile),
        *(change.estimate, change.ci_lower, change.ci_upper, other.ate, other.difference, other.difference_ci_lower),
        *(value for group in groups for value in (group.estimate, group.ci_lower, group.ci_upper)),
    ]


def test_blocks_hold_different_twins_and_an_outcome_is_in_the_first_only(model):
    first, second = (model.generate_block(number, 500, None, SEED) for number in (0, 1))
    assert first.target in first.frame
    assert second.target not in second.frame
    assert not first.frame[list(second.features)].equals(second.frame[list(second.features)])
    again = model.generate_block(1, 500, None, SEED)
    pd.testing.assert_frame_equal(second.frame, again.frame)


def test_filters_that_no_real_row_satisfies_are_refused(model):
    with pytest.raises(EmptyFilter):
        sums(model, [1], {"specialty": ["astrology"]})


def test_populations_of_more_than_a_million_are_in_blocks():
    assert (is_in_blocks(1_000_000), is_in_blocks(1_000_001)) == (False, True)
    assert (block_count(6000), block_count(6001)) == (6, 7)
