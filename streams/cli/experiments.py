"""Commands for people who plan experiments and analyse their results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas import TWIN_TYPES, Brand, Frequency, TwinType, model_line
from schemas.base import require_one_of
from streams.cli.campaigns import (
    BrandOption,
    ChannelOption,
    FrequencyOption,
    IntensityOption,
    InterventionArgument,
    TargetOption,
    TwinTypeOption,
    WeeksOption,
    make_campaign,
)
from streams.cli.connection import use_service_catalogue, with_read_pool
from streams.cli.options import FilterOption, JsonOption, OutOption, TableArgument, examples, parse_filters, require_value
from streams.cli.output import notify, print_result
from streams.cli.table_options import notify_remarks, reads_table
from streams.tables import Kind, TableOptions

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from engine.experiments import Counterfactuals
    from engine.twins import TwinModel
    from schemas import ExperimentPlan
    from schemas.arrays import Flags
    from sql.database import Pool
    from streams.operations.planning import LineChampion
    from streams.settings import Settings

app = typer.Typer()

ControlRatioOption = Annotated[
    float,
    typer.Option(
        metavar="NUMBER",
        help="Planned people (or clusters) in the control arm for each treated one.",
        callback=require_value(lambda value: 0 < value < math.inf, "must be a positive number"),
    ),
]


@app.command(
    epilog=examples(
        "twinstream design speaker_program_invitation",
        "twinstream design email_campaign --effect 0.03 --power 0.9 --control-ratio 2",
        "twinstream design email_campaign --cluster-size 10 --icc 0.02 --available 4000",
    )
)
def design(
    intervention: InterventionArgument,
    channel: ChannelOption = None,
    frequency: FrequencyOption = Frequency.MONTHLY,
    weeks: WeeksOption = 12,
    intensity: IntensityOption = None,
    filters: FilterOption = None,
    effect: Annotated[
        float,
        typer.Option(
            metavar="FRACTION",
            help="The smallest effect worth detecting, as a fraction.",
            callback=require_value(lambda value: value != 0 and math.isfinite(value), "must be a number other than 0"),
        ),
    ] = 0.05,
    power: Annotated[
        float,
        typer.Option(
            metavar="PROBABILITY",
            help="Probability of detecting it.",
            callback=require_value(lambda value: 0 < value < 1, "must be between 0 and 1"),
        ),
    ] = 0.80,
    control_ratio: ControlRatioOption = 1.0,
    cluster_size: Annotated[
        float,
        typer.Option(
            metavar="NUMBER",
            help="People in each cluster, when whole clusters are assigned.",
            callback=require_value(lambda value: 1 <= value < math.inf, "must be a number of at least 1"),
        ),
    ] = 1.0,
    icc: Annotated[
        float,
        typer.Option(
            metavar="FRACTION",
            help="Intra-cluster correlation: share of the outcome's variance between clusters.",
            callback=require_value(lambda value: 0 <= value <= 1, "must be between 0 and 1"),
        ),
    ] = 0.0,
    available: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="Number of people available; also shows the power and effect possible with them.",
            callback=require_value(lambda value: 4 <= value <= 1_000_000_000, "must be between 4 and 1,000,000,000"),
        ),
    ] = None,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: BrandOption = Brand.KISQALI,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Plan a real experiment on the effect of INTERVENTION.

    The plan has the arms, their sample sizes and the power, on the population of the line's champion.
    """
    from engine.experiments import Assignment
    from streams.operations.planning import PilotAim, plan_pilot

    use_service_catalogue()
    campaign = make_campaign(intervention, channel, frequency, weeks, intensity)
    champion = _load_champion(model_line(twin_type, brand, target))
    aim, assignment = PilotAim(effect, power, available), Assignment(control_ratio, cluster_size, icc)
    plan = plan_pilot(champion, campaign, parse_filters(filters), aim, assignment)
    print_result(plan.model_dump(mode="json"), lambda: _plan_text(plan), as_json=as_json)


@app.command(
    epilog=examples(
        "twinstream counterfactuals speaker_program_invitation hcps.csv",
        "twinstream counterfactuals email_campaign hcps.csv --frequency weekly --out predicted.parquet",
    )
)
@reads_table
def counterfactuals(
    intervention: InterventionArgument,
    file: TableArgument,
    channel: ChannelOption = None,
    frequency: FrequencyOption = Frequency.MONTHLY,
    weeks: WeeksOption = 12,
    intensity: IntensityOption = None,
    out: OutOption = None,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: BrandOption = Brand.KISQALI,
    target: TargetOption = None,
    as_json: JsonOption = False,
    *,
    reading: TableOptions,
) -> None:
    """Predict what INTERVENTION changes for each row of FILE.

    FILE has a row for each entity. The result is the outcome with INTERVENTION, without it, and the difference.
    """
    from engine.experiments import predict_counterfactuals
    from streams.operations.planning import target_unit

    table = _read_entities(file, twin_type, reading)
    use_service_catalogue()
    campaign = make_campaign(intervention, channel, frequency, weeks, intensity)
    model, priors = _load_champion(model_line(twin_type, brand, target))
    _check_features(model, table)
    predicted = predict_counterfactuals(model, table, campaign, priors=priors)
    if out is not None:
        _write_entities(predicted, table, out)
    heading = f"{intervention} on {len(table):,} entities, on average ({target_unit(model)}):"
    print_result(dict(predicted.average), lambda: _average_text(heading, predicted.average), as_json=as_json)


@app.command(
    epilog=examples(
        "twinstream untreated experiment.csv",
        "twinstream untreated experiment.csv --treated arm --treated-value mailed --control-value holdout --cluster territory_id",
    )
)
@reads_table
def untreated(
    file: TableArgument,
    treated: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the arm: treated/control, 1/0, true/false or yes/no.")
    ] = "treated",
    treated_value: Annotated[
        str | None, typer.Option(metavar="VALUE", help="Value of treated entities, where the column has other words.")
    ] = None,
    control_value: Annotated[
        str | None, typer.Option(metavar="VALUE", help="Value of control entities, where the column has other words.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the outcome; the line's target by default.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the cluster, when whole clusters were assigned.")
    ] = None,
    control_ratio: ControlRatioOption = 1.0,
    out: OutOption = None,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: BrandOption = Brand.KISQALI,
    target: TargetOption = None,
    as_json: JsonOption = False,
    *,
    reading: TableOptions,
) -> None:
    """Estimate what treated entities would have done untreated.

    FILE is the table of a finished experiment, with a row for each entity of both arms.
    """
    from engine.experiments import parse_arms, require_filled, treated_counterfactuals
    from streams.operations.planning import target_unit

    use_service_catalogue()
    target_name = outcome or TWIN_TYPES[twin_type].target(target).name
    table = _read_entities(
        file, twin_type, reading, {treated: "category", target_name: "number", **({cluster: "id"} if cluster else {})}
    )
    model, _ = _load_champion(model_line(twin_type, brand, target))
    names = [target_name, treated, *([cluster] if cluster else [])]
    columns = [require_one_of("column", name, map(str, table.columns)) for name in names]
    _check_features(model, table)
    is_treated = parse_arms(table[treated], treated_value=treated_value, control_value=control_value, name=treated)
    for name in names:
        require_filled(table[name], name)
    clusters = table[cluster].to_numpy() if cluster else None
    estimated = treated_counterfactuals(
        model.predict(table), table[columns[0]].to_numpy(dtype=float), is_treated, clusters=clusters
    )
    if out is not None:
        _write_entities(estimated, table, out)
    warning = _ratio_warning(is_treated, clusters, control_ratio)
    heading = f"{len(estimated.entities):,} treated of {len(table):,} entities, on average ({target_unit(model)}):"
    payload = {**estimated.average, "warnings": [warning] if warning else []}
    notes = [f"warning: {warning}"] if warning else []
    print_result(payload, lambda: "\n".join([_average_text(heading, estimated.average), *notes]), as_json=as_json)


def _ratio_warning(is_treated: Flags, clusters: npt.NDArray[Any] | None, control_ratio: float) -> str | None:
    """A warning where the numbers of units of assignment contradict the planned ratio."""
    import numpy as np

    from engine.experiments import sample_ratio_warning

    arms = (is_treated, ~is_treated)
    sizes = [int(arm.sum()) if clusters is None else len(np.unique(clusters[arm].astype(str))) for arm in arms]
    return sample_ratio_warning(sizes[0], sizes[1], control_ratio, "people" if clusters is None else "clusters")


def _read_entities(file: Path, twin_type: TwinType, reading: TableOptions, kinds: Mapping[str, Kind] | None = None) -> pd.DataFrame:
    """Read a table with a row for each entity, and print what was converted; ``kinds`` are those of further columns."""
    from streams.tables import Column, entity_columns, read_table

    further = {name: Column(name, kind) for name, kind in (kinds or {}).items()}
    result = read_table(file, {**further, **entity_columns(twin_type)}, reading)
    notify_remarks(result.remarks())
    return result.frame


def _load_champion(line: str) -> LineChampion:
    """Load the champion of a line, and the calibrated effect priors of the line.

    Raises:
        LookupError: when the line has no champion.
    """

    async def load(settings: Settings, pool: Pool) -> LineChampion:
        from streams.operations.planning import line_champion
        from streams.registry import ModelLoader

        return await line_champion(pool, ModelLoader.from_settings(pool, settings), line)

    return with_read_pool(load, "mlflow")


def _check_features(model: TwinModel, table: pd.DataFrame) -> None:
    """Print which features have no column or no value in the table, and which have levels that the model never saw.

    Raises:
        ValueError: when none has one.
    """
    from streams.operations.planning import feature_gaps

    for sentence in feature_gaps(model, table):
        notify(sentence)


def _write_entities(result: Counterfactuals, table: pd.DataFrame, out: Path) -> None:
    """Write the rows of the entities, with what was predicted for each beside their own columns."""
    from streams.operations.planning import with_predictions
    from streams.training import write_table

    rows = with_predictions(result, table)
    write_table(rows, out)
    notify(f"{len(rows):,} rows written to {out}")


def _average_text(heading: str, average: Mapping[str, float]) -> str:
    from streams.reporting import align_columns

    rows = align_columns([_average_cells(average, name) for name in ("without", "with", "difference")], numeric=(1,))
    return "\n".join([heading, *(f"  {row}" for row in rows)])


def _average_cells(average: Mapping[str, float], name: str) -> tuple[str, str, str]:
    """The name, the average and its interval, which is empty where it is one point."""
    from streams.reporting import signed_number

    low, high = average[f"{name}_lower"], average[f"{name}_upper"]
    return name, signed_number(average[name]), f"{signed_number(low)} to {signed_number(high)}" if low < high else ""


def _plan_text(plan: ExperimentPlan) -> str:
    from streams.reporting import align_columns, count, effect, share, signed_share_range

    clustered = plan.design_effect > 1
    arms = align_columns(
        [(arm.name, count(arm.n), f"people in {count(arm.clusters)} clusters" if clustered else "people") for arm in plan.arms],
        numeric=(1,),
    )
    simulated, unit = plan.simulation, plan.simulation.effect_unit
    interval = signed_share_range(simulated.ate_ci_lower, simulated.ate_ci_upper)
    return "\n".join(
        [
            f"to detect an effect of {share(plan.effect)} {unit} (two-sided test at {plan.alpha:.0%}, power {plan.power:.0%}):",
            *(f"  {arm}" for arm in arms),
            f"  smallest effect that is detected with the power you asked for: {plan.detectable_effect:.2%} {unit}",
            f"  adjusting for the prediction (correlation {plan.correlation:.2f}) saves {plan.saved:.0%} of the people",
            *([f"  assigning whole clusters costs a factor of {plan.design_effect:.2f}"] if clustered else []),
            f"simulated effect: {effect(simulated.ate, unit)}, {interval}",
            f"  an effect of this size is detected with a power of {plan.power_at_simulated:.0%}",
            *(f"note: {warning}" for warning in (*plan.warnings, *simulated.warnings)),
        ]
    )
