"""The repository on a real PostgreSQL: what comes out is what went in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import numpy as np
import pandas as pd
import pytest

from schemas import Baseline, Brand, DigitalTwin, ModelCard, PopulationFilter, TwinModelMetrics, TwinPopulation, TwinType
from schemas.filters import conditions, rows_matching
from schemas.realism import RealismReport
from schemas.twin_models import Histogram
from sql.database import NoPostgresAddress, connect
from sql.population_realism_store import FilterRealism, save_realism
from sql.twin_repository import TwinRepository, UnknownModel, UnknownPopulation, UnknownTwin

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
async def database(fresh_database: str) -> str:
    return fresh_database


@pytest.fixture
async def repository(database: str) -> AsyncIterator[TwinRepository]:
    async with TwinRepository(database) as opened:
        yield opened


def card(features: tuple[str, ...], twin_type: TwinType = TwinType.HCP, brand: Brand = Brand.KISQALI, **more: Any) -> ModelCard:
    targets = {
        TwinType.HCP: "prescribing_change",
        TwinType.PATIENT: "journey_progression_days",
        TwinType.TERRITORY: "market_share_change",
    }
    return ModelCard(
        model_id=uuid4(),
        twin_type=twin_type,
        brand=brand,
        target=targets[twin_type],
        model_type="RandomForest",
        features=features,
        hyperparameters={"n_estimators": 100, "max_features": 1 / 3},
        training_samples=2000,
        metrics=TwinModelMetrics(
            train_r2=0.7, train_mae=0.05, train_rmse=0.1, cv_r2_mean=0.6, cv_r2_std=0.02, fidelity=0.8, training_samples=2000
        ),
        baseline=Baseline(
            n=2000, mae=0.1, rmse=0.13, correlation=0.8, center=0.02, scale=0.2, clip=0.6, clipped_mean=0.15, clipped_sd=0.1
        ),
        **more,
    )


def hcps(n: int, seed: int = 0, **more: Any) -> TwinPopulation:
    """Twins whose columns have every dtype that a generator hands out, with missing values where a dtype can hold them."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "specialty": rng.choice(["oncology", "neurology", 'né "quoted" \\ 100%'], n),
            "region": np.array(["west", None, "east"] * n, dtype=object)[:n],
            "practice_type": pd.Categorical(
                rng.choice(["solo", "group"], n), categories=["solo", "group", "hospital"], ordered=True
            ),
            "decile": rng.integers(1, 11, n),
            "priority_tier": pd.array(rng.integers(1, 6, n), dtype="Int64"),
            "digital_engagement_score": np.where(np.arange(n) % 7 == 3, np.nan, rng.random(n)),
            "peer_influence_score": rng.random(n).astype("float32"),
            "prescribing_change": rng.normal(0, 0.3, n),
            "baseline_behavior": rng.normal(0, 0.1, n),
        }
    )
    frame.loc[0, "priority_tier"] = pd.NA
    frame["baseline_lower"] = frame["baseline_behavior"] - 0.2
    frame["baseline_upper"] = frame["baseline_behavior"] + 0.2
    return population(frame, card(tuple(frame.columns[:7])), seed=seed, **more)


def population(frame: pd.DataFrame, model: ModelCard, **more: Any) -> TwinPopulation:
    fields = {"population_id": uuid4(), "model_id": model.model_id, "name": "twins", "twin_count": len(frame), **more}
    return TwinPopulation(model=model, frame=frame, **fields)


def dump(twins: TwinPopulation) -> dict[str, Any]:
    return twins.model_dump(exclude={"created_at": True, "model": {"trained_at"}})


async def test_a_population_is_loaded_as_it_was_saved(repository: TwinRepository) -> None:
    saved = hcps(500, filters_applied={"specialty": ["oncology"], "min_decile": 3}, real_rows=77, description="of a test")
    assert await repository.save_population(saved) == saved.population_id
    loaded = await repository.load_population(saved.population_id)
    pd.testing.assert_frame_equal(loaded.frame, saved.frame, check_exact=True)
    assert dump(loaded) == dump(saved)
    assert loaded.twin_ids == saved.twin_ids
    assert loaded.created_at is not None
    assert loaded.model.trained_at is not None


async def test_a_population_without_drawn_outcomes_or_intervals_is_loaded_without_them(repository: TwinRepository) -> None:
    model = card(("region",), TwinType.TERRITORY)
    saved = population(pd.DataFrame({"region": ["west", "east"], "baseline_behavior": [0.1, -0.2]}), model)
    await repository.save_population(saved)
    loaded = await repository.load_population(saved.population_id)
    pd.testing.assert_frame_equal(loaded.frame, saved.frame, check_exact=True)
    assert loaded.twins[0].metadata["outcome"] is None


async def test_the_realism_report_of_a_filter_is_stored_only_with_populations_of_this_filter(
    repository: TwinRepository, database: str
) -> None:
    report = RealismReport(
        auc=0.52,
        marginal_score=0.99,
        association_error=0.01,
        exact_copies=0.0,
        near_copies=0.05,
        closer_to_training=0.51,
        n_synthetic=400,
        n_held_out=400,
    )
    south = hcps(3).model_copy(update={"filters_applied": {"region": ["south"]}})
    everyone = south.model_copy(update={"population_id": uuid4(), "filters_applied": {}})
    await repository.save_population(south)
    await repository.save_population(everyone)
    connection = await connect(database)
    try:
        assert await save_realism(connection, south.model_id, FilterRealism({"region": ["south"]}, report)) == 1
    finally:
        await connection.close()
    assert (await repository.load_population(south.population_id)).realism == report
    assert (await repository.load_population(everyone.population_id)).realism == everyone.realism
    await repository.save_population(south)  # again, without the figures
    assert (await repository.load_population(south.population_id)).verdict == report.verdict


async def test_rows_keep_their_order_beyond_one_statement(repository: TwinRepository) -> None:
    n = 45_000
    frame = pd.DataFrame({"decile": np.arange(n) % 10 + 1, "baseline_behavior": np.arange(n, dtype=float)})
    saved = population(frame, card(("decile",)))
    await repository.save_population(saved)
    loaded = await repository.load_population(saved.population_id)
    pd.testing.assert_frame_equal(loaded.frame, frame, check_exact=True)


async def test_saving_is_idempotent_also_when_concurrent(repository: TwinRepository, database: str) -> None:
    saved = hcps(300)
    await asyncio.gather(*(repository.save_population(saved) for _ in range(3)))
    connection = await connect(database)
    counts = [
        await connection.fetchval(f"SELECT count(*) FROM {table}")
        for table in ("twin_populations", "digital_twins", "twin_population_members", "digital_twin_models")
    ]
    await connection.close()
    assert counts == [1, 300, 300, 1]


async def test_an_unknown_column_is_refused_by_name(repository: TwinRepository) -> None:
    frame = pd.DataFrame({"decile": [1], "baseline_behavior": [0.0], "shoe_size": [44]})
    with pytest.raises(ValueError, match="shoe_size"):
        await repository.save_population(population(frame, card(("decile",))))


async def test_an_infinite_feature_is_refused_and_nothing_is_stored(repository: TwinRepository) -> None:
    frame = pd.DataFrame({"market_share": [np.inf], "baseline_behavior": [0.0]})
    endless = population(frame, card(("market_share",), TwinType.TERRITORY))
    with pytest.raises(ValueError, match="not JSON compliant"):
        await repository.save_population(endless)
    with pytest.raises(UnknownPopulation):
        await repository.load_population(endless.population_id)


async def test_twins_with_ids_of_their_own_keep_them_and_can_be_in_two_populations(repository: TwinRepository) -> None:
    frame = pd.DataFrame({"region": ["west", "east"] * 10, "decile": range(20), "baseline_behavior": np.linspace(0, 1, 20)})
    first = population(frame, card(("region", "decile")))
    await repository.save_population(first)
    shared = first.twins[5:15]
    second = TwinPopulation(population_id=uuid4(), model_id=first.model_id, name="some of them", model=first.model, twins=shared)
    await repository.save_population(second)
    loaded = await repository.load_population(second.population_id)
    assert loaded.twin_ids == tuple(twin.twin_id for twin in shared)
    pd.testing.assert_frame_equal(loaded.frame, second.frame)
    pd.testing.assert_frame_equal((await repository.load_population(first.population_id)).frame, first.frame)


async def test_a_twin_of_a_population_has_its_model_version_date_and_fidelity(repository: TwinRepository) -> None:
    saved = hcps(3)
    await repository.save_population(saved)
    twin, record = await repository.load_twin(saved.twin_ids[2]), await repository.twin_record(saved.twin_ids[2])
    trained_at = (await repository.load_model(saved.model_id)).trained_at
    assert trained_at is not None
    expected = saved.twins[2]
    assert (twin.features, twin.baseline_behavior) == (expected.features, expected.baseline_behavior)
    assert twin.metadata == expected.metadata | {"model_trained_at": trained_at.isoformat()}
    assert (record.model_id, record.trained_at, record.model_fidelity, record.mae) == (saved.model_id, trained_at, 0.8, None)


async def test_one_twin_is_saved_loaded_and_saved_again(repository: TwinRepository) -> None:
    model = hcps(1)
    await repository.save_population(model)
    twin = DigitalTwin(
        twin_id=uuid4(),
        model_id=model.model_id,
        twin_type=TwinType.HCP,
        features={"specialty": "oncology", "decile": 4, "practice_type": None},
        baseline_behavior=0.25,
        metadata={"outcome": 0.5, "note": "of a test"},
    )
    assert await repository.save_twin(twin) == twin.twin_id
    assert await repository.load_twin(twin.twin_id) == twin
    changed = twin.model_copy(update={"metadata": {"outcome": None}})
    await repository.save_twin(changed)
    assert await repository.load_twin(twin.twin_id) == changed


async def test_unknown_ids_are_refused_by_name(repository: TwinRepository) -> None:
    lost = uuid4()
    twin = DigitalTwin(twin_id=lost, model_id=lost, twin_type=TwinType.HCP, features={}, baseline_behavior=0)
    for error, attempt in (
        (UnknownTwin, repository.load_twin(lost)),
        (UnknownTwin, repository.twin_record(lost)),
        (UnknownPopulation, repository.load_population(lost)),
        (UnknownModel, repository.load_model(lost)),
        (UnknownModel, repository.save_twin(twin)),
    ):
        with pytest.raises(error, match=str(lost)):
            await attempt


FILTERS: list[dict[str, Any]] = [
    {},
    {"specialty": ["oncology"], "tier": [1, 2]},
    {"specialty": "oncology", "min_decile": 4, "max_decile": 8},
    {"specialty": 'né "quoted" \\ 100%'},
    {"specialty": "x' OR true --"},
    {"region": ["west"], "min_digital_engagement_score": 0.5},
    {"decile": [3.0, 7]},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
async def test_a_query_finds_the_twins_that_satisfy_the_filters(repository: TwinRepository, filters: dict[str, Any]) -> None:
    saved = hcps(400)
    await repository.save_population(saved)
    expected = rows_matching(saved.frame, conditions(TwinType.HCP, filters))
    matching = {twin.twin_id for twin in await repository.query_twins({**filters, "twin_type": "hcp"})}
    assert matching == {twin_id for twin_id, is_match in zip(saved.twin_ids, expected, strict=True) if is_match}


async def test_a_query_finds_levels_in_any_spelling_codes_flags_and_columns_of_a_models_own(repository: TwinRepository) -> None:
    frame = pd.DataFrame(
        {
            "specialty": ["Oncology", "oncology", "Übung", None],
            "region": ["1", "01", "2", "1"],
            "trx_growth": [0.1, 0.5, np.nan, 0.7],
            "formulary": ["Tier 1", "x", "tier 1", "x"],
            "baseline_behavior": [0.0] * 4,
        }
    )
    saved = population(frame, card(("specialty", "region", "trx_growth", "formulary")))
    inputs = {
        "formulary": Histogram(levels=("Tier 1", "x"), counts=(2, 2)),
        "trx_growth": Histogram(edges=(0.3,), counts=(1, 2, 1)),
    }
    baseline = saved.model.baseline.model_copy(update={"inputs": inputs})
    saved = saved.model_copy(update={"model": saved.model.model_copy(update={"baseline": baseline})})
    await repository.save_population(saved)
    for filters, rows in [
        ({"specialty": "ONCOLOGY "}, [0, 1]),
        ({"specialty": " Übung"}, [2]),
        ({"region": 1}, [0, 3]),
        ({"region": [1.0, "01"]}, [0, 1, 3]),
        ({"min_trx_growth": 0.4}, [1, 3]),
        ({"formulary": "TIER 1", "trx_growth": "0.1"}, [0]),
    ]:
        twins = await repository.query_twins(filters)
        assert {twin.twin_id for twin in twins} == {saved.twin_ids[row] for row in rows}, filters
    covered = pd.DataFrame({"insurance_coverage_flag": [1.0, 0.0, np.nan], "baseline_behavior": [0.0] * 3})
    patients = population(covered, card(("insurance_coverage_flag",), TwinType.PATIENT))
    await repository.save_population(patients)
    assert [twin.twin_id for twin in await repository.query_twins({"insurance_coverage_flag": True})] == [patients.twin_ids[0]]


async def test_brand_model_and_limit_narrow_a_query(repository: TwinRepository) -> None:
    first = hcps(5)
    second = population(first.frame, card(first.features, brand=Brand.FABHALTA))
    for saved in (first, second):
        await repository.save_population(saved)
    assert {t.model_id for t in await repository.query_twins({"brand": "fabhalta"})} == {second.model_id}
    assert {t.model_id for t in await repository.query_twins({"model_id": str(first.model_id)})} == {first.model_id}
    assert len(await repository.query_twins({"limit": 3})) == 3
    assert len(await repository.query_twins(PopulationFilter(min_decile=1))) == 10


async def test_without_a_twin_type_a_filter_finds_twins_of_every_type_that_has_it(repository: TwinRepository) -> None:
    west = pd.DataFrame({"region": ["west", "east"], "baseline_behavior": [0.0, 0.0]})
    territories = population(west, card(("region",), TwinType.TERRITORY))
    patients = population(west.rename(columns={"region": "geographic_region"}), card(("geographic_region",), TwinType.PATIENT))
    for saved in (territories, patients):
        await repository.save_population(saved)
    twins = await repository.query_twins({"region": "west"})
    assert {twin.twin_id for twin in twins} == {territories.twin_ids[0], patients.twin_ids[0]}


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        ({"shoe_size": 44}, "shoe_size"),
        ({"twin_type": "territory", "specialty": "oncology"}, "specialty"),
        ({"brand": "aspirin"}, "fabhalta, kisqali, remibrutinib"),
        ({"twin_type": "robot"}, "hcp, patient, territory"),
        ({"model_id": "seven"}, "seven"),
        ({"limit": 0}, "limit 0"),
    ],
)
async def test_an_invalid_query_is_refused_with_the_reason(repository: TwinRepository, filters: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        await repository.query_twins(filters)


async def test_expired_populations_are_not_loaded_and_then_deleted(repository: TwinRepository) -> None:
    expired, stays = hcps(10, expires_at=NOW), hcps(10, seed=1, expires_at=datetime.now(UTC) + timedelta(days=1))
    for saved in (expired, stays):
        await repository.save_population(saved)
    with pytest.raises(UnknownPopulation, match="expired at 2026-03-01"):
        await repository.load_population(expired.population_id)
    assert [record.population_id for record in await repository.populations()] == [stays.population_id]
    assert await repository.expire_populations(NOW) == 1
    assert await repository.expire_populations(NOW) == 0
    assert {twin.twin_id for twin in await repository.query_twins({})} == set(stays.twin_ids)
    with pytest.raises(UnknownPopulation, match="no population"):
        await repository.load_population(expired.population_id)


async def outcome_of(database: str, twin_id: UUID, population_id: UUID) -> None:
    connection = await connect(database)
    await connection.execute(
        """INSERT INTO fidelity_tracking (tracking_id, twin_id, population_id, predicted_value, actual_value, metric_type,
                                          tracked_at, event_id, revision, digest, fate, line, observed_at, source, source_offset,
                                          element)
           VALUES ($1, $2, $3, 0, 0, 'prescribing_change', $4, $1, 0, '', 'counted', 'line', $4, 't:0:0', 0, 0)""",
        uuid4(),
        twin_id,
        population_id,
        NOW,
    )
    await connection.close()


async def test_expiry_keeps_the_twins_and_the_recipe_that_an_outcome_refers_to(repository: TwinRepository, database: str) -> None:
    expired = hcps(10, expires_at=NOW)
    await repository.save_population(expired)
    await outcome_of(database, expired.twin_ids[4], expired.population_id)
    assert await repository.expire_populations(NOW) == 1
    assert [twin.twin_id for twin in await repository.query_twins({})] == [expired.twin_ids[4]]


async def test_expiry_keeps_twins_of_another_population(repository: TwinRepository) -> None:
    expired = hcps(10, expires_at=NOW)
    unexpired = TwinPopulation(
        population_id=uuid4(), model_id=expired.model_id, name="other", model=expired.model, twins=expired.twins[:2]
    )
    for saved in (expired, unexpired):
        await repository.save_population(saved)
    await repository.expire_populations(NOW)
    assert (await repository.load_population(unexpired.population_id)).twin_ids == unexpired.twin_ids


async def test_a_population_of_the_briefs_six_fields_is_stored_with_its_stored_model(repository: TwinRepository) -> None:
    made = hcps(10)
    plain = TwinPopulation(
        population_id=uuid4(), model_id=made.model_id, name="plain", twin_count=10, twins=made.twins, filters_applied={}
    )
    with pytest.raises(UnknownModel, match=str(made.model_id)):
        await repository.save_population(plain)
    await repository.save_population(made)
    await repository.save_population(plain)
    assert [twin.twin_id for twin in (await repository.load_population(plain.population_id)).twins] == list(made.twin_ids)


async def test_twins_are_found_by_their_population(repository: TwinRepository) -> None:
    first, second = hcps(10), hcps(5, seed=1)
    for made in (first, second):
        await repository.save_population(made)
    found = await repository.query_twins({"population_id": second.population_id})
    assert {twin.twin_id for twin in found} == set(second.twin_ids)
    assert await repository.query_twins({"population_id": str(uuid4())}) == []
    with pytest.raises(ValueError, match="population_id 'mine' is not a UUID"):
        await repository.query_twins({"population_id": "mine"})


async def test_a_repository_without_address_names_the_missing_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWIN_POSTGRES_DSN", raising=False)
    with pytest.raises(NoPostgresAddress, match="TWIN_POSTGRES_DSN"):
        await TwinRepository().load_twin(uuid5(UUID(int=0), "any"))


async def test_a_repository_without_argument_reads_the_address_from_the_environment(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_POSTGRES_DSN", database)
    saved = hcps(2)
    async with TwinRepository() as repository:
        await repository.save_population(saved)
    async with TwinRepository(database) as reader:
        assert (await reader.load_population(saved.population_id)).twin_ids == saved.twin_ids
