"""Tables of experiments as people export them: analysed, or refused with what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.experiments import analyse_trial
from engine.sample_tables import sample_hcps
from schemas import TWIN_TYPES, PopulationFilter, TwinType
from streams.operations.trial_rows import TrialColumns, TrialRefused, TrialRows, analyse_rows, read_rows
from streams.tables import TableOptions
from tests.models import hcp_model

TARGET = TWIN_TYPES[TwinType.HCP].target()


def pilot(n: int = 400, effect: float = 0.05, **columns: Any) -> pd.DataFrame:
    treated = np.random.default_rng(1).permutation(n) < n // 2
    frame = sample_hcps(n, np.random.default_rng(5)).assign(npi=[f"N{row:04}" for row in range(n)])
    frame["prescribing_change"] += effect * treated
    return frame.assign(**{"arm": np.where(treated, "treated", "control"), **columns})


def names(*first: str) -> list[str]:
    return [*first, *(f"N{row:04}" for row in range(len(first), 400))]


def read(frame: pd.DataFrame, folder: Path, accept: bool = False, **columns: Any) -> TrialRows:
    path = folder / "pilot.csv"
    frame.to_csv(path, index=False)
    return read_rows(path, TwinType.HCP, None, TrialColumns(**columns), TableOptions(), accept=accept)


def test_rows_are_analysed_by_arm_with_the_dimensions_that_they_have(tmp_path: Path) -> None:
    frame = pilot()
    rows = read(frame, tmp_path)
    analysed = analyse_rows(rows, None, PopulationFilter())
    alone = analyse_trial(frame["prescribing_change"], frame["arm"].to_numpy(), TARGET)
    assert analysed.analysis.overall == alone.overall
    assert {group.dimension for group in analysed.analysis.subgroups} == {"specialty", "priority_tier", "region", "adoption_stage"}
    assert analysed.remarks[-1] == "not adjusted for the twin's prediction: the line has no champion"


def test_the_twins_prediction_narrows_the_error_of_rows_that_have_its_features(tmp_path: Path) -> None:
    analysis = analyse_rows(read(pilot(), tmp_path), hcp_model(), PopulationFilter()).analysis
    assert analysis.covariates == ("the twin's prediction",)
    assert analysis.saved > 0.2
    bare = pilot()[["npi", "arm", "prescribing_change"]]
    assert (
        "the table has none of the model's features"
        in analyse_rows(read(bare, tmp_path), hcp_model(), PopulationFilter()).remarks[0]
    )


def test_arms_in_own_words_and_an_outcome_in_an_own_column_are_named(tmp_path: Path) -> None:
    frame = (
        pilot()
        .rename(columns={"prescribing_change": "TRx change", "arm": "wave"})
        .replace({"treated": "Mailed", "control": "holdout"})
    )
    own = {"arm": "wave", "treated_value": "mailed", "control_value": "HOLDOUT", "outcome": "TRx change"}
    rows = read(frame, tmp_path, **own)
    assert rows.treated.sum() == 200
    assert rows.frame["prescribing_change"].tolist() == pytest.approx(frame["TRx change"].tolist())


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        ({"arm": "treated"}, {}, "the control arm is empty: all 400 people are treated"),
        ({"arm": ["Mailed", "holdout"] * 200}, {}, "name the values of the arms with --treated-value and --control-value"),
        ({"arm": ["treated", None] * 200}, {}, "column 'arm' is empty in rows 2, 4"),
        ({"npi": names("N1", "N1"), "arm": ["treated", "control"] * 200}, {}, "1 units .npi. are in both arms, such as 'N1'"),
        ({"npi": names("N1", "N2", "N1"), "arm": ["treated", "control"] * 200}, {}, "1 units .npi. have several rows, such as"),
        ({"clinic": ["a"] * 400}, {"cluster": "clinic"}, "1 of 1 clusters have people of both arms, such as a"),
        ({}, {"cluster": "clinic"}, "unknown column 'clinic': use one of"),
        ({}, {"dimensions": ("clinic",)}, "unknown subgroup of hcp twins 'clinic'"),
        ({}, {"dimensions": ("tier",)}, "'tier' is no feature of hcp twins: it is a filter on 'priority_tier'"),
        (
            {"last_interaction_days": [*range(40)] * 10},
            {"dimensions": ("last_interaction_days",)},
            "'last_interaction_days' is a number with 40 values, and each would be a level of its own: name a category",
        ),
        ({"prescribing_change": [4.0, -7.0, 12.0, 9.0] * 100}, {}, "--accept takes them as they are"),
        ({"prescribing_change": [0.1, 0.2, None, 0.3] * 100}, {}, "have no outcome; --leave-out-missing analyses the others"),
        ({"arm": list("ABCDE") * 80}, {"arm": "arm"}, "holds 'a', 'b', 'c', 'd', 'e', which are none of"),
        ({"arm": list("ABCDE") * 80}, {"treated_value": "A", "control_value": "B"}, "has neither 'a' nor 'b' in rows 3, 4, 5"),
        ({"arm": [1, 0] * 200}, {"outcome": "arm"}, "column 'arm' cannot be the outcome and another column"),
        ({"TRx": 0.1}, {"outcome": "TRx", "covariates": ("prescribing_change",)}, "'prescribing_change' cannot be the outcome and"),
        ({"last": ["high", "low"] * 200}, {"covariates": ("last",)}, "last"),
    ],
)  # fmt: skip
def test_rows_that_contradict_themselves_are_refused_with_a_way_out(
    tmp_path: Path, change: dict[str, Any], columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        analyse_rows(read(pilot(**change), tmp_path, **columns), None, PopulationFilter())


def test_a_number_with_few_values_has_subgroups(tmp_path: Path) -> None:
    rows = read(pilot(decile=[*range(1, 11)] * 40), tmp_path, dimensions=("decile",))
    subgroups = analyse_rows(rows, None, PopulationFilter()).analysis.subgroups
    assert {group.level for group in subgroups if group.dimension == "decile"} == {str(level) for level in range(1, 11)}


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrialRefused, match=r"pilot\.csv has no rows"):
        read(pilot()[:0], tmp_path)


def test_outcomes_in_percent_are_refused_or_confirmed_and_percent_signs_are_read(tmp_path: Path) -> None:
    frame = pilot()
    percent = frame.assign(prescribing_change=100 * frame["prescribing_change"])
    with pytest.raises(TrialRefused, match="percent"):
        read(percent, tmp_path)
    assert read(percent, tmp_path, accept=True).frame["prescribing_change"].abs().max() > 3
    signs = frame.assign(prescribing_change=[f"{100 * value:.10f}%" for value in frame["prescribing_change"]])
    assert read(signs, tmp_path).frame["prescribing_change"].tolist() == pytest.approx(frame["prescribing_change"].tolist())


def test_rows_outside_of_the_filters_are_refused(tmp_path: Path) -> None:
    rows = read(pilot(), tmp_path)
    with pytest.raises(TrialRefused, match=r"of 400 rows do not satisfy region in south, the first in row \d+"):
        analyse_rows(rows, None, PopulationFilter(region=["south"]))
    south = pilot().query("region == 'south'")
    analyse_rows(read(south, tmp_path), None, PopulationFilter(region=["south"]))


def test_the_last_time_of_the_rows_is_when_the_experiment_ended(tmp_path: Path) -> None:
    times = pd.date_range("2026-01-01", periods=400, freq="h", tz="UTC")
    assert read(pilot(observed_at=times.astype(str)), tmp_path).observed_at == times[-1]
    assert read(pilot(), tmp_path).observed_at is None


def test_people_without_an_outcome_are_left_out_on_request_and_an_uneven_loss_is_told(tmp_path: Path) -> None:
    frame = pilot()
    is_treated = (frame["arm"] == "treated").to_numpy()
    lost = np.isin(np.arange(400), np.concatenate([np.flatnonzero(is_treated)[:30], np.flatnonzero(~is_treated)[:5]]))
    path = tmp_path / "pilot.csv"
    frame.assign(prescribing_change=frame["prescribing_change"].mask(lost)).to_csv(path, index=False)
    rows = read_rows(path, TwinType.HCP, None, TrialColumns(), TableOptions(), leave_out_missing=True)
    assert rows.remarks[-1].startswith(
        "30 of 200 treated (15.0%) and 5 of 200 control (2.5%) people have no outcome, which is uneven (Fisher's exact test, p = 1"
    )
    alone = analyse_trial(frame["prescribing_change"][~lost], is_treated[~lost], TARGET)
    assert analyse_rows(rows, None, PopulationFilter()).analysis.overall.effect == pytest.approx(alone.overall.effect)


def test_a_yes_or_no_outcome_is_a_difference_of_shares_and_a_weight_is_told_not_to_count(tmp_path: Path) -> None:
    frame = pilot()[["npi", "arm"]].assign(prescribing_change=(np.arange(400) % 3 == 0).astype(int), weight=2.0)
    with pytest.raises(TrialRefused, match="looks like a flag, not a change"):
        read(frame, tmp_path)
    rows = read(frame, tmp_path, accept=True)
    shares = frame.groupby("arm")["prescribing_change"].mean()
    analysed = analyse_rows(rows, None, PopulationFilter())
    assert analysed.analysis.overall.effect == pytest.approx(shares["treated"] - shares["control"])
    assert "column 'weight' is not used: every row counts once" in analysed.remarks


def test_a_level_that_the_model_never_saw_is_told(tmp_path: Path) -> None:
    frame = pilot()
    frame.loc[:9, "specialty"] = "astrology"
    remarks = analyse_rows(read(frame, tmp_path), hcp_model(), PopulationFilter()).remarks
    assert any(
        remark.startswith("specialty has a level that the model never saw in 10 of 400 rows: 'astrology'") for remark in remarks
    )
