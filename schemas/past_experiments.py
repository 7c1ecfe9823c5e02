"""The prior effect of a campaign that is described by experiments that were made with it before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from schemas.arrays import Floats
from schemas.interventions import Channel, PastExperiment, Uncertain

__all__ = ["LEAST_BETWEEN", "OWN_CHANNEL", "pooled_effect", "two_effects", "with_campaign_defaults"]

LEAST_BETWEEN = 0.15
"""Least standard deviation of true effects between experiments, as a share of their mean: campaigns always differ."""


def pooled_effect(experiments: Sequence[PastExperiment]) -> Uncertain:
    """Mean and standard deviation of the effect of the next campaign, by a random-effects model of past ones.

    The deviation is that of the next true effect: that of the mean together with that between experiments, which is the moment
    estimate, and at least ``LEAST_BETWEEN`` of the mean.

    References:
        DerSimonian, Laird (1986), Meta-analysis in clinical trials. Controlled Clinical Trials 7.

    Example:
        >>> pooled_effect([PastExperiment(0.08, 0.03), PastExperiment(0.04, 0.03)])
        Uncertain(mean=0.06, sd=0.023906066176)
    """
    effects = np.array([experiment.effect for experiment in experiments])
    variances = np.array([experiment.standard_error for experiment in experiments]) ** 2
    between = _between_variance(effects, variances)
    for _ in range(2):  # the floor depends on the mean, which depends on the weights
        weights = 1.0 / (variances + between)
        mean = float(weights @ effects / weights.sum())
        between = max(between, (LEAST_BETWEEN * mean) ** 2)
    return Uncertain(round(mean, 12), round(math.sqrt(1.0 / weights.sum() + between), 12))


def _between_variance(effects: Floats, variances: Floats) -> float:
    weights = 1.0 / variances
    mean = weights @ effects / weights.sum()
    excess = weights @ (effects - mean) ** 2 - (len(effects) - 1)
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    return max(float(excess / scale), 0.0) if scale > 0 else 0.0


def two_effects(top: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Campaigns of a user's entries that have an effect beside past experiments which pool to another one, by their paths."""
    campaigns = top.get("campaigns")
    for name, entry in campaigns.items() if isinstance(campaigns, Mapping) else ():
        if not isinstance(entry, Mapping) or not entry.get("past_experiments") or entry.get("effect") is None:
            continue
        if _complete(name, {key: value for key, value in entry.items() if key != "effect"})["effect"] != entry["effect"]:
            yield (
                ("campaigns", str(name), "effect"),
                "past_experiments are there too, and decide the effect: leave one of the two out",
            )


OWN_CHANNEL: Mapping[str, float] = {"mean": 0.0, "sd": 0.0}
"""Log of the factor of a campaign's own channel, for which its effect is stated."""

_OTHER_CHANNEL = {"mean": -0.5, "sd": 0.25}
_UNKNOWN = {"mean": 1.0, "sd": 1.0}
"""Stands for the effect of experiments that are refused themselves, so that nothing else is told of it."""
_EXPERIMENTS = TypeAdapter(tuple[PastExperiment, ...])


def with_campaign_defaults(campaigns: Any) -> Any:
    """Complete campaigns as they are written in a file: label, source, channel factors, and the effect of past experiments.

    A channel without a factor of its own has a log factor of -0.5 with a deviation of 0.25; that of its own channel is exactly 0.
    Past experiments decide the effect where there are any.
    """
    if not isinstance(campaigns, Mapping):
        return campaigns
    return {name: _complete(name, entry) if isinstance(entry, Mapping) else entry for name, entry in campaigns.items()}


def _complete(name: Any, campaign: Mapping[str, Any]) -> Mapping[str, Any]:
    complete: dict[str, Any] = {"label": str(name).replace("_", " ").capitalize(), "source": "stated in the catalogue", **campaign}
    own, channels = campaign.get("channel"), campaign.get("channels") or {}
    if own in list(Channel) and isinstance(channels, Mapping):
        factors = {channel.value: channels.get(channel.value, _OTHER_CHANNEL) for channel in Channel}
        complete["channels"] = {**channels, **factors, own: OWN_CHANNEL}
    complete.setdefault("channels", {})
    if campaign.get("past_experiments"):
        try:
            experiments = _EXPERIMENTS.validate_python(campaign["past_experiments"])
        except ValueError:
            return {"effect": _UNKNOWN, **complete}  # the field itself is refused, with its place
        if not all(experiment.standard_error > 0 for experiment in experiments):
            return {"effect": _UNKNOWN, **complete}  # the standard error is refused, with its place
        complete["effect"] = asdict(pooled_effect(experiments))
        complete["source"] = campaign.get("source") or f"{len(experiments)} past experiments"
    return complete
