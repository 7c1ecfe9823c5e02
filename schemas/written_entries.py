"""What is wrong in the entries of a user's catalogue as they are written: the catalogue that is made of them does not show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.catalogue_deletions import empty_deletions
from schemas.past_experiments import OWN_CHANNEL, two_effects

__all__ = ["written_problems"]

_Problem = tuple[tuple[str, ...], str]


def written_problems(top: Mapping[str, Any], below: Mapping[str, Any]) -> Iterator[_Problem]:
    """Problems of a user's entries that are laid over the data of a catalogue, by their paths."""
    yield from two_effects(top)
    yield from empty_deletions(top, below)
    yield from _own_channels(top, below)
    yield from _blank_labels(top, below)


def _entries(data: Mapping[str, Any], section: str) -> Mapping[str, Mapping[str, Any]]:
    entries = data.get(section)
    return {name: entry for name, entry in entries.items() if isinstance(entry, Mapping)} if isinstance(entries, Mapping) else {}


def _own_channels(top: Mapping[str, Any], below: Mapping[str, Any]) -> Iterator[_Problem]:
    """Factors that a campaign states for its own channel, whose factor is 1: any other one would be left out unseen."""
    for name, campaign in _entries(top, "campaigns").items():
        own = campaign.get("channel") or _entries(below, "campaigns").get(name, {}).get("channel")
        channels = campaign.get("channels")
        if isinstance(channels, Mapping) and channels.get(own) not in (None, OWN_CHANNEL):
            text = f"{own} is the campaign's own channel, for which its effect is stated: channels are factors of other channels"
            yield ("campaigns", str(name), "channels", str(own)), f"{text}; leave it out, and state another effect if you mean one"


def _blank_labels(top: Mapping[str, Any], below: Mapping[str, Any]) -> Iterator[_Problem]:
    for section in ("brands", "campaigns"):
        for name, entry in _entries(top, section).items():
            label = entry.get("label")
            if isinstance(label, str) and not label.strip() and _entries(below, section).get(name, {}).get("label") != label:
                default = str(name).replace("_", " ").capitalize()
                yield (section, str(name), "label"), f"a label is what screens show: write one, or leave it out for {default!r}"
