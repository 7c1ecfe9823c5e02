"""Training in a process of its own: its model, its refusals, and that it leaves no process and no file behind."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from schemas import Brand, TwinType
from schemas.levels import levels_of
from streams.training.training_process import (
    TrainingFailed,
    TrainingRefused,
    TrainingSpec,
    _with_uniform_columns,
    train_in_subprocess,
)

TARGET = "prescribing_change"


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """A folder of its own for the files of this test's trainings, which their command lines name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def table(n=1000):
    return sample_hcps(n, np.random.default_rng(1))


def spec(**fields):
    return TrainingSpec(twin_type=TwinType.HCP, brand=Brand.KISQALI, target=TARGET, n_jobs=1, **fields)


def trainings(scratch):
    """Ids of the training processes with files in the folder."""
    processes = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in processes.splitlines() if "-m streams.training " in line and str(scratch) in line]


async def started_trainings(scratch):
    while not (process_ids := trainings(scratch)):  # noqa: ASYNC110  # the start of another process sets no event
        await asyncio.sleep(0.05)
    return process_ids


async def train(frame, **fields):
    async with train_in_subprocess(spec(**fields), frame) as result:
        return result.model


async def test_a_model_trained_in_a_process_is_the_one_trained_in_place(scratch):
    here = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1, seed=7)
    here.train(table())
    model = await train(table(), seed=7)
    assert model.card == here.model.card
    assert np.array_equal(model.predict(table(300)), here.model.predict(table(300)))
    assert trainings(scratch) == []


async def test_a_table_that_cannot_be_trained_on_is_refused_with_the_reason_of_the_engine():
    with pytest.raises(TrainingRefused, match=r"500 rows .* too few to train a model: at least 1000"):
        await train(table(500))


async def test_a_training_that_takes_too_long_is_ended(scratch):
    with pytest.raises(TrainingFailed, match=r"took longer than 0\.5 s"):
        await train(table(), seconds=0.5)
    assert trainings(scratch) == []


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no limit of address space")
async def test_a_training_that_takes_too_much_memory_fails_alone(scratch):
    with pytest.raises(TrainingFailed):
        await train(table(), memory_bytes=64 * 1024**2)
    assert trainings(scratch) == []


async def test_a_training_that_is_killed_has_failed(scratch):
    training = asyncio.create_task(train(table()))
    for pid in await started_trainings(scratch):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(TrainingFailed, match="exit code -9 and left no result"):
        await training


async def test_a_training_whose_caller_is_cancelled_is_ended(scratch):
    training = asyncio.create_task(train(table()))
    await started_trainings(scratch)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert trainings(scratch) == []


def test_a_training_ends_with_its_parent_process(scratch, tmp_path):
    program = textwrap.dedent(f"""
        import asyncio, tempfile
        import numpy as np
        from engine.sample_tables import sample_hcps
        from streams.training.training_process import TrainingSpec, train_in_subprocess
        tempfile.tempdir = {str(tmp_path)!r}
        async def main():
            spec = TrainingSpec(twin_type="hcp", brand="kisqali", target={TARGET!r}, n_jobs=1)
            async with train_in_subprocess(spec, sample_hcps(20_000, np.random.default_rng(0))):
                pass
        asyncio.run(main())
    """)
    parent = subprocess.Popen([sys.executable, "-c", program])
    while not trainings(scratch):
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while trainings(scratch) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert trainings(scratch) == []
    assert list(scratch.iterdir()) == []


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18), 10**18),
    st.integers(-9, 9).map(float),
    st.floats(-9, 9),
    st.text("ab1 ", max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_a_level_means_the_same_on_the_way_to_the_training_process(values):
    content = io.BytesIO()
    frame = pd.DataFrame({"level": pd.Series(values, dtype=object)})
    _with_uniform_columns(frame).to_parquet(content)
    texts = [
        levels_of(column).texts().to_numpy(dtype=object, na_value=None).tolist()
        for column in (pd.read_parquet(content)["level"], frame["level"])
    ]
    assert texts[0] == texts[1]


def test_features_of_mixed_types_become_one_type_per_column(tmp_path):
    flag = pd.Series([True, 1.0, None, 0], dtype=object)
    code = pd.Series(["a", 5, None, "b"], dtype=object)
    name = pd.Series(["x", None, "y", "z"], dtype=object)
    _with_uniform_columns(pd.DataFrame({"flag": flag, "code": code, "name": name})).to_parquet(tmp_path / "rows.parquet")
    back = pd.read_parquet(tmp_path / "rows.parquet")
    assert back["flag"].dropna().tolist() == ["true", "1", "0"]
    assert back["code"].dropna().tolist() == ["a", "5", "b"]
    assert back.isna().sum().tolist() == [1, 1, 1]
