"""Answers to what a column is: checked against its cells; and which of several saved mappings an import starts from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from schemas import TwinType, in_effect
from schemas.catalogue import BUILT_IN
from streams.cli.importing import _refuse_other_mapping
from streams.mappings import save_mapping
from streams.operations.trial_rows import TrialColumns, read_rows
from streams.tables import TableMapping, TableOptions
from streams.training.mapped_import import Proposal, import_by_mapping, propose

GERMAN = BUILT_IN.with_entries(
    {
        "levels": {
            "specialty": {"cardiology": ["Kardiologie"], "oncology": ["Onkologie"]},
            "region": {"northeast": ["Nord-Ost"], "south": ["Süd"]},
        }
    }
)
N = 80


@pytest.fixture(autouse=True)
def _german():
    with in_effect(GERMAN):
        yield


def doctors(folder: Path, **more) -> Path:
    frame = pd.DataFrame(
        {
            "Arzt-Nr": [f"A{row:04}" for row in range(N)],
            "Fachrichtung": ["Kardiologie", "Onkologie"] * (N // 2),
            "Gebiet": ["Nord-Ost", "Süd"] * (N // 2),
            "Patienten": [5 + 3 * row for row in range(N)],
            "Praxis": [f"P{row // 4}" for row in range(N)],
            "Besuche": [row % 7 for row in range(N)],
            "Veränderung VO": [f"{(row % 11 - 5) / 50:.3f}".replace(".", ",") for row in range(N)],
            "Anteil": [f"{row % 30 - 10} %" for row in range(N)],
            **more,
        }
    )
    path = folder / "aerzte.csv"
    frame.to_csv(path, sep=";", index=False)
    return path


def proposed(folder: Path, *answers: str, **options) -> Proposal:
    return propose(doctors(folder), TwinType.HCP, TableOptions(), folder / "mappings", answers, **options)


def reason(proposal: Proposal, column: str) -> str:
    (use,) = [guess.use for guess in proposal.guesses if guess.profile.name == column]
    assert use is not None
    return use.reason


@pytest.mark.parametrize(
    ("answer", "doubt"),
    [
        ("Patienten=prescribing_change", "whole numbers from 5 to 242 are counts"),
        ("Fachrichtung=region", "its values are levels that the catalogue declares for specialty"),
        ("Gebiet=specialty", "its values are levels that the catalogue declares for region"),
        ("Patienten=digital_engagement_score", "from 5 to 242, beyond the bounds"),
    ],
)
def test_an_answer_that_the_cells_contradict_is_refused_with_the_way_to_insist(tmp_path, answer, doubt):
    with pytest.raises(ValueError, match=r"say how to read (it|them): ") as refused:
        proposed(tmp_path, answer)
    assert doubt in str(refused.value) or "digital" in answer


@pytest.mark.parametrize(
    ("answer", "doubt"),
    [
        ("Patienten=prescribing_change:percent", "though whole numbers from 5 to 242 are counts, and no changes in percent"),
        ("Patienten=prescribing_change:value", "though its values are from 5 to 242, and plausible ones from"),
        ("Fachrichtung=region:value", "though its values are levels that the catalogue declares for specialty"),
        ("Besuche=years_experience:years_before 2025", "though it holds no years"),
        ("Fachrichtung=region:us_region", "though 0% of its values are US states"),
    ],
)
def test_who_insists_with_a_rule_is_believed_and_told(tmp_path, answer, doubt):
    assert doubt in reason(proposed(tmp_path, answer), answer.partition("=")[0])


@pytest.mark.parametrize(
    "answer",
    [
        "Veränderung VO=prescribing_change:value",
        "Veränderung VO=prescribing_change",
        "Anteil=prescribing_change:percent",
        "Anteil=prescribing_change:value",
        "Fachrichtung=specialty:value",
        "Gebiet=region",
        "Patienten=decile:decile",
        "Arzt-Nr=entity_id",
    ],
)
def test_answers_that_fit_are_taken_without_a_doubt(tmp_path, answer):
    assert reason(proposed(tmp_path, answer), answer.partition("=")[0]) == "as you asked"


def saved(folder: Path, name: str, *answers: str) -> TableMapping:
    mapping = proposed(folder, *answers, **({} if name == "a" else {"save_as": name})).mapping(name)
    save_mapping(mapping, folder / "mappings" / f"{name}.yaml")
    return mapping


def test_an_import_starts_from_the_mapping_that_it_is_saved_as_and_refuses_to_choose_among_others(tmp_path):
    first = saved(tmp_path, "a", "Patienten=total_patient_volume", "Arzt-Nr=entity_id")
    save_mapping(first.model_copy(update={"name": "b"}), tmp_path / "mappings" / "b.yaml")
    assert proposed(tmp_path, save_as="b").earlier == first.model_copy(update={"name": "b"})
    for name in (None, "c"):
        with pytest.raises(ValueError, match="several saved mappings fit, a, b: name the one to start from"):
            proposed(tmp_path, save_as=name)
    anew = propose(doctors(tmp_path), TwinType.HCP, TableOptions(ignores_mappings=True), tmp_path / "mappings")
    assert anew.earlier is None


def test_a_mapping_of_another_table_is_not_written_over(tmp_path):
    saved(tmp_path, "a", "Patienten=total_patient_volume")
    other = tmp_path / "other.csv"
    pd.DataFrame({"NPI": range(N), "Decile": [row % 10 + 1 for row in range(N)]}).to_csv(other, index=False)
    proposal = propose(other, TwinType.HCP, TableOptions(), tmp_path / "mappings")
    with pytest.raises(ValueError, match=r"is the mapping of another table, with .*Patienten"):
        _refuse_other_mapping(tmp_path / "mappings" / "a.yaml", proposal)
    _refuse_other_mapping(tmp_path / "mappings" / "new.yaml", proposal)


def test_columns_that_a_mapping_leaves_out_or_reads_as_features_are_there_for_who_names_them(tmp_path):
    mapping = saved(
        tmp_path,
        "a",
        "Arzt-Nr=entity_id",
        "Veränderung VO=prescribing_change",
        "Praxis=",
        "Besuche=",
        "Patienten=decile:decile",
    )
    arms = ["ja" if row // 4 % 2 else "nein" for row in range(N)]
    path = doctors(tmp_path, Los=arms)
    columns = TrialColumns(
        arm="Los", treated_value="ja", control_value="nein", cluster="Praxis", covariates=("Besuche", "Patienten"), unit="Arzt-Nr"
    )
    rows = read_rows(path, TwinType.HCP, None, columns, TableOptions(mapping=mapping))
    assert rows.frame["Praxis"].nunique() == N // 4
    assert rows.frame["Besuche"].tolist()[:8] == [0, 1, 2, 3, 4, 5, 6, 0]
    assert rows.frame["Patienten"].tolist()[:2] == [5, 8]
    assert set(rows.frame["decile"]) == set(range(1, 11))
    assert not any("Praxis" in remark for remark in rows.remarks)
    with pytest.raises(ValueError, match="'Ort'"):
        read_rows(path, TwinType.HCP, None, TrialColumns(arm="Los", cluster="Ort"), TableOptions(mapping=mapping))


FLAGGED = BUILT_IN.with_entries({"twin_types": {"hcp": {"features": {"vertrag": {"kind": "flag"}}}}})


def test_yes_and_no_in_another_language_are_refused_with_the_way_that_reads_them(tmp_path: Path):
    with in_effect(FLAGGED):
        path = doctors(tmp_path, Vertrag=["ja", "nein"] * (N // 2))
        with pytest.raises(ValueError, match=r"Vertrag=vertrag:value.* levels: \{\"ja\": \"yes\", \"nein\": \"no\"\}"):
            propose(path, TwinType.HCP, TableOptions(), tmp_path / "mappings", ["Vertrag=vertrag"])
        answers = ["Arzt-Nr=entity_id", "Veränderung VO=prescribing_change", "Vertrag=vertrag:value"]
        proposal = propose(path, TwinType.HCP, TableOptions(), tmp_path / "mappings", answers)
        saved = tmp_path / "mappings/aerzte.yaml"
        save_mapping(proposal.mapping(None), saved)
        text = saved.read_text()
        assert "column: Vertrag\n" in text
        saved.write_text(text.replace("column: Vertrag\n", 'column: Vertrag\n    levels: {"ja": "yes", "nein": "no"}\n'))
        again = propose(path, TwinType.HCP, TableOptions(), tmp_path / "mappings")
        assert again.mapping(None) == again.earlier
        imported = import_by_mapping(again, again.mapping(None), None)
    assert imported.frame["vertrag"].tolist() == [True, False] * (N // 2)
