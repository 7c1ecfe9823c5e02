"""Relations that hold in every row are found, chance ones are not, and every drawn row keeps them."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest

from engine.twins.joint_fit import fit_joint
from engine.twins.joint_model import JointModel
from engine.twins.marginal import fit_marginal
from engine.twins.relations import find_relations
from schemas.relations import Relation

TEXTS = ["state", "region", "level"]
STATES = {"ME": "north", "VT": "north", "TX": "south", "FL": "south", "NM": "west"}


def claims(n: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Claims with parts, a nearly complete sum with gaps, costs, packs of 30 tablets, list prices, and a decile."""
    rng = np.random.default_rng(seed)
    state = rng.choice(list(STATES), n)
    total = np.round(np.exp(rng.normal(6, 0.9, n))).astype(int) + 20
    generic = rng.binomial(total, rng.beta(8, 2, n))
    brand = (total - generic - rng.binomial(total - generic, 0.03)).astype(float)
    brand[rng.random(n) < 0.1] = np.nan
    packs = rng.poisson(40 + 10 * (state == "TX"), n) + 1
    return pd.DataFrame(
        {
            "state": state,
            "region": [STATES[name] for name in state],
            "old": rng.binomial(total, rng.beta(5, 3, n)),
            "total": total,
            "generic": generic,
            "brand": brand,
            "brand_cost": np.round(brand * np.exp(rng.normal(4, 0.3, n)), 2),
            "cost": np.round(total * np.exp(rng.normal(3, 0.3, n)), 2),
            "tablets": 30 * packs,
            "visits": (visits := rng.poisson(9, n) + 1),
            "minutes": visits * 15,
            "doses": visits * rng.integers(1, 6, n),
            "score": (score := rng.normal(size=n)),
            "decile": pd.qcut(score, 10, labels=False) + 1,
            "change": rng.normal(0, 0.1, n) + 0.1 * (state == "TX"),
        }
    )


def fit(frame: pd.DataFrame, **options: object) -> JointModel:
    defaults = {"categorical": TEXTS, "first": ["region", "decile"], "last": "change", "rng": np.random.default_rng(1)}
    return fit_joint(frame, **(defaults | options))


def formulas(frame: pd.DataFrame, **options: object) -> set[str]:
    marginals = {name: fit_marginal(frame[name], categorical=name in TEXTS) for name in frame}
    return {relation.formula for relation in find_relations(marginals, "change", **options).listed}


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    return claims()


@pytest.fixture(scope="module")
def model(real: pd.DataFrame) -> JointModel:
    return fit(real)


@pytest.fixture(scope="module")
def twins(model: JointModel) -> pd.DataFrame:
    return model.sample(4000, rng=np.random.default_rng(2)).frame


@pytest.mark.parametrize(
    "formula",
    [
        "old <= total",
        "generic + brand <= total",
        "minutes = 15 x visits",
        "doses is a multiple of visits",
        "tablets is a multiple of 30",
        "state determines region",
        "score determines decile",
        "brand and brand_cost are missing together",
    ],
)
def test_a_relation_of_every_row_is_found(real: pd.DataFrame, formula: str) -> None:
    assert formula in formulas(real)


def test_a_sum_that_leaves_nothing_is_an_equation(real: pd.DataFrame) -> None:
    assert "generic + other = total" in formulas(real[["generic", "total"]].assign(other=real["total"] - real["generic"]))


def test_nothing_is_found_between_independent_columns() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"small": rng.random(2000), "large": rng.uniform(5, 9, 2000), "count": rng.poisson(6, 2000)})
    assert formulas(frame.assign(level=rng.choice(["a", "b"], 2000), rank=rng.permutation(2000))) == set()


def test_one_row_that_breaks_a_relation_is_enough_to_drop_it(real: pd.DataFrame) -> None:
    broken = real.copy()
    broken.loc[5, ["old", "region"]] = [broken.loc[5, "total"] + 1, "elsewhere"]
    assert {"old <= total", "state determines region"}.isdisjoint(formulas(broken))


def test_no_relation_is_searched_for_the_outcome(real: pd.DataFrame) -> None:
    assert not any("change" in formula for formula in formulas(real.assign(change=real["total"] / 2)))


def test_no_twin_breaks_a_relation(twins: pd.DataFrame) -> None:
    assert (twins["old"] <= twins["total"]).all()
    assert not (twins["generic"] + twins["brand"] > twins["total"]).any()
    assert (twins["brand"].isna() == twins["brand_cost"].isna()).all()
    assert (twins["minutes"] == 15 * twins["visits"]).all()
    assert (twins["doses"] % twins["visits"] == 0).all()
    assert (twins["tablets"] % 30 == 0).all()
    assert (twins["region"] == twins["state"].map(STATES)).all()
    assert twins.groupby("decile")["score"].max().iloc[:-1].lt(twins.groupby("decile")["score"].min().iloc[1:].to_numpy()).all()


def test_ratios_of_columns_have_their_distribution(real: pd.DataFrame, twins: pd.DataFrame) -> None:
    for part, whole in (("old", "total"), ("cost", "total"), ("generic", "total")):
        ratio, expected = (frame[part] / frame[whole] for frame in (twins, real))
        assert ratio.quantile([0.01, 0.1, 0.5, 0.9, 0.99]).to_numpy() == pytest.approx(
            expected.quantile([0.01, 0.1, 0.5, 0.9, 0.99]).to_numpy(), rel=0.15
        )
    filled = (twins["generic"] + twins["brand"]) / twins["total"]
    assert filled.quantile(0.001) > 0.85
    assert twins["brand"].isna().mean() == pytest.approx(0.1, abs=0.02)


def test_the_training_table_is_restored_exactly(model: JointModel, real: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(model.table(), real, check_exact=True)


def test_filters_on_shares_and_on_determined_columns_hold_in_every_row(model: JointModel, real: pd.DataFrame) -> None:
    allowed = {"old": lambda values: values < 150, "region": lambda values: values == "south", "decile": lambda values: values >= 6}
    drawn = model.sample(1500, rng=np.random.default_rng(3), allowed=allowed)
    assert len(drawn.frame) == 1500
    assert (drawn.frame["old"] < 150).all()
    assert set(drawn.frame["state"]) == {"TX", "FL"}
    assert (drawn.frame["decile"] >= 6).all()
    assert (drawn.frame["old"] <= drawn.frame["total"]).all()
    assert drawn.real_rows == ((real["old"] < 150) & (real["region"] == "south") & (real["decile"] >= 6)).sum()


def test_one_value_of_a_share_can_be_asked_for(model: JointModel, real: pd.DataFrame) -> None:
    value = real["old"].median()
    drawn = model.sample(300, rng=np.random.default_rng(3), allowed={"old": lambda values: values == value}).frame
    assert (drawn["old"] == value).all()
    assert len(drawn) == 300


def test_a_stored_model_draws_the_same_rows_bit_for_bit(model: JointModel) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, **model.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        loaded = JointModel.from_arrays(dict(stored), json.loads(json.dumps(model.meta)))
    for allowed in ({}, {"old": lambda values: values < 100}):
        first, second = (each.sample(1000, rng=np.random.default_rng(7), allowed=allowed).frame for each in (model, loaded))
        pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_a_declared_relation_holds_although_some_real_rows_break_it(real: pd.DataFrame) -> None:
    broken = real.copy()
    broken.loc[:4, "old"] = broken.loc[:4, "total"] + 1
    declared = Relation(kind="not_above", columns=("old", "total"))
    model = fit(broken, relations=[declared])
    twins = model.sample(3000, rng=np.random.default_rng(0)).frame
    assert (twins["old"] <= twins["total"]).all()
    checked = model.decoder.relations.listed[0]
    assert (checked.declared, checked.n, checked.n_broken) == (True, 3000, 5)
    assert str(checked) == "old <= total (declared, 3,000 rows, 5 of them break it)"


def test_a_model_that_was_stored_before_relations_were_found_still_draws() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"state": rng.choice(list(STATES), 500), "calls": rng.normal(size=500), "change": rng.normal(size=500)})
    model = fit(frame, first=[])
    older = {name: value for name, value in model.meta.items() if name not in ("decoder", "followed")}
    loaded = JointModel.from_arrays(model.arrays(), older)
    first, second = (stored.sample(200, rng=np.random.default_rng(1)).frame for stored in (model, loaded))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
