"""A short chaos run of the service, and one of a faulty worker that must be detected."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import Champion, RunOptions, run_chaos, train_champion
from tests.chaos.schedule import SHORT, Fault, FaultKind, schedule


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    """A small model in an MLflow store from which worker processes load it."""
    return train_champion(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")


async def test_every_count_is_right_after_a_short_chaos_run(champion: Champion, tmp_path: Path):
    seconds = 45.0
    faults = schedule(1, seconds / 60, SHORT)
    options = RunOptions(
        seed=1, seconds=seconds, outcomes=20_000, requests=20, faults=faults, hostile=300, batches=13, history=2000
    )

    report = await run_chaos(tmp_path / "chaos", options, champion, print)

    assert report.violations == {}
    assert len(report.faults) == len(options.faults)
    assert {"counted", "duplicate", "superseded", "too_late", "refused"} <= report.counts.keys()


async def test_a_worker_that_acknowledges_before_it_commits_is_detected(champion: Champion, tmp_path: Path):
    kills = [Fault(start_s, FaultKind.KILL_WORKER, role="outcomes") for start_s in (4.0, 8.0)]
    options = RunOptions(
        seed=2,
        seconds=12.0,
        outcomes=3000,
        requests=1,
        faults=kills,
        roles=("outcomes",),
        command=("-m", "tests.chaos.early_ack_worker"),
        workers=1,
        patience_s=10.0,
    )

    report = await run_chaos(tmp_path / "chaos", options, champion, print)

    assert any("is lost" in sentence for sentence in report.violations["every element has one row"])
    assert "every valid outcome counts once in its pane" in report.violations
