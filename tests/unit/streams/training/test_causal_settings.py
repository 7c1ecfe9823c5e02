from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas import TwinType
from schemas.causal_graphs import CAUSAL_GRAPHS
from streams.settings import Settings
from streams.training.line_training import training_spec

LINE = "hcp:kisqali:prescribing_change"
EDGES = [["specialty", "visit"], ["visit", "prescribing_change"], ["specialty", "prescribing_change"]]


def test_a_graph_of_the_users_own_file_is_learned_by_and_other_twin_types_keep_theirs(tmp_path: Path) -> None:
    file = tmp_path / "graphs.json"
    file.write_text(json.dumps({"hcp": {"treatment": "visit", "edges": EDGES}}), encoding="utf-8")
    given = Settings(causal_graphs=file)
    graph = training_spec(LINE, given, 0).graph
    assert graph is not None
    assert graph.treatment == "visit"
    assert graph.edges == tuple(map(tuple, EDGES))
    assert given.graph_of(TwinType.PATIENT) == CAUSAL_GRAPHS[TwinType.PATIENT]


def test_without_a_file_the_catalogue_is_learned_by() -> None:
    assert training_spec(LINE, Settings(), 0).graph == CAUSAL_GRAPHS[TwinType.HCP]


def test_a_file_that_is_not_there_or_holds_no_graph_is_refused_by_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"causal_graphs: .*nowhere.json cannot be read: No such file"):
        Settings(causal_graphs=tmp_path / "nowhere.json").graph_of(TwinType.HCP)
    file = tmp_path / "graphs.json"
    file.write_text('{"hcp": {"treatment": "coupon", "edges": [["visit", "sales"]]}}', encoding="utf-8")
    with pytest.raises(ValueError, match="'coupon' is in no edge"):
        Settings(causal_graphs=file).graph_of(TwinType.HCP)


def test_how_the_outcome_is_learned_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_MODEL_TYPE", "HistGradientBoosting")
    assert training_spec(LINE, Settings(), 0).model_type == "HistGradientBoosting"
    with pytest.raises(ValueError, match="model_type"):
        Settings(model_type="Perceptron")
