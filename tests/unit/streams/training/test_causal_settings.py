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


def test_a_graph_from_a_file_is_used_for_its_twin_type_and_the_catalogue_for_others(tmp_path: Path) -> None:
    file = tmp_path / "graphs.json"
    file.write_text(json.dumps({"hcp": {"treatment": "visit", "edges": EDGES}}), encoding="utf-8")
    settings = Settings(causal_graphs=file)
    graph = training_spec(LINE, settings, 0).graph
    assert graph is not None
    assert graph.treatment == "visit"
    assert graph.edges == tuple(map(tuple, EDGES))
    assert settings.graph_of(TwinType.PATIENT) == CAUSAL_GRAPHS[TwinType.PATIENT]


def test_without_a_file_the_catalogue_is_used() -> None:
    assert training_spec(LINE, Settings(), 0).graph == CAUSAL_GRAPHS[TwinType.HCP]


def test_a_missing_or_invalid_graph_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"causal_graphs: .*nowhere.json cannot be read: No such file"):
        Settings(causal_graphs=tmp_path / "nowhere.json").graph_of(TwinType.HCP)
    file = tmp_path / "graphs.json"
    file.write_text('{"hcp": {"treatment": "coupon", "edges": [["visit", "sales"]]}}', encoding="utf-8")
    with pytest.raises(ValueError, match="'coupon' is in no edge"):
        Settings(causal_graphs=file).graph_of(TwinType.HCP)


def test_the_model_type_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_MODEL_TYPE", "HistGradientBoosting")
    assert training_spec(LINE, Settings(), 0).model_type == "HistGradientBoosting"
    with pytest.raises(ValueError, match="model_type"):
        Settings(model_type="Perceptron")
