"""Renders effects of campaigns, by version, variant and dose, as text for a terminal and as data for a program."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from engine.effects import catalogue_prior, prior_interval
from schemas import INTERVENTIONS, EffectPrior, catalogue_in_effect
from schemas.base import count_of, require_one_of
from schemas.effect_priors import EffectScenario
from schemas.level_meaning import declared_level, meaning_key
from sql.effects_store import EffectsPin, EffectsVersion, ExperimentRow
from streams.reporting.experiments import decision_text, experiment_cells, experiment_dict, prior_text
from streams.reporting.formatting import align_columns, moment, number, share, signed_share, signed_share_range

__all__ = [
    "COLUMNS",
    "HISTORY_COLUMNS",
    "CampaignEffect",
    "LineEffects",
    "campaign_cells",
    "campaign_dict",
    "campaign_text",
    "detailed_dict",
    "history_cells",
    "history_dict",
]

_HALF = 1.96
COLUMNS = ("Line", "Campaign", "Catalogue", "Now", "Experiments", "Version", "Catalogue version")
HISTORY_COLUMNS = ("Version", "At", "What", "Catalogue version", "Effects")


class CampaignEffect(NamedTuple):
    """What a version believes about a campaign.

    Attributes:
        version: effects version, with ``is_in_effect`` where simulations take it; 0 is the catalogue alone.
        catalogue_version: that ``posterior`` was computed under; null where it was not stored.
        prior: of the catalogue in effect.
        posterior: calibrated by ``experiments``; the catalogue's own without any.
    """

    line: str
    intervention: str
    version: int
    is_in_effect: bool
    catalogue_version: int | None
    prior: EffectPrior
    posterior: EffectPrior
    experiments: tuple[str, ...]


class LineEffects(NamedTuple):
    """Effects versions of a line and the choices among them, each the oldest first, and the version in effect."""

    line: str
    versions: tuple[EffectsVersion, ...]
    pins: tuple[EffectsPin, ...]
    in_effect: int

    def campaigns(self, *, every: bool) -> list[CampaignEffect]:
        """Campaigns that the version in effect has calibrated; with ``every`` also those that it has not."""
        calibrated = self._priors(self.in_effect)
        names = sorted({*calibrated, *INTERVENTIONS}) if every else sorted(name for name, (_, ids) in calibrated.items() if ids)
        return [self.campaign(name, self.in_effect) for name in names if name in INTERVENTIONS]

    def campaign(self, intervention: str, version: int | None = None) -> CampaignEffect:
        """A campaign at a version, that in effect by default.

        Raises:
            ValueError: for an unknown campaign.
            LookupError: for an unknown version.
        """
        require_one_of("intervention", intervention, INTERVENTIONS)
        shown = self.in_effect if version is None else version
        newest = self.versions[-1].version if self.versions else 0
        if not 0 <= shown <= newest:
            raise LookupError(f"{self.line} has no effects version {shown}: 0 (the catalogue) to {newest}")
        prior = catalogue_prior(intervention)
        posterior, experiments = self._priors(shown).get(intervention, (prior, ()))
        catalogue = next((item.catalogue_version for item in self.versions if item.version == posterior.version), None)
        return CampaignEffect(
            self.line,
            intervention,
            shown,
            shown == self.in_effect,
            catalogue if posterior.version else catalogue_in_effect().version,
            prior,
            posterior,
            tuple(experiments),
        )

    def events(self) -> list[EffectsVersion | EffectsPin]:
        """Versions and choices, the newest first."""
        return sorted(
            [*self.versions, *self.pins],
            key=lambda item: item.made_at if isinstance(item, EffectsVersion) else item.pinned_at,
            reverse=True,
        )

    def _priors(self, version: int) -> dict[str, tuple[EffectPrior, tuple[str, ...]]]:
        return next((item.priors for item in self.versions if item.version == version), {})


def campaign_cells(campaign: CampaignEffect) -> tuple[str, ...]:
    """A campaign as the cells of ``COLUMNS``."""
    version = f"{campaign.version}{'' if campaign.is_in_effect else ' (not in effect)'}"
    return (
        campaign.line,
        campaign.intervention,
        prior_text(campaign.prior),
        prior_text(campaign.posterior),
        str(len(campaign.experiments)),
        version,
        "-" if campaign.catalogue_version is None else str(campaign.catalogue_version),
    )


def campaign_dict(campaign: CampaignEffect) -> dict[str, Any]:
    """A campaign as data for a program."""
    return {
        "line": campaign.line,
        "intervention": campaign.intervention,
        "effects_version": campaign.version,
        "in_effect": campaign.is_in_effect,
        "catalogue_version": campaign.catalogue_version,
        "prior": _prior_dict(campaign.prior),
        "posterior": _prior_dict(campaign.posterior),
        "experiments": [*campaign.experiments],
    }


def detailed_dict(campaign: CampaignEffect, rows: Sequence[ExperimentRow]) -> dict[str, Any]:
    """A campaign with its variants, doses and experiments as data for a program."""
    variants = [
        {"variant": name, "mean": mean, "lower": low, "upper": high} for name, mean, (low, high) in _variants(campaign.posterior)
    ]
    return {
        **campaign_dict(campaign),
        "variants": variants,
        "tested_doses": [dose.model_dump() for dose in campaign.posterior.tested],
        "responses": [scenario.model_dump(exclude={"quantiles"}) for scenario in campaign.posterior.scenarios],
        "learned": [
            {"parameter": name, "factor": mean, "lower": low, "upper": high}
            for name, mean, low, high in _learned(campaign.posterior, rows)
        ],
        "experiments": [experiment_dict(row) for row in rows if row.experiment_id in campaign.experiments],
    }


def campaign_text(campaign: CampaignEffect, rows: Sequence[ExperimentRow]) -> str:
    """Everything about the effect of a campaign."""
    prior, posterior = campaign.prior, campaign.posterior
    state = "in effect" if campaign.is_in_effect else "not in effect"
    lines = [
        f"{campaign.intervention} on {campaign.line}, effects version {campaign.version} ({state})",
        "base effect (monthly, 12 weeks, own channel), with the 95% interval of the next campaign:",
        f"  catalogue  {prior_text(prior)}",
        f"  now        {prior_text(posterior)}",
        f"  {posterior.source or 'stated in the catalogue'}",
    ]
    if posterior.contradicted:
        lines.append("  an experiment is far from what the catalogue expects of it")
    if variants := list(_variants(posterior)):
        cells = [(name, signed_share(mean), signed_share_range(*ends)) for name, mean, ends in variants]
        lines += ["by variant:", *(f"  {line}" for line in align_columns(cells, numeric=(1,)))]
    if posterior.tested:
        doses = [
            f"{number(d.contacts)} contacts in {number(d.weeks)} weeks, intensity {number(d.intensity)}" for d in posterior.tested
        ]
        lines += ["tested doses:", *(f"  {dose}" for dose in doses)]
    if posterior.scenarios:
        lines += ["response to dose:", *(f"  {line}" for line in align_columns(_responses(posterior.scenarios), numeric=(0,)))]
    if learned := _learned(posterior, rows):
        cells = [(name, f"x {_factor(mean)}", f"95% {_factor(low)} to {_factor(high)}") for name, mean, low, high in learned]
        lines += [
            "learned beside it, factors of the effect (contacts, weeks, intensity: of the dose that gives half of it):",
            *(f"  {line}" for line in align_columns(cells)),
        ]
    stored = [experiment_cells(row) for row in rows if row.experiment_id in campaign.experiments]
    if stored:
        lines += ["rests on:", *(f"  {line}" for line in align_columns([(i, at, *rest) for i, at, _, _, *rest in stored]))]
    return "\n".join(lines)


def history_cells(event: EffectsVersion | EffectsPin) -> tuple[str, ...]:
    """A version or a choice as the cells of ``HISTORY_COLUMNS``."""
    if isinstance(event, EffectsPin):
        choice = "the newest version counts again" if event.version is None else f"rollback to version {event.version}"
        reason = f" ({event.reason})" if event.reason else ""
        return "", moment(event.pinned_at), f"{choice}, by {event.pinned_by}{reason}", "", ""
    effects = [f"{name} {signed_share(prior.mean)}" for name, (prior, _) in event.priors.items() if prior.version == event.version]
    catalogue = "-" if event.catalogue_version is None else str(event.catalogue_version)
    experiments = count_of(len(event.experiments), "experiment")
    if event.decision is not None:
        experiments += f": {decision_text(event.decision)}"
    return str(event.version), moment(event.made_at), experiments, catalogue, ", ".join(effects)


def history_dict(event: EffectsVersion | EffectsPin) -> dict[str, Any]:
    """A version or a choice as data for a program."""
    if isinstance(event, EffectsPin):
        return {"event": "rollback" if event.version is not None else "undo", **event._asdict()}
    changed = {name: _prior_dict(prior) for name, (prior, _) in event.priors.items() if prior.version == event.version}
    decision = None if event.decision is None else event.decision._asdict()
    return {"event": "version", **event._asdict(), "priors": changed, "decision": decision}


def _prior_dict(prior: EffectPrior) -> dict[str, Any]:
    low, high = prior_interval(prior)
    return {"mean": prior.mean, "sd": prior.sd, "between_sd": prior.between_sd, "lower": low, "upper": high, "source": prior.source}


def _variants(prior: EffectPrior) -> Iterator[tuple[str, float, tuple[float, float]]]:
    """Name, median and interval of each tested variant."""
    for name, variant in prior.variants.items():
        scenarios = tuple(
            scenario.model_copy(update={"quantiles": quantiles})
            for scenario, quantiles in zip(prior.scenarios, variant.quantiles, strict=True)
        )
        alone = prior.model_copy(update={"scenarios": scenarios})
        yield name, prior_interval(alone, 1e-9)[0], prior_interval(alone)


def _learned(prior: EffectPrior, rows: Sequence[ExperimentRow]) -> list[tuple[str, float, float, float]]:
    """Parameters that experiments have taught beside the base effect, as factors with their 95 % intervals."""
    if prior.learned is None:
        return []
    learned = prior.learned
    reported = _as_reported(rows)
    names = [
        *learned.names,
        *(
            f"{dimension}={declared_level(dimension, reported.get((dimension, level), level))}"
            for dimension, level in learned.levels
        ),
    ]
    parameters = zip(names, learned.mean, learned.shared, learned.factor, strict=True)
    spreads = [(name, mean, _HALF * math.hypot(shared, *factor)) for name, mean, shared, factor in parameters]
    return [(name, math.exp(mean), math.exp(mean - half), math.exp(mean + half)) for name, mean, half in spreads]


def _as_reported(rows: Sequence[ExperimentRow]) -> dict[tuple[str, str], str]:
    """Spelling of the levels that experiments report, by column and the form in which levels are compared and stored."""
    groups = [group for row in rows for group in row.body.get("subgroups") or ()]
    return {(group["dimension"], meaning_key(group["dimension"], group["level"])): group["level"] for group in groups}


def _factor(value: float) -> str:
    return f"{value:.2f}"


def _responses(scenarios: Sequence[EffectScenario]) -> list[tuple[str, str]]:
    """Probability of each shape of the response, the likeliest first, and in words what it means."""
    ordered = sorted(scenarios, key=lambda scenario: -scenario.weight)
    return [(share(scenario.weight), ", ".join(_shape(scenario))) for scenario in ordered]


def _shape(scenario: EffectScenario) -> Iterator[str]:
    for name in ("contacts", "weeks", "intensity"):
        factor = getattr(scenario, name)
        if factor != 1:
            yield f"{name}: {'the first have nearly all of it' if factor < 1 else 'in proportion'}"
    if (scenario.contacts, scenario.weeks, scenario.intensity) == (1, 1, 1):
        yield "as in the catalogue"
