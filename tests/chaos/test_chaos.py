"""The service under fire, and a service that must not survive it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.twins import TwinModel
from sql.model_card_rows import Artifact
from tests.chaos.run import Champion, Orders, burn
from tests.chaos.schedule import SHORT, Fault, Kind, schedule


@pytest.fixture(scope="session")
def asked(champion: TwinModel, saved: Artifact, mlflow_store: str) -> Champion:
    """The session's model, as workers elsewhere find it."""
    return Champion(champion.card.model_copy(update={"mlflow_run_id": saved.mlflow_run_id}), saved.sha256, mlflow_store)


async def test_every_count_is_right_after_a_short_fire(asked: Champion, tmp_path: Path):
    seconds = 45.0
    orders = Orders(seed=1, seconds=seconds, outcomes=20_000, requests=20, faults=schedule(1, seconds / 60, SHORT))

    verdict = await burn(tmp_path / "fire", orders, asked, print)

    assert verdict.breaches == {}
    assert len(verdict.done) == len(orders.faults)
    assert {"counted", "duplicate", "superseded", "too_late", "refused"} <= verdict.counts.keys()


async def test_a_worker_that_acknowledges_before_it_commits_is_found_out(asked: Champion, tmp_path: Path):
    kills = [Fault(at_s, Kind.KILL_WORKER, role="outcomes") for at_s in (4.0, 8.0)]
    orders = Orders(
        seed=2,
        seconds=12.0,
        outcomes=3000,
        requests=1,
        faults=kills,
        roles=("outcomes",),
        command=("-m", "tests.chaos.acks_first"),
        workers=1,
        patience_s=10.0,
    )

    verdict = await burn(tmp_path / "fire", orders, asked, print)

    assert any("is lost" in word for word in verdict.breaches["every element has its one row"])
    assert "every good outcome counts once in its pane" in verdict.breaches
