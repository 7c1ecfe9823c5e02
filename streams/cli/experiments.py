"""Commands of those who plan experiments and read what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import pandas as pd

from engine import ExperimentDesigner
from engine.experiments.counterfactuals import Counterfactuals, counterfactuals, treated_counterfactuals
from engine.experiments.experiment_design import Assignment
from engine.twins.twin_model import TwinModel
from schemas import TWIN_TYPES, Brand, EffectPrior, ExperimentPlan, TwinType, model_line
from schemas.base import require_one_of
from sql.database import Pool
from sql.experiment_store import current_priors
from streams.cli.options import (
    TABLE,
    campaign,
    campaign_options,
    filter_option,
    filters_of,
    intervention_argument,
    line_options,
)
from streams.cli.output import answer, as_json_option, say, with_pool
from streams.settings import Settings
from streams.training.datasets import read_table, write_table
from streams.worker.setup import champion_of

__all__ = ["counterfactuals_of", "design", "untreated"]

out_option = click.option("--out", type=TABLE, help="Write a row for each entity here (.csv, .csv.gz or .parquet).")


@click.command()
@intervention_argument
@campaign_options
@filter_option
@click.option("--effect", type=float, default=0.05, show_default=True, help="The smallest effect worth finding, a fraction.")
@click.option("--power", type=float, default=0.80, show_default=True, help="Probability of finding it.")
@click.option("--control-ratio", type=float, default=1.0, show_default=True, help="People in the control arm per treated one.")
@click.option("--cluster-size", type=float, default=1.0, show_default=True, help="People in a unit that is assigned as a whole.")
@click.option("--icc", type=float, default=0.0, show_default=True, help="Share of the outcome's variance between such units.")
@click.option("--available", type=int, help="People there are: tells what they can find.")
@line_options
@as_json_option
def design(
    intervention: str,
    channel: str | None,
    frequency: str,
    weeks: int,
    intensity: float | None,
    filters: tuple[str, ...],
    effect: float,
    power: float,
    control_ratio: float,
    cluster_size: float,
    icc: float,
    available: int | None,
    twin_type: str,
    brand: str,
    target: str | None,
    *,
    as_json: bool,
) -> None:
    """Plan the real experiment that would settle what INTERVENTION does: arms, how many people, and its power."""
    asked = campaign(intervention, channel, frequency, weeks, intensity)
    model, priors = _with_line(model_line(TwinType(twin_type), Brand(brand), target))
    plan = ExperimentDesigner(model, priors=priors).design(
        asked,
        filters_of(filters),
        effect=effect,
        power=power,
        assignment=Assignment(control_ratio, cluster_size, icc),
        n_available=available,
    )
    answer(plan.model_dump(mode="json"), lambda: _plan_text(plan), as_json=as_json)


@click.command("counterfactuals")
@intervention_argument
@click.argument("file", type=TABLE)
@campaign_options
@out_option
@line_options
@as_json_option
def counterfactuals_of(
    intervention: str,
    file: Path,
    channel: str | None,
    frequency: str,
    weeks: int,
    intensity: float | None,
    out: Path | None,
    twin_type: str,
    brand: str,
    target: str | None,
    *,
    as_json: bool,
) -> None:
    """What the entities of FILE would do with and without INTERVENTION, each and on average."""
    table, asked = read_table(file), campaign(intervention, channel, frequency, weeks, intensity)
    model, priors = _with_line(model_line(TwinType(twin_type), Brand(brand), target))
    _say_what_is_known(model, table)
    told = counterfactuals(model, table, asked, priors=priors)
    _tell(told, table, out, f"{intervention} on {len(table):,} entities", _unit(model), as_json=as_json)


@click.command()
@click.argument("file", type=TABLE)
@click.option("--treated", default="treated", show_default=True, help="Column that is true (or 1) for those who were treated.")
@click.option("--outcome", help="Column of what each did; the line's target by default.")
@click.option("--cluster", help="Column of the unit that was assigned, where that was not the entity.")
@out_option
@line_options
@as_json_option
def untreated(
    file: Path,
    treated: str,
    outcome: str | None,
    cluster: str | None,
    out: Path | None,
    twin_type: str,
    brand: str,
    target: str | None,
    *,
    as_json: bool,
) -> None:
    """What the treated of a finished experiment would have done untreated: FILE has a row for each entity of both arms."""
    table = read_table(file)
    model, _ = _with_line(model_line(TwinType(twin_type), Brand(brand), target))
    columns = [
        require_one_of("column", name, map(str, table.columns)) for name in (outcome or model.card.target, treated, cluster) if name
    ]
    _say_what_is_known(model, table)
    told = treated_counterfactuals(
        model.predict(table),
        table[columns[0]].to_numpy(dtype=float),
        table[treated].to_numpy(dtype=bool),
        clusters=table[cluster].to_numpy() if cluster else None,
    )
    _tell(told, table, out, f"{len(told.entities):,} treated of {len(table):,} entities", _unit(model), as_json=as_json)


def _with_line(line: str) -> tuple[TwinModel, Mapping[str, EffectPrior]]:
    """The champion of a line, and what is believed of interventions on it.

    Raises:
        LookupError: when the line has no champion.
    """

    async def found(at: Settings, pool: Pool) -> tuple[TwinModel, Mapping[str, EffectPrior]]:
        return await champion_of(at, pool, line), await current_priors(pool, line)

    return with_pool(found)


def _say_what_is_known(model: TwinModel, table: pd.DataFrame) -> None:
    """Which features the table has nothing for; one without any is refused."""
    lacking = [name for name in model.card.features if name not in table]
    if len(lacking) == len(model.card.features):
        raise ValueError(f"no column is a feature of {model.card.line}: expected some of {', '.join(lacking)}")
    if lacking:
        say(f"the table has nothing for {', '.join(lacking)}: taken as missing")


def _unit(model: TwinModel) -> str:
    return TWIN_TYPES[model.card.twin_type].target(model.card.target).unit


def _tell(told: Counterfactuals, table: pd.DataFrame, out: Path | None, about: str, unit: str, *, as_json: bool) -> None:
    if out is not None:
        known = table.drop(columns=told.entities.columns, errors="ignore").iloc[told.entities.index]
        write_table(pd.concat([known, told.entities.set_index(known.index)], axis=1), out)
        say(f"{len(known):,} rows written to {out}")
    words = [f"{about}, on average ({unit}):"]
    words += [f"  {name:<11}{_of(told.average, name)}" for name in ("without", "with", "difference")]
    answer(dict(told.average), lambda: "\n".join(words), as_json=as_json)


def _of(average: Mapping[str, float], name: str) -> str:
    low, high = average[f"{name}_lower"], average[f"{name}_upper"]
    return f"{average[name]:+.4g}" + (f"   {low:+.4g} to {high:+.4g}" if low < high else "")


def _plan_text(plan: ExperimentPlan) -> str:
    whole = plan.design_effect > 1
    arms = [f"  {arm.name:<28}{arm.n:>9,} people" + (f" in {arm.clusters:,} clusters" if whole else "") for arm in plan.arms]
    simulated = plan.simulation
    return "\n".join(
        [
            f"to find an effect of {plan.effect:.1%} at {plan.alpha:.0%} two-sided, with a power of {plan.power:.0%}:",
            *arms,
            f"  the smallest effect this finds as often as asked: {plan.detectable_effect:.2%}",
            f"  adjusting for the prediction (correlation {plan.correlation:.2f}) saves {plan.saved:.0%} of the people",
            *([f"  assigning whole clusters costs a factor of {plan.design_effect:.2f}"] if whole else []),
            f"simulated: {simulated.ate:+.1%}, {simulated.ate_ci_lower:+.1%} to {simulated.ate_ci_upper:+.1%}",
            f"  an effect of this size is found with a power of {plan.power_at_simulated:.0%}",
            *(f"note: {warning}" for warning in (*plan.warnings, *simulated.warnings)),
        ]
    )
