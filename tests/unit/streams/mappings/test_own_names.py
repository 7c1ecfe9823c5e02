"""Names of own features and of columns in other alphabets, and levels of which the catalogue declares some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from schemas import BUILT_IN, TwinType, in_effect
from streams.mappings import guess_columns, profile_table
from streams.mappings.choices import own_name
from streams.mappings.names import likeness
from streams.tables import TableOptions, frame_table
from streams.training.mapped_import import Proposal, propose

N = 80
POLISH = BUILT_IN.with_entries({"levels": {"specialty": {f"s{place}": [f"Kod {place}"] for place in range(7)}}})


def proposed(folder: Path, *answers: str) -> Proposal:
    frame = pd.DataFrame(
        {
            "Nr": [f"A{row}" for row in range(N)],
            "Регион": ["Київ", "Львів"] * (N // 2),
            "Łóżka": np.arange(N) % 9,
            "Lożka": np.arange(N) % 7,
            "※": np.arange(N) % 5,
        }
    )
    path = folder / "own.csv"
    frame.to_csv(path, index=False)
    return propose(path, TwinType.HCP, TableOptions(), folder / "mappings", ["Nr=entity_id", *answers])


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Próbki PLN", "probki_pln"),
        ("Ścieżka", "sciezka"),
        ("Zł/mies", "zl_mies"),
        ("Größe der Praxis", "grosse_der_praxis"),
        ("Фах", "fakh"),
        ("Tot Rx 2023", "total_prescriptions_2023"),
        ("120 wizyt", "column_120_wizyt"),
        ("地域", "de_yu"),
        ("※", ""),
    ],
)
def test_a_name_is_made_of_whole_words_in_letters_a_to_z(header, name):
    assert own_name(header) == name


def test_an_own_feature_may_be_named_and_read_by_a_rule(tmp_path):
    columns = proposed(tmp_path, "Регион=own:region_ua", "Łóżka=own:beds:percent").mapping(None).columns
    assert (columns["region_ua"].column, columns["region_ua"].by) == ("Регион", "value")
    assert (columns["beds"].column, columns["beds"].by) == ("Łóżka", "percent")


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        (["※=own"], "'※' has no letters that make a name"),
        (["Регион=own"], "'Регион' as 'region' is a declared column"),
        (["Łóżka=own", "Lożka=own"], "'Łóżka' and 'Lożka' would both be lozka"),
        (["Łóżka=region:value", "Регион=region:value"], "'Łóżka' and 'Регион' would both be region"),
        (["Łóżka=own:łóżka"], "'łóżka' is no name of a feature"),
        (["Łóżka=own:percnt"], "'percnt' is like the rule percent"),
    ],
)
def test_names_that_are_empty_or_taken_are_refused_with_the_columns(tmp_path, answers, problem):
    with pytest.raises(ValueError, match="own") as refused:
        proposed(tmp_path, *answers)
    assert problem in str(refused.value)


def test_names_compare_without_accents():
    assert likeness("Przyrost pacjentów", ["przyrost pacjentow"])[0] == 1.0


@pytest.mark.parametrize(("n_declared", "is_used"), [(7, True), (5, False)])
def test_levels_of_which_some_are_declared_count_by_their_share_and_the_others_are_told(n_declared, is_used):
    levels = [*(f"kod {place}" for place in range(n_declared)), *(f"inny {place}" for place in range(8 - n_declared))]
    frame = pd.DataFrame({"Kolumna": np.resize(levels, N)})
    with in_effect(POLISH):
        (guess,) = guess_columns(profile_table(frame_table(frame), TableOptions()), TwinType.HCP)
    candidate = guess.use or guess.best
    assert candidate is not None
    assert candidate.feature == "specialty"
    assert (guess.use is not None) == is_used
    assert candidate.score == pytest.approx(0.6 * 0.6 + 0.4 * n_declared / 8)
    assert "not declared are 'inny 0' 10" in candidate.reason
