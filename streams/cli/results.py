"""The group ``twinstream experiments``: what real experiments measured is added, shown, withdrawn, and believed again."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from schemas import Brand, Frequency, TwinType, model_line
from streams.cli.campaigns import (
    BrandOption,
    ChannelOption,
    FrequencyOption,
    IntensityOption,
    TargetOption,
    TwinTypeOption,
    WeeksOption,
    complete_intervention,
    make_campaign,
)
from streams.cli.connection import connected_service, use_service_catalogue, with_read_pool
from streams.cli.experiments import ControlRatioOption
from streams.cli.options import (
    TABLE_KINDS,
    DryRunOption,
    FilterOption,
    JsonOption,
    ReasonOption,
    examples,
    parse_filters,
    require_value,
    table_path,
)
from streams.cli.output import Table, print_result
from streams.cli.running import run_command
from streams.cli.table_options import notify_remarks, reads_table
from streams.tables import TableOptions

if TYPE_CHECKING:
    from engine.experiments import TrialAnalysis
    from engine.twins import TwinModel
    from schemas import ExperimentResult
    from sql.database import Pool
    from sql.effects_store import ExperimentDecision, ExperimentRow
    from streams.operations.experiment_receipts import ExperimentReceipt
    from streams.operations.trial_rows import TrialColumns
    from streams.settings import Settings

app = typer.Typer()

_ROWS, _NUMBERS = "A result from its rows", "A result in numbers"
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of an experiment.", show_default=False)]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="How long to wait for the receipt.",
        callback=require_value(lambda value: 0 < value < math.inf, "must be a positive number of seconds"),
    ),
]


class _Result(NamedTuple):
    """A result to publish, with its analysis where it comes from rows."""

    event: ExperimentResult
    analysis: TrialAnalysis | None = None


def _rows_option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=_ROWS, show_default=False)


def _number_option(name: str, text: str) -> Any:
    return typer.Option(name, metavar="NUMBER", help=text, rich_help_panel=_NUMBERS, show_default=False)


@app.command(
    epilog=examples(
        "twinstream experiments add email_campaign --id spring --effect 0.03 --standard-error 0.01 --treated 400 --control 400",
        "twinstream experiments add --file results.yaml",
        "twinstream experiments add email_campaign --id spring --rows pilot.csv --arm group --cluster clinic",
    )
)
@reads_table
def add(
    context: typer.Context,
    intervention: Annotated[
        str | None, typer.Argument(metavar="INTERVENTION", help="What the campaign did.", autocompletion=complete_intervention)
    ] = None,
    experiment_id: Annotated[
        str | None, typer.Option("--id", metavar="NAME", help="Names the experiment: added again, it changes nothing.")
    ] = None,
    results: Annotated[  # no table: the options of the reader look for a mapping of an argument named file
        Path | None, typer.Option("--file", metavar="FILE", dir_okay=False, help="One or several results as YAML or JSON.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--rows", metavar="FILE", parser=table_path, help=f"Its rows. {TABLE_KINDS}")] = None,
    effect: Annotated[float | None, _number_option("--effect", "The effect, as a fraction; above 0 where it is desired.")] = None,
    error: Annotated[float | None, _number_option("--standard-error", "Its standard error, as a fraction.")] = None,
    treated: Annotated[int | None, _number_option("--treated", "People in the treated arm.")] = None,
    control: Annotated[int | None, _number_option("--control", "People in the control arm.")] = None,
    arm: Annotated[str | None, _rows_option("--arm", "COLUMN", "Column of the arm; treated, arm or group by default.")] = None,
    treated_value: Annotated[
        str | None, _rows_option("--treated-value", "VALUE", "Value of treated units, where the column has other words.")
    ] = None,
    control_value: Annotated[
        str | None, _rows_option("--control-value", "VALUE", "Value of control units, where the column has other words.")
    ] = None,
    outcome: Annotated[
        str | None, _rows_option("--outcome", "COLUMN", "Column of the outcome; the line's target by default.")
    ] = None,
    unit: Annotated[str | None, _rows_option("--unit", "COLUMN", "Column that names each unit.")] = None,
    cluster: Annotated[
        str | None, _rows_option("--cluster", "COLUMN", "Column of the cluster, when whole clusters were assigned.")
    ] = None,
    covariates: Annotated[
        list[str] | None, _rows_option("--covariate", "COLUMN", "Number from before the experiment to adjust for; repeatable.")
    ] = None,
    subgroups: Annotated[
        list[str] | None,
        _rows_option("--subgroup", "FEATURE", "Report effects by its levels too, beside the usual dimensions; repeatable."),
    ] = None,
    leave_out_missing: Annotated[
        bool,
        typer.Option(
            "--leave-out-missing",
            help="Analyse those who have an outcome, and tell how many each arm lost.",
            rich_help_panel=_ROWS,
        ),
    ] = False,
    channel: ChannelOption = None,
    frequency: FrequencyOption = Frequency.MONTHLY,
    weeks: WeeksOption = 12,
    intensity: IntensityOption = None,
    variant: Annotated[str | None, typer.Option(metavar="NAME", help="The message or creative of the campaign.")] = None,
    filters: FilterOption = None,
    observed_at: Annotated[
        datetime | None,
        typer.Option(metavar="TIME", help="When it ended, in UTC; now, or the last observed_at of the rows, by default."),
    ] = None,
    control_ratio: ControlRatioOption = 1.0,
    accept: Annotated[
        bool, typer.Option("--accept", help="Confirm that numbers beyond the plausible scale of the target are meant as they are.")
    ] = False,
    dry_run: DryRunOption = False,
    timeout_s: TimeoutOption = 60.0,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: BrandOption = Brand.KISQALI,
    target: TargetOption = None,
    as_json: JsonOption = False,
    *,
    reading: TableOptions,
) -> None:
    """Add what a real experiment measured, so that simulations learn.

    The result is given in numbers, in a file, or as the rows of its units, with one row for each. Rows are analysed here: robust to
    clusters, adjusted for the twin's prediction where they have features of the model, and by subgroup. The result goes through
    Kafka: a worker with the role experiments must be running. Exit status 1 when it is refused.
    """
    numbers = {"effect": effect, "standard_error": error, "n_treated": treated, "n_control": control}
    _require_single_way(context, results, data, numbers)
    use_service_catalogue()
    defaults: dict[str, Any] = {"twin_type": twin_type.value, "brand": str(brand), "target": target, "confirmed": accept}
    defaults["observed_at"] = _as_utc(observed_at)
    if results is not None:
        events = _results_of_file(results, defaults)
        _publish([_Result(event) for event in events], timeout_s, dry_run=dry_run, as_json=as_json)
        return
    if intervention is None or experiment_id is None:
        context.fail("name the INTERVENTION, and the experiment with --id")
    campaign = make_campaign(intervention, channel, frequency, weeks, intensity).model_copy(update={"variant": variant})
    shared = {**defaults, "experiment_id": experiment_id, "intervention": campaign, "filters": parse_filters(filters)}
    if control_ratio != 1.0:
        shared["control_ratio"] = control_ratio
    if data is None:
        result = _Result(_event(shared | numbers))
    else:
        from streams.operations.trial_rows import TrialColumns

        names = TrialColumns(
            arm, treated_value, control_value, outcome, unit, cluster, tuple(covariates or ()), tuple(subgroups or ())
        )
        result = _result_of_rows(data, names, shared, reading, leave_out_missing=leave_out_missing)
    _publish([result], timeout_s, dry_run=dry_run, as_json=as_json)


def _require_single_way(context: typer.Context, file: Path | None, rows: Path | None, numbers: dict[str, Any]) -> None:
    """Check that a result comes in one of the three ways."""
    absent = [f"--{name.removeprefix('n_').replace('_', '-')}" for name, value in numbers.items() if value is None]
    ways = [file is not None, rows is not None, len(absent) < len(numbers)]
    if sum(ways) != 1:
        context.fail("give a result in one way: --effect and its numbers, --file FILE, or --rows FILE")
    if ways[2] and absent:
        context.fail(f"a result in numbers lacks {', '.join(absent)}")


def _as_utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _results_of_file(file: Path, defaults: dict[str, Any]) -> list[ExperimentResult]:
    from streams.operations.result_files import read_results

    now = datetime.now(UTC)
    return _dated(read_results(file, {**defaults, "observed_at": defaults["observed_at"] or now}), now)


def _event(fields: dict[str, Any], last: datetime | None = None) -> ExperimentResult:
    """The event of a result; ``last`` is the time of its last row."""
    from schemas import ExperimentResult

    now = datetime.now(UTC)
    (event,) = _dated([ExperimentResult(**{**fields, "observed_at": fields["observed_at"] or last or now})], now)
    return event


def _dated(events: list[ExperimentResult], now: datetime) -> list[ExperimentResult]:
    """Events without a time of their own keep that of the stored experiment, so that they can be added again."""

    async def stored_times(_: Settings, pool: Pool) -> dict[str, datetime]:
        from sql.effects_store import UnknownExperiment, find_experiment

        times = {}
        for event in events:
            with suppress(UnknownExperiment):
                row = await find_experiment(pool, event.experiment_id)
                times[event.experiment_id] = datetime.fromisoformat(row.body["observed_at"])
        return times

    if all(event.observed_at != now for event in events):
        return events
    times = with_read_pool(stored_times)
    return [
        event.model_copy(update={"observed_at": times.get(event.experiment_id, now)}) if event.observed_at == now else event
        for event in events
    ]


def _result_of_rows(
    path: Path, columns: TrialColumns, shared: dict[str, Any], reading: TableOptions, *, leave_out_missing: bool
) -> _Result:
    """Read and analyse the rows of an experiment."""
    from streams.operations.trial_rows import analyse_rows, read_rows

    twin_type = TwinType(shared["twin_type"])
    target, accept = shared["target"], shared["confirmed"]
    rows = read_rows(path, twin_type, target, columns, reading, accept=accept, leave_out_missing=leave_out_missing)
    model = _champion(model_line(twin_type, shared["brand"], shared["target"]))
    analysed = analyse_rows(rows, model, shared["filters"], shared.get("control_ratio", 1.0))
    notify_remarks(analysed.remarks)
    overall = analysed.analysis.overall
    fields = {
        "effect": overall.effect,
        "standard_error": overall.standard_error,
        "n_treated": overall.people[0],
        "n_control": overall.people[1],
        "subgroups": analysed.analysis.subgroups,
    }
    if columns.cluster:  # checked above by clusters: people of a cluster are assigned together, so their numbers tell nothing
        fields["control_ratio"] = None
    return _Result(_event(shared | fields, rows.observed_at), analysed.analysis)


def _champion(line: str) -> TwinModel | None:
    """The champion of a line; None where it has none."""

    async def load(settings: Settings, pool: Pool) -> TwinModel | None:
        from sql.ledger import Ledger
        from streams.worker.setup import load_champion

        return None if await Ledger(pool).champion(line) is None else await load_champion(settings, pool, line)

    return with_read_pool(load, "mlflow")


def _publish(results: list[_Result], timeout_s: float, *, dry_run: bool, as_json: bool) -> None:
    """Check all results as the service will, publish them, and print their receipts.

    Raises:
        typer.Exit: with status 1 when one is refused.
    """
    from streams.client import NoAnswer
    from streams.reporting.experiments import analysis_dict, analysis_text, result_text
    from streams.simulation import check_result
    from streams.simulation.level_warnings import level_warnings

    for result in results:
        check_result(result.event)
    analyses = [analysis_dict(result.analysis) if result.analysis else None for result in results]
    texts = [analysis_text(result.event, result.analysis) if result.analysis else result_text(result.event) for result in results]
    if dry_run:
        doubts = [[*level_warnings(result.event, None)] for result in results]
        payload = [
            {"result": result.event.model_dump(mode="json"), "analysis": analysis, "warnings": warnings}
            for result, analysis, warnings in zip(results, analyses, doubts, strict=True)
        ]
        previews = [
            "\n".join([text, *(f"  warning: {item}" for item in warnings)]) for text, warnings in zip(texts, doubts, strict=True)
        ]
        print_result(payload, lambda: "\n\n".join([*previews, "nothing is published (--dry-run)"]), as_json=as_json)
        return
    receipts, silence = _await_receipts([result.event for result in results], timeout_s)
    payload = [receipt.to_dict() | {"analysis": analysis} for receipt, analysis in zip(receipts, analyses, strict=True)]
    print_result(
        payload,
        lambda: "\n\n".join(f"{text}\n{receipt.format_text()}" for text, receipt in zip(texts, receipts, strict=True)),
        as_json=as_json,
    )
    waiting = [receipt.experiment.experiment_id for receipt in receipts if receipt.state == "waiting"]
    if waiting:
        raise NoAnswer(f"no receipt for {', '.join(waiting)} within {timeout_s:g} s: {silence}")
    if any(receipt.state == "refused" for receipt in receipts):
        raise typer.Exit(1)


def _await_receipts(events: list[ExperimentResult], timeout_s: float) -> tuple[list[ExperimentReceipt], str]:
    """Publish results and wait for their receipts; also says what did not answer, where one is not there in time."""

    async def work(settings: Settings) -> tuple[list[ExperimentReceipt], str]:
        from sql.catalogue_store import follow_catalogue
        from sql.database import open_pool
        from streams.cli.missing_answer import describe_silence
        from streams.operations.experiment_receipts import publish_results

        async with await open_pool(settings, dsn=settings.read_dsn) as pool:
            await follow_catalogue(pool)
            receipts = await publish_results(settings, pool, events, timeout_s)
        is_silent = any(receipt.state == "waiting" for receipt in receipts)
        return receipts, await describe_silence(settings, "experiments") if is_silent else ""

    with connected_service() as settings:
        return run_command(settings, work(settings), "postgres", "kafka")


@app.command(
    "list", epilog=examples("twinstream experiments list", "twinstream experiments list hcp:kisqali:prescribing_change --json")
)
def list_experiments(
    line: Annotated[str | None, typer.Argument(metavar="[LINE]", help="Only those of this model line.")] = None,
    intervention: Annotated[
        str | None,
        typer.Option("--intervention", metavar="NAME", help="Only those on this one.", autocompletion=complete_intervention),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="NUMBER", help="How many, newest first.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List the experiments, newest first, with withdrawn ones."""
    from sql.effects_store import experiment_rows
    from streams.reporting.experiments import EXPERIMENT_COLUMNS, experiment_cells, experiment_dict

    rows = with_read_pool(lambda _, pool: experiment_rows(pool, line, intervention, limit))
    print_result(
        [experiment_dict(row) for row in rows],
        lambda: Table(
            EXPERIMENT_COLUMNS,
            [experiment_cells(row) for row in rows],
            numeric=(4, 5),
            empty="no experiment yet: twinstream experiments add",
        ),
        as_json=as_json,
    )


@app.command(epilog=examples("twinstream experiments show spring"))
def show(experiment_id: IdArgument, as_json: JsonOption = False) -> None:
    """Show everything about the experiment ID.

    That is what it measured, overall and by subgroup, on whom, and what the service makes of it.
    """
    from streams.reporting.experiments import experiment_dict, experiment_text

    async def read(_: Settings, pool: Pool) -> tuple[ExperimentRow, list[ExperimentDecision], tuple[float | None, tuple[str, ...]]]:
        from sql.effects_store import experiment_decisions, find_experiment

        row = await find_experiment(pool, experiment_id)
        return row, await experiment_decisions(pool, experiment_id), await _doubts(pool, row)

    row, decisions, (distance, warnings) = with_read_pool(read)
    payload = {
        **experiment_dict(row),
        "result": row.body,
        "decisions": [decision._asdict() for decision in decisions],
        "reach": row.reach,
        "predictive_z": distance,
        "warnings": [*warnings],
    }
    print_result(payload, lambda: experiment_text(row, decisions, distance, warnings), as_json=as_json)


async def _doubts(pool: Pool, row: ExperimentRow) -> tuple[float | None, tuple[str, ...]]:
    from schemas import ExperimentResult, Reach
    from streams.simulation import doubts

    if row.withdrawn_at is not None:
        return None, ()
    result = ExperimentResult.model_validate(row.body)
    return await doubts(pool, result, Reach.model_validate(row.reach) if row.reach else None)


@app.command(
    epilog=examples(
        "twinstream experiments withdraw spring --reason 'the arms were mixed up'", "twinstream experiments withdraw spring --undo"
    )
)
def withdraw(
    experiment_id: IdArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Take a withdrawal back: the experiment counts again.")] = False,
    reason: ReasonOption = "",
    timeout_s: TimeoutOption = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Withdraw the experiment ID: effects no longer rest on it.

    It stays stored, with who has withdrawn it and why, and the effects get a new version without it. Simulations that were answered
    before stay as they are.
    """
    from sql.effects_store import find_experiment
    from streams.operations.experiment_receipts import revised_result
    from streams.operations.operator import operator_name

    use_service_catalogue()
    row = with_read_pool(lambda _, pool: find_experiment(pool, experiment_id))
    result = revised_result(row, withdrawn=not undo, decided_by=operator_name(), reason=reason)
    _publish([_Result(result)], timeout_s, dry_run=False, as_json=as_json)
