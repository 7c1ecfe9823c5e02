"""When a catalogue may replace the version in effect."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from schemas import BUILT_IN
from sql.catalogue_store import AppliedVersion
from streams.catalogue.applying import CatalogueConflict, _refuse_conflict, losses
from streams.catalogue.comparison import differences

ANNS = AppliedVersion(3, "", datetime(2026, 3, 1, tzinfo=UTC), "ann@desk", "")
CAMPAIGN = {"visit": {"channel": "in_person", "effect": {"mean": 0.05, "sd": 0.02}}}
FIRST = BUILT_IN.with_entries({"brands": {"acme": {}}, "campaigns": CAMPAIGN})
ADDED = FIRST.with_entries({"brands": {"other": {}}})
WITHOUT = BUILT_IN.with_entries({"brands": {"acme": {}}})
CHANGED = FIRST.with_entries({"campaigns": {"visit": {"effect": {"mean": 0.06}}}})


@pytest.mark.parametrize(
    ("after", "by", "undone"),
    [
        (ADDED, "bob@desk", []),
        (WITHOUT, "ann@desk", ["campaigns.visit"]),
        (CHANGED, "ann@desk", []),
        (CHANGED, "bob@desk", ["campaigns.visit.effect.mean"]),
    ],
)
def test_what_a_file_takes_out_or_changes_of_others_is_a_loss(after, by, undone):
    assert losses(ANNS, differences(FIRST, after), by) == undone


def test_nothing_is_lost_while_no_version_was_applied():
    assert losses(None, differences(FIRST, WITHOUT), "bob@desk") == []


def test_a_loss_is_refused_with_its_name_until_it_is_confirmed():
    changes = differences(FIRST, WITHOUT)
    with pytest.raises(CatalogueConflict, match=r"version 3 has, applied by ann@desk at 2026-03-01 .*: campaigns.visit\. .* --yes"):
        _refuse_conflict(ANNS, changes, "bob@desk", expected=None, may_lose=False)
    _refuse_conflict(ANNS, changes, "bob@desk", expected=3, may_lose=True)


def test_another_version_than_the_expected_one_is_refused_even_where_losses_are_confirmed():
    with pytest.raises(CatalogueConflict, match="version 3 is in effect, not 2"):
        _refuse_conflict(ANNS, [], "ann@desk", expected=2, may_lose=True)
    with pytest.raises(CatalogueConflict, match="version 0 is in effect, not 2"):
        _refuse_conflict(None, [], "ann@desk", expected=2, may_lose=True)
