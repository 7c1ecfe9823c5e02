"""Models in a real MLflow store: they are read back bit for bit, and files that are not trusted are refused."""

import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlparse
from uuid import uuid5

import numpy as np
import pytest
import sklearn
import skops.io
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.preprocessing import FunctionTransformer

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from engine.twins import ModelParts
from schemas import Brand, ModelCard, TwinType
from sql.model_card_rows import Artifact
from streams.registry.importance_plot import draw_importance
from streams.registry.mlflow_registry import MlflowRegistry, prepare_store, registered_name
from streams.registry.serialization import UntrustedModel, digest_of, read_parts, write_parts
from tests.models import hcp_model

LINE = "hcp:kisqali:prescribing_change"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    prepare_store(uri)
    return MlflowRegistry(uri)


@pytest.fixture(scope="module")
def generator(registry):
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1, registry=registry)
    generator._model = hcp_model()
    return generator


@pytest.fixture(scope="module")
def model(generator):
    return generator.model


def another(model, name):
    """A model of the same line with an id of its own."""
    return model.with_card(model.card.model_copy(update={"model_id": uuid5(model.card.model_id, name)}))


@pytest.fixture(scope="module")
def artifact(registry, model):
    return registry.save(model)


@pytest.fixture
def stored(tmp_path, model):
    """A model's folder and its digest, for a test to change."""
    folder = tmp_path / "model"
    return folder, write_parts(model.to_parts(), folder)


def run_of(registry, artifact):
    return registry.client.get_run(artifact.mlflow_run_id)


def artifact_folder(registry, artifact):
    return Path(unquote(urlparse(run_of(registry, artifact).info.artifact_uri).path))


def test_a_model_is_read_back_bit_for_bit(registry, model, artifact):
    rows = sample_hcps(500, np.random.default_rng(3))
    loaded = registry.load(artifact)
    assert loaded.card == model.card
    for read, saved in zip(loaded.predict_all(rows), model.predict_all(rows), strict=True):
        assert np.array_equal(read, saved)
    assert loaded.generate(300, {"region": "south"}, seed=5).frame.equals(model.generate(300, {"region": "south"}, seed=5).frame)
    assert loaded.table().features.equals(model.table().features)  # columns in the same order: a model fitted again is the same


def test_a_run_has_the_metrics_and_parameters_of_the_model(registry, model, artifact):
    run = run_of(registry, artifact)
    assert registry.client.get_experiment(run.info.experiment_id).name == "digital_twin_hcp_kisqali"
    for name in ("train_r2", "train_mae", "train_rmse", "cv_r2_mean", "cv_r2_std", "fidelity"):
        assert run.data.metrics[name] == pytest.approx(getattr(model.card.metrics, name))
    for name, value in model.card.hyperparameters.items():
        assert run.data.params[name] == str(value)
    assert run.info.status == "FINISHED"


def test_a_run_has_model_card_and_importance_plot_and_no_pickle(registry, model, artifact):
    folder = artifact_folder(registry, artifact)
    assert ModelCard.model_validate_json((folder / "card.json").read_bytes()) == model.card
    assert (folder / "feature_importance.png").read_bytes().startswith(b"\x89PNG")
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".png", ".npz", ".skops"}


def test_a_generator_registers_through_its_registry_and_returns_the_model_id(registry, generator, artifact):
    model_id = generator.save_to_registry()
    assert model_id == generator.model.card.model_id
    assert registry.find(generator.model.card) == artifact
    assert generator.generate(100).model.mlflow_run_id == artifact.mlflow_run_id


def test_registering_is_idempotent(registry, model, artifact):
    assert registry.save(model) == artifact
    versions = registry.client.search_model_versions(f"name = '{registered_name(LINE)}' and run_id = '{artifact.mlflow_run_id}'")
    assert len(versions) == 1


def test_an_interrupted_registration_is_not_found_and_can_be_repeated(registry, model, monkeypatch):
    interrupted = another(model, "interrupted")
    with monkeypatch.context() as broken:
        broken.setattr(registry.client, "log_artifacts", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
        with pytest.raises(ConnectionError):
            registry.save(interrupted)
    assert registry.find(interrupted.card) is None
    assert registry.load(registry.save(interrupted)).card == interrupted.card


def test_the_alias_moves_from_champion_to_champion(registry, model, artifact):
    successor = registry.save(another(model, "successor"))
    registry.set_champion_alias(LINE, artifact.mlflow_run_id)
    assert registry.champion_run(LINE) == artifact.mlflow_run_id
    registry.set_champion_alias(LINE, successor.mlflow_run_id)
    assert registry.champion_run(LINE) == successor.mlflow_run_id
    registry.set_champion_alias(LINE, artifact.mlflow_run_id)
    assert registry.champion_run(LINE) == artifact.mlflow_run_id


def test_a_line_without_a_champion_has_no_alias(registry):
    assert registry.champion_run("territory:fabhalta:market_share_change") is None


def test_a_model_is_found_by_its_label(registry, model, tmp_path):
    labelled = another(model, "labelled")
    digest = write_parts(labelled.to_parts(), tmp_path / "model")
    saved = registry.save_folder(labelled.card, tmp_path / "model", digest, {"retrain_id": "r-1", "rows": "since Tuesday"})
    assert registry.find_by_label(LINE, "retrain_id", "r-1") == saved
    assert registry.find_by_label(LINE, "retrain_id", "r-2") is None
    assert registry.labels(saved.mlflow_run_id)["rows"] == "since Tuesday"


def test_a_stored_model_that_was_changed_is_refused(registry, model):
    spoiled = another(model, "spoiled")
    saved = registry.save(spoiled)
    target = artifact_folder(registry, saved) / "model" / "meta.json"
    before = target.read_bytes()
    target.write_bytes(before.replace(b"prescribing_change", b"prescribing_chance", 1))
    try:
        with pytest.raises(UntrustedModel, match=f"stored is {saved.sha256}"):
            registry.load(saved)
    finally:
        target.write_bytes(before)
    assert registry.load(saved).card == spoiled.card


def test_a_model_is_refused_under_the_digest_of_another(registry, model, artifact):
    wrong = Artifact(artifact.mlflow_run_id, registry.save(another(model, "swapped")).sha256)
    with pytest.raises(UntrustedModel, match="digest"):
        registry.load(wrong)


@pytest.mark.parametrize("spoil", ["drop", "add", "rename"])
def test_the_digest_covers_every_file_of_a_model(stored, spoil):
    folder, digest = stored
    if spoil == "drop":
        (folder / "arrays.npz").unlink()
    elif spoil == "add":
        (folder / "more.txt").write_bytes(b"")
    else:
        (folder / "arrays.npz").rename(folder / "array.npz")
    with pytest.raises(UntrustedModel):
        read_parts(folder, digest)


def test_a_pickle_among_the_files_is_refused_even_under_a_valid_digest(stored):
    folder, _ = stored
    (folder / "model.pkl").write_bytes(pickle.dumps({"anything": 1}))
    with pytest.raises(UntrustedModel, match=r"unknown files: model\.pkl"):
        read_parts(folder, digest_of(folder))


def test_a_pickle_in_the_place_of_an_estimator_is_refused(stored):
    folder, _ = stored
    (folder / "estimator.skops").write_bytes(pickle.dumps(RandomForestRegressor()))
    with pytest.raises(UntrustedModel, match=r"estimator\.skops is no skops file"):
        read_parts(folder, digest_of(folder))


def test_a_pickled_array_is_refused(stored):
    folder, _ = stored
    np.savez(folder / "arrays.npz", objects=np.array([{"code": print}], dtype=object))
    with pytest.raises(UntrustedModel, match=r"arrays\.npz is no file of plain arrays"):
        read_parts(folder, digest_of(folder))


def test_an_array_of_objects_is_not_stored(tmp_path):
    parts = ModelParts({}, {"levels": np.array(["a", None], dtype=object)}, {})
    with pytest.raises(ValueError, match="'levels' holds objects"):
        write_parts(parts, tmp_path / "model")


def test_untrusted_types_are_refused_when_read(stored):
    folder, _ = stored
    skops.io.dump(FunctionTransformer(func=shutil.rmtree), folder / "estimator.skops")
    with pytest.raises(UntrustedModel, match="not trusted"):
        read_parts(folder, digest_of(folder))


@pytest.mark.parametrize("function", [shutil.rmtree, partial(shutil.rmtree, "folder")])
def test_untrusted_types_are_refused_when_written(tmp_path, function):
    parts = ModelParts({"estimator": FunctionTransformer(func=function)}, {}, {})
    with pytest.raises(ValueError, match=r"shutil\.rmtree.* not trusted"):
        write_parts(parts, tmp_path / "model")


def test_a_model_of_another_scikit_learn_release_is_refused(stored):
    folder, _ = stored
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["scikit_learn"] == sklearn.__version__
    (folder / "manifest.json").write_text(json.dumps(manifest | {"scikit_learn": "1.2.3"}))
    with pytest.raises(UntrustedModel, match=r"trained with scikit-learn 1\.2\.3"):
        read_parts(folder, digest_of(folder))


def test_an_estimator_cannot_be_read_from_outside_of_its_folder(stored):
    folder, _ = stored
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"estimators": ["../estimator"]}))
    with pytest.raises(UntrustedModel, match="has a name that is no identifier"):
        read_parts(folder, digest_of(folder))


def test_a_classifier_of_rows_with_levels_is_read_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(8)
    rows = np.column_stack([rng.integers(30, size=400), rng.normal(size=400)]).astype(float)
    classifier = HistGradientBoostingClassifier(max_iter=20, categorical_features=[True, False]).fit(rows, rows[:, 0] % 3 == 1)
    digest = write_parts(ModelParts({"density_ratio": classifier}, {}, {}), tmp_path / "model")
    restored = read_parts(tmp_path / "model", digest).estimators["density_ratio"]
    assert np.array_equal(restored.decision_function(rows), classifier.decision_function(rows))


@pytest.mark.parametrize(
    "estimator", [RandomForestRegressor(20), GradientBoostingRegressor(), HistGradientBoostingRegressor(max_iter=20)]
)
def test_every_kind_of_estimator_is_read_back_bit_for_bit(tmp_path, estimator):
    rng = np.random.default_rng(8)
    rows, target = rng.normal(size=(400, 3)), rng.normal(size=400)
    estimator.fit(rows, target)
    digest = write_parts(ModelParts({"estimator": estimator}, {"x": target}, {"y": [1, None]}), tmp_path / "model")
    parts = read_parts(tmp_path / "model", digest)
    assert np.array_equal(parts.estimators["estimator"].predict(rows), estimator.predict(rows))
    assert np.array_equal(parts.arrays["x"], target)
    assert parts.meta == {"y": [1, None]}


def test_a_skops_file_has_a_schema_and_no_pickle(stored):
    folder, _ = stored
    with zipfile.ZipFile(folder / "estimator.skops") as archive:
        names = archive.namelist()
    assert "schema.json" in names
    assert all(Path(name).suffix in {".json", ".npy", ".npz"} for name in names)


def test_the_importance_plot_shows_features_of_zero_importance_too(tmp_path):
    draw_importance({"decile": 0.0, "region": 0.0}, LINE, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_threads_of_a_new_process_that_use_mlflow_at_the_same_time_all_get_a_result(registry):
    program = f"""
from concurrent.futures import ThreadPoolExecutor
from streams.registry.mlflow_registry import MlflowRegistry

with ThreadPoolExecutor(4) as pool:
    results = [pool.submit(MlflowRegistry({registry.uri!r}).champion_run, "hcp:fabhalta:prescribing_change") for _ in range(4)]
print([result.result() for result in results])
"""
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[None, None, None, None]"
