"""Findings of a verification, and the report of a replay."""

from __future__ import annotations

from collections import Counter

from sql.replay_store import OffsetRange
from streams.operations.findings import Findings
from streams.operations.replay_report import PublishedRecord, ReplayReport
from streams.operations.verify import VerificationReport


def test_equal_values_are_no_mismatch_and_others_are_listed_with_both():
    findings = Findings()
    findings.compare("head", "revision", 1, 1)
    assert findings.mismatches() == ()
    findings.compare("head", "revision", 1, 2)
    assert findings.mismatches() == ("head: revision is 1, recomputed from the outcomes it is 2",)


def test_the_first_fifty_mismatches_of_a_kind_are_listed_and_the_others_counted():
    findings = Findings()
    for number in range(53):
        findings.add("head", str(number))
    findings.add("pane", "one")
    mismatches = findings.mismatches()
    assert len(mismatches) == 52
    assert mismatches[-2:] == ("pane: one", "head: and 3 more")


def test_a_verification_without_mismatches_says_so_with_its_counts():
    report = VerificationReport((), {"outcomes": 1200, "windows": 3}, resent=2)
    assert report.format_text() == "every count agrees: 1,200 outcomes, 3 windows\n2 messages published again"


def test_mismatches_are_counted_and_listed():
    assert VerificationReport(("one",), {"windows": 3}).format_text() == "1 mismatch: 3 windows\none"
    assert VerificationReport(("one", "two"), {"windows": 3}).format_text() == "2 mismatches: 3 windows\none\ntwo"


def test_a_replay_report_lists_ranges_counts_and_published_records():
    ranges = [OffsetRange("outcome-events", 1, 0, 1500)]
    report = ReplayReport("outcome-events", True, ranges, Counter({"in already": 1200}), [PublishedRecord(1, 7, "champion")])
    assert report.format_text().splitlines() == [
        "outcome-events:1, offsets 0 to 1,500",
        "    1,200  already stored",
        "1 would be published again",
    ]
    assert report.to_dict()["found"] == {"in already": 1200}
    assert report.to_dict()["published_again"] == [{"partition": 1, "offset": 7, "because": "champion"}]
