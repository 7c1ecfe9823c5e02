"""Records of a group are processed in their order, those of other groups side by side, over the slices of a partition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from streams.kafka.record_slices import _GroupTurns


def records(*keys: str, partition: int = 0) -> Any:
    return [SimpleNamespace(partition=partition, key=key) for key in keys]


def key_of(record: Any) -> object:
    return record.key


def test_a_group_waits_for_the_same_one_of_the_slice_before_and_another_one_does_not():
    turns = _GroupTurns()
    with turns.join(records("a", "a", "b"), key_of) as (first_a, first_b):
        assert [record.key for record in first_a.records] == ["a", "a"]
        with turns.join(records("c", "a"), key_of) as (c, second_a):
            assert c.earlier is None
            assert second_a.earlier is first_a.done
            assert not second_a.earlier.is_set()
            turns.leave(first_a)
            assert second_a.earlier.is_set()
            with turns.join(records("a"), key_of) as (third_a,):
                assert third_a.earlier is second_a.done
        assert first_b.earlier is None


def test_the_same_key_in_another_partition_is_another_group():
    turns = _GroupTurns()
    with turns.join(records("a"), key_of), turns.join(records("a", partition=1), key_of) as (elsewhere,):
        assert elsewhere.earlier is None


def test_a_slice_whose_work_is_cancelled_leaves_nobody_waiting():
    turns = _GroupTurns()
    with pytest.raises(RuntimeError), turns.join(records("a"), key_of) as (group,):
        raise RuntimeError
    assert group.done.is_set()
    with turns.join(records("a"), key_of) as (after,):
        assert after.earlier is None
