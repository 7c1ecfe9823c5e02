"""Thresholds of lines on a real PostgreSQL: every change is a version, and a run keeps that of its first write."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from schemas.thresholds import DEFAULT_THRESHOLDS
from sql.database import Pool
from sql.ledger import UnknownLine
from sql.pin_store import pin
from sql.simulation_store import find_runs
from sql.threshold_store import change_thresholds, line_thresholds, threshold_changes
from sql.window_store import monitored_lines
from tests.unit.sql.test_simulation_store import BODY, LINE, a_request, promoted, recipe


async def test_a_line_starts_with_the_thresholds_of_the_catalogue(pool: Pool) -> None:
    await promoted(pool)
    assert await line_thresholds(pool, LINE) == DEFAULT_THRESHOLDS
    assert [line.thresholds for line in await monitored_lines(pool)] == [DEFAULT_THRESHOLDS]


async def test_each_change_is_a_version_that_keeps_what_it_does_not_change(pool: Pool) -> None:
    await promoted(pool)
    await change_thresholds(pool, LINE, {"min_effect_threshold": 0.03}, changed_by="ana@desk", reason="small budget")
    await change_thresholds(pool, LINE, {"drift_limits": {"mae_increase": 0.3}}, changed_by="ben@desk")
    last = await change_thresholds(pool, LINE, {"drift_limits": {"coverage_drop": 0.85}}, changed_by="ben@desk")
    assert (last.version, last.min_effect_threshold) == (3, 0.03)
    assert last.drift_limits == {"mae_increase": 0.3, "coverage_drop": 0.85}
    assert await line_thresholds(pool, LINE) == last
    assert [line.thresholds for line in await monitored_lines(pool)] == [last]
    assert [(change.thresholds.version, change.changed_by, change.reason) for change in await threshold_changes(pool, LINE)] == [
        (3, "ben@desk", ""),
        (2, "ben@desk", ""),
        (1, "ana@desk", "small budget"),
    ]


async def test_a_line_may_demand_a_test_before_a_deployment(pool: Pool) -> None:
    await promoted(pool)
    demanding = await change_thresholds(pool, LINE, {"require_test": True}, changed_by="ana@desk")
    assert (demanding.version, demanding.require_test) == (1, True)
    assert await line_thresholds(pool, LINE) == demanding
    assert [line.thresholds for line in await monitored_lines(pool)] == [demanding]


async def test_a_limit_can_be_that_of_the_catalogue_again_and_no_change_is_no_version(pool: Pool) -> None:
    await promoted(pool)
    await change_thresholds(pool, LINE, {"drift_limits": {"mae_increase": 0.3}}, changed_by="ana@desk")
    again = await change_thresholds(pool, LINE, {"drift_limits": {"mae_increase": None}}, changed_by="ana@desk")
    assert (again.version, again.rules) == (2, DEFAULT_THRESHOLDS.rules)
    assert await change_thresholds(pool, LINE, {"min_effect_threshold": 0.05}, changed_by="ana@desk") == again


async def test_changes_at_the_same_time_are_one_after_the_other(pool: Pool) -> None:
    await promoted(pool)
    efforts = [0.01, 0.02, 0.03, 0.04]
    changes = [change_thresholds(pool, LINE, {"min_effect_threshold": effort}, changed_by="ana@desk") for effort in efforts]
    assert sorted(changed.version for changed in await asyncio.gather(*changes)) == [1, 2, 3, 4]


async def test_an_unknown_line_and_an_impossible_threshold_are_refused_and_nothing_is_stored(pool: Pool) -> None:
    await promoted(pool)
    with pytest.raises(UnknownLine, match="no model line 'hcp:kisqali:other' yet"):
        await change_thresholds(pool, "hcp:kisqali:other", {"min_effect_threshold": 0.1}, changed_by="ana@desk")
    with pytest.raises(ValueError, match="less than 1"):
        await change_thresholds(pool, LINE, {"min_effect_threshold": 5.0}, changed_by="ana@desk")
    assert await threshold_changes(pool, LINE) == []


async def test_the_service_cannot_change_a_version(pool: Pool) -> None:
    await promoted(pool)
    await change_thresholds(pool, LINE, {"min_effect_threshold": 0.03}, changed_by="ana@desk")
    for statement in ("UPDATE line_thresholds SET min_effect_threshold = 0.5", "DELETE FROM line_thresholds"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)


async def test_a_run_keeps_the_thresholds_of_its_first_write(pool: Pool) -> None:
    await promoted(pool)
    before, after = a_request(), a_request()
    assert (await pin(pool, before, BODY, recipe)).thresholds == DEFAULT_THRESHOLDS
    changed = await change_thresholds(pool, LINE, {"confidence_threshold": 0.8}, changed_by="ana@desk")
    assert (await pin(pool, before, BODY, recipe)).thresholds == DEFAULT_THRESHOLDS
    assert (await pin(pool, after, BODY, recipe)).thresholds == changed
    await change_thresholds(pool, LINE, {"confidence_threshold": 0.7}, changed_by="ana@desk")
    assert (await find_runs(pool, [after.simulation_id]))[after.simulation_id].thresholds == changed
