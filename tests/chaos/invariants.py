"""What must hold after everything is mended: each invariant names what breaks it, and is silent else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from tests.chaos.expected import FIELDS, Figures, Place, Truth
from tests.chaos.observed import Found

__all__ = ["INVARIANTS", "breaches"]

_SHOWN = 5
_GOOD = frozenset({"counted", "superseded", "duplicate"})
Invariant = Callable[[Truth, Found], Iterable[str]]


def every_element_has_its_one_row(truth: Truth, found: Found) -> Iterator[str]:
    """Good, late or bad: one row, of the right kind."""
    for place, fate in truth.fates.items():
        kinds = ["counted" if each in _GOOD else each for each in found.fates.get(place, [])]
        if kinds != [fate]:
            yield f"{_words(place)} has to be {fate} once, is {' and '.join(kinds) or 'lost'}"
    for place in found.fates.keys() - truth.fates.keys():
        yield f"{_words(place)} was never published"


def every_good_outcome_counts_once_in_its_pane(truth: Truth, found: Found) -> Iterator[str]:
    """The sums of all sources together; a pane that everything was taken out of may stay, with nothing in it."""
    for key in truth.panes.keys() | {key for key, sums in found.panes.items() if any(sums)}:
        expected, sums = truth.panes.get(key), found.panes.get(key)
        if expected != sums:
            yield f"pane {key[1]:.0f} of {key[0]} holds {_named(sums)} instead of {_named(expected)}"


def every_bad_record_is_refused_once(truth: Truth, found: Found) -> Iterator[str]:
    """One row and no more, and nothing else among them; the topic may hold copies with one id."""
    expected = {place for place, fate in truth.fates.items() if fate == "refused"}
    times = Counter(found.refusals.values())
    for place in expected | times.keys():
        if times[place] != (place in expected):
            yield f"{_words(place)} is refused {times[place]} times"
    for place in truth.values.keys() & found.values.keys():
        if found.values[place] != truth.values[place]:
            yield f"{_words(place)} is kept as {found.values[place]!r:.80} instead of {truth.values[place]!r:.80}"


def every_refusal_is_among_the_dead_letters(truth: Truth, found: Found) -> Iterator[str]:
    """At least one copy, with the bytes that are kept, and no letter that nobody wrote."""
    copies = {letter.refusal: letter for letter in found.letters}
    for refusal, place in found.refusals.items():
        letter = copies.get(refusal)
        if letter is None:
            yield f"the refusal of {_words(place)} was not sent to dead-letters"
        elif (letter.topic, letter.partition, letter.offset, letter.value) != (*place[:3], found.values[place]):
            told = f"{letter.topic}:{letter.partition}:{letter.offset}"
            yield f"the dead letter of {_words(place)} tells of {told}, or of other bytes"
    for refusal in copies.keys() - found.refusals.keys():
        yield f"dead letter {refusal} belongs to no refusal"


def all_answers_to_a_request_are_the_same(truth: Truth, found: Found) -> Iterator[str]:
    """Each request is answered, as it has to be, and however often with the same bytes."""
    for simulation, status in truth.answers.items():
        values = found.answers.get(simulation, set())
        if len(values) != 1:
            yield f"simulation {simulation} has {len(values)} different answers"
        elif f'"status":"{status}"'.encode() not in next(iter(values)):
            yield f"simulation {simulation} is not {status}: {next(iter(values))[:200]!r}"
    for simulation in found.answers.keys() - truth.answers.keys():
        yield f"simulation {simulation} was answered, but never asked for"


def windows_say_the_truth(truth: Truth, found: Found) -> Iterator[str]:
    """Rebuilt from the newest message of each window and nothing else."""
    for key in truth.windows.keys() | {key for key, figures in found.view.items() if figures.n}:
        expected, said = truth.windows.get(key), found.view.get(key)
        if expected is None or said is None or not _is_same(expected, said):
            yield f"window {key[1]:.0f} of {key[0]} says {said} instead of {expected}"


def the_service_agrees_with_itself(truth: Truth, found: Found) -> Iterable[str]:
    """What ``twinstream verify`` found."""
    return found.mismatches


def what_was_acknowledged_is_there(truth: Truth, found: Found) -> Iterator[str]:
    """Else the broker lost it, and nothing else could be right."""
    return (f"record {number} of the plan was acknowledged and is not on its topic" for number in found.unsent)


INVARIANTS: Mapping[str, Invariant] = {
    invariant.__name__.replace("_", " "): invariant
    for invariant in (
        what_was_acknowledged_is_there,
        every_element_has_its_one_row,
        every_good_outcome_counts_once_in_its_pane,
        every_bad_record_is_refused_once,
        every_refusal_is_among_the_dead_letters,
        all_answers_to_a_request_are_the_same,
        windows_say_the_truth,
        the_service_agrees_with_itself,
    )
}


def breaches(truth: Truth, found: Found) -> dict[str, list[str]]:
    """The invariants that do not hold, each with its first few breaches and the number of all."""
    told = {}
    for name, invariant in INVARIANTS.items():
        each = iter(invariant(truth, found))
        first = list(islice(each, _SHOWN))
        rest = sum(1 for _ in each)
        if first:
            told[name] = [*first, *([f"and {rest} more"] if rest else [])]
    return told


def _is_same(expected: Figures, said: Figures) -> bool:
    return all(
        a is b is None or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12))
        for a, b in zip(expected, said, strict=True)
    )


def _words(place: Place) -> str:
    return f"element {place.element} of {place.topic}:{place.partition}:{place.offset}"


def _named(sums: tuple[int, ...] | None) -> str:
    return "nothing" if sums is None else ", ".join(f"{name} {value}" for name, value in zip(FIELDS, sums, strict=True))
