"""The invariants of a run: each yields a sentence for everything that violates it, and nothing when it holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from tests.chaos.expected import FIELDS, ExpectedState, Sums, WindowFigures
from tests.chaos.observed import ObservedState

__all__ = ["INVARIANTS", "violations"]

_LISTED = 5
_LONGEST_DOWN_S = 30.0
_VALID_FATES = frozenset({"counted", "missing", "superseded", "duplicate"})
Invariant = Callable[[ExpectedState, ObservedState], Iterable[str]]


def every_acknowledged_record_is_on_its_topic(expected: ExpectedState, observed: ObservedState) -> Iterator[str]:
    """A precondition: if the broker lost a record, no other count can be right."""
    return (f"record {index} of the plan was acknowledged and is not on its topic" for index in observed.missing)


def every_element_has_one_row(expected: ExpectedState, observed: ObservedState) -> Iterator[str]:
    """Valid, late or invalid: exactly one row, with the right fate."""
    for position, fate in expected.fates.items():
        stored = ["counted" if row in _VALID_FATES else row for row in observed.fates.get(position, [])]
        if stored != [fate]:
            yield f"{position} must be {fate} once, is {' and '.join(stored) or 'lost'}"
    for position in observed.fates.keys() - expected.fates.keys():
        if position[:3] not in expected.foreign:
            yield f"{position} was never published"


def every_valid_outcome_counts_once_in_its_pane(expected: ExpectedState, observed: ObservedState) -> Iterator[str]:
    """Sums over all sources; a pane whose outcomes were all moved or retracted may stay with sums of zero."""
    for key in expected.panes.keys() | {key for key, sums in observed.panes.items() if any(sums)}:
        correct, stored = expected.panes.get(key), observed.panes.get(key)
        if correct != stored:
            yield f"pane {key[1]:.0f} of {key[0]} holds {_sums_text(stored)} instead of {_sums_text(correct)}"


def every_invalid_record_is_refused_once(expected: ExpectedState, observed: ObservedState) -> Iterator[str]:
    """Exactly one row in the table of refused records, with the original bytes, and no row for anything else."""
    invalid = {position for position, fate in expected.fates.items() if fate == "refused"}
    times = Counter(observed.refusals.values())
    for position in invalid | times.keys():
        if times[position] != (position in invalid or position[:3] in expected.foreign):
            yield f"{position} is refused {times[position]} times"
    for position in expected.values.keys() & observed.values.keys():
        if observed.values[position] != expected.values[position]:
            yield f"{position} is stored as {observed.values[position]!r:.80} instead of {expected.values[position]!r:.80}"


def every_refused_record_has_a_dead_letter(expected: ExpectedState, observed: ObservedState) -> Iterator[str]:
    """At least one copy with the stored bytes, and no dead letter without a refused record."""
    copies = {copy.refusal: copy for copy in observed.copies}
    for refusal, position in observed.refusals.items():
        copy = copies.get(refusal)
        if copy is None:
            yield f"the refusal of {position} was not sent to dead-letters"
        elif (copy.topic, copy.partition, copy.offset, copy.value) != (
            *position[:3],
            observed.values[position],
        ) and not copy.is_cut:
            yield f"the dead letter of {position} has position {copy.topic}:{copy.partition}:{copy.offset}, or other bytes"
    for refusal in copies.keys() - observed.refusals.keys():
        yield f"dead letter {refusal} belongs to no refused record"


def every_request_has_one_answer(expected: ExpectedState, observed: ObservedState) -> Iterator[str]:
    """Each request is answered with the right status, and all copies of its answer have the same bytes."""
    for simulation, status in expected.answers.items():
        values = observed.answers.get(simulation, set())
        if len(values) != 1:
            yield f"simulation {simulation} has {len(values)} different answers"
        elif f'"status":"{status}"'.encode() not in next(iter(values)):
            yield f"simulation {simulation} is not {status}: {next(iter(values))[:200]!r}"
    for simulation in observed.answers.keys() - expected.answers.keys() - expected.foreign_requests:
        yield f"simulation {simulation} was answered, but never requested"


def every_window_has_the_expected_figures(expected: ExpectedState, observed: ObservedState) -> Iterator[str]:
    """The newest message of each window alone gives its correct figures."""
    for key in expected.windows.keys() | {key for key, figures in observed.windows.items() if figures.n}:
        correct, published = expected.windows.get(key), observed.windows.get(key)
        if correct is None or published is None or not _is_same(correct, published):
            yield f"window {key[1]:.0f} of {key[0]} has {published} instead of {correct}"


def verify_reports_no_mismatch(expected: ExpectedState, observed: ObservedState) -> Iterable[str]:
    """``twinstream verify`` agrees too."""
    return observed.mismatches


def no_role_is_down_for_long(expected: ExpectedState, observed: ObservedState) -> Iterable[str]:
    """At most 30 s without a living process of a role, and the time that a worker needs to start on this machine."""
    limit_s = _LONGEST_DOWN_S + observed.start_s
    return (f"{role} was down for {down_s:.0f} s" for role, down_s in observed.downtimes.items() if down_s > limit_s)


def no_other_line_waits(expected: ExpectedState, observed: ObservedState) -> Iterable[str]:
    """At most 30 s, and the time of a start, without a stored outcome of another line while Kafka, Postgres and the role run."""
    limit_s = _LONGEST_DOWN_S + observed.start_s
    if observed.standstill_s > limit_s:
        yield f"no outcome of another line was stored for {observed.standstill_s:.0f} s"
    yield from (f"outcome {event} of another line is not stored" for event in sorted(observed.unstored))


def every_bad_record_is_found_by_its_offset(expected: ExpectedState, observed: ObservedState) -> Iterable[str]:
    """Each hostile record is stored, answered or refused, and each hostile batch is refused."""
    return (f"{record} is neither stored, answered nor refused" for record in observed.traceless)


INVARIANTS: Mapping[str, Invariant] = {
    invariant.__name__.replace("_", " "): invariant
    for invariant in (
        every_acknowledged_record_is_on_its_topic,
        every_element_has_one_row,
        every_valid_outcome_counts_once_in_its_pane,
        every_invalid_record_is_refused_once,
        every_refused_record_has_a_dead_letter,
        every_request_has_one_answer,
        every_window_has_the_expected_figures,
        verify_reports_no_mismatch,
        no_role_is_down_for_long,
        no_other_line_waits,
        every_bad_record_is_found_by_its_offset,
    )
}


def violations(expected: ExpectedState, observed: ObservedState) -> dict[str, list[str]]:
    """The invariants that do not hold, each with its first five violations and the number of the others."""
    violated = {}
    for name, invariant in INVARIANTS.items():
        sentences = iter(invariant(expected, observed))
        first = list(islice(sentences, _LISTED))
        rest = sum(1 for _ in sentences)
        if first:
            violated[name] = [*first, *([f"and {rest} more"] if rest else [])]
    return violated


def _is_same(correct: WindowFigures, published: WindowFigures) -> bool:
    return all(
        a is b is None or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12))
        for a, b in zip(correct, published, strict=True)
    )


def _sums_text(sums: Sums | None) -> str:
    return "nothing" if sums is None else ", ".join(f"{name} {value}" for name, value in zip(FIELDS, sums, strict=True))
