"""Null takes an entry out of a catalogue; one that takes nothing out is more likely an entry whose fields were forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

__all__ = ["ENTRIES", "empty_deletions"]

_ANY = "*"

ENTRIES: Mapping[tuple[str, ...], str] = MappingProxyType(
    {
        ("brands",): "{{label: {label}}}",
        ("campaigns",): "{{channel: mail, effect: {{mean: 0.05, sd: 0.02}}}}",
        ("campaigns", _ANY, "channels"): "{{mean: -0.5, sd: 0.25}}",
        ("moderators",): "{{levels: {{level: {{mean: 0.1, sd: 0.05}}}}}}",
        ("moderators", _ANY, "levels"): "{{mean: 0.1, sd: 0.05}}",
        ("twin_types",): "{{features: {{...}}, targets: {{...}}}}",
        ("twin_types", _ANY, "features"): "{{kind: number}}",
        ("twin_types", _ANY, "targets"): "{{unit: fraction, scale: additive, direction: 1, ...}}",
        ("twin_types", _ANY, "targets", _ANY, "plausible", "other_units"): "0.01",
        ("twin_types", _ANY, "filters"): "a_feature",
        ("twin_types", _ANY, "ratios"): "{{numerator: a_feature, denominator: another}}",
        ("levels",): "{{level: [other spelling]}}",
        ("levels", _ANY): "[]",
        ("drift_rules",): "{{metric: mae, limit: 0.3, direction: above, relative: true, action: warn}}",
        ("thresholds", "all", "drift_limits"): "0.3",
        ("thresholds", "brands"): "{{min_effect_threshold: 0.02}}",
        ("thresholds", "brands", _ANY, "drift_limits"): "0.3",
        ("thresholds", "lines"): "{{min_effect_threshold: 0.02}}",
        ("thresholds", "lines", _ANY, "drift_limits"): "0.3",
    }
)
"""Places that have entries by any name, and an entry of each as it may be written; ``*`` stands for any name."""


def empty_deletions(top: Mapping[str, Any], below: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Entries of a user's catalogue that are null and not in the one below it, by their paths, with how each is added.

    >>> [text for _, text in empty_deletions({"brands": {"acme": None}}, {"brands": {}})]
    ["there is no 'acme' that null could take out: to add it write acme: {label: Acme}, else leave the line out"]
    """
    for pattern, example in ENTRIES.items():
        yield from _empty(top, below, (), pattern, example)


def _empty(
    top: Any, below: Any, path: tuple[str, ...], pattern: tuple[str, ...], example: str
) -> Iterator[tuple[tuple[str, ...], str]]:
    if not isinstance(top, Mapping):
        return
    present = below if isinstance(below, Mapping) else {}
    if not pattern:
        for name in (name for name, entry in top.items() if entry is None and name not in present):
            yield (*path, str(name)), _advice(str(name), list(map(str, present)), example)
        return
    for name in list(top) if pattern[0] == _ANY else [pattern[0]]:
        yield from _empty(top.get(name), present.get(name), (*path, str(name)), pattern[1:], example)


def _advice(name: str, names: list[str], example: str) -> str:
    entry = example.format(label=name.replace("_", " ").capitalize())
    close = get_close_matches(name, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no {name!r} that null could take out: {meant}to add it write {name}: {entry}, else leave the line out"
