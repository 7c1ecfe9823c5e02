"""The command that simulates a campaign, or computes a past simulation again."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from functools import partial
from typing import Annotated
from uuid import UUID, uuid4

import typer

from schemas import Brand, Frequency, SimulationAnswer, SimulationRequest, TwinType
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
from streams.cli.missing_answer import explained_silence
from streams.cli.options import ConfidenceOption, FilterOption, JsonOption, MinEffectOption, examples, parse_filters, require_value
from streams.cli.output import print_result
from streams.cli.queue_notices import notices_of_queue
from streams.cli.running import run_command

app = typer.Typer()


@app.command(
    epilog=examples(
        "twinstream simulate speaker_program_invitation --filter region=south --filter min_decile=8",
        "twinstream simulate email_campaign --frequency weekly --against peer_to_peer_referral",
        "twinstream simulate email_campaign --variant A --against-variant B",
        "twinstream simulate --again 3f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11",
    )
)
def simulate(
    context: typer.Context,
    intervention: Annotated[
        str | None, typer.Argument(metavar="INTERVENTION", help="What the campaign does.", autocompletion=complete_intervention)
    ] = None,
    channel: ChannelOption = None,
    frequency: FrequencyOption = Frequency.MONTHLY,
    weeks: WeeksOption = 12,
    intensity: IntensityOption = None,
    filters: FilterOption = None,
    alternatives: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="INTERVENTION",
            help="Compare with this one at the same frequency; repeatable.",
            autocompletion=complete_intervention,
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option(metavar="NAME", help="The message or creative of the campaign.")] = None,
    other_variants: Annotated[
        list[str] | None,
        typer.Option("--against-variant", metavar="NAME", help="Compare with the same campaign in this variant; repeatable."),
    ] = None,
    twins: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="Number of twins; 10,000 by default.",
            callback=require_value(lambda value: 100 <= value <= 1_000_000_000, "must be between 100 and 1,000,000,000"),
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="Of twins and draws; by default one that all campaigns on a model with the same filters share.",
            callback=require_value(lambda value: 0 <= value < 2**63, "must be at least 0 and below 2**63"),
        ),
    ] = None,
    min_effect: MinEffectOption = None,
    confidence: ConfidenceOption = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="How long to wait for the result.",
            callback=require_value(lambda value: 0 < value < math.inf, "must be a positive number of seconds"),
        ),
    ] = 60.0,
    again: Annotated[
        UUID | None,
        typer.Option(metavar="ID", help="Compute this past simulation again, and check that the result is the same."),
    ] = None,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: BrandOption = Brand.KISQALI,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the effect of a campaign with INTERVENTION.

    The request goes through Kafka: a worker with the role simulation must be running. The result is the average effect with its
    interval, and a recommendation. Large requests are computed one after another: raise --timeout for them.
    """
    if again is not None:
        _simulate_again(again, as_json=as_json)
        return
    if intervention is None:
        context.fail("name an INTERVENTION, or a past simulation with --again ID")
    use_service_catalogue()
    campaign = make_campaign(intervention, channel, frequency, weeks, intensity)
    request = SimulationRequest(
        simulation_id=uuid4(),
        requested_at=datetime.now(UTC),
        twin_type=twin_type,
        brand=brand,
        target=target,
        intervention=campaign.model_copy(update={"variant": variant}),
        alternatives=(
            *(make_campaign(name, None, frequency, weeks, intensity) for name in alternatives or ()),
            *(campaign.model_copy(update={"variant": name}) for name in other_variants or ()),
        ),
        filters=parse_filters(filters),
        twin_count=twins,
        seed=seed,
        min_effect_threshold=min_effect,
        confidence_threshold=confidence,
        requested_by="command line",
    )
    _print_answer(_request_simulation(request, timeout_s), as_json=as_json)


def _request_simulation(request: SimulationRequest, timeout_s: float) -> SimulationAnswer:
    from streams.client import TwinClient

    async def publish_and_wait() -> SimulationAnswer:
        connect_s = min(timeout_s, settings.kafka_connect_timeout_s)
        hasty = settings.model_copy(update={"kafka_connect_timeout_s": connect_s})
        async with (
            explained_silence(settings, request.simulation_id, timeout_s) as deadline,
            TwinClient(hasty, name="command line") as client,
            notices_of_queue(settings, request.simulation_id),
        ):
            return await client.request(request, timeout_s=deadline - time.monotonic())

    with connected_service() as settings:
        return run_command(settings, publish_and_wait(), "kafka")


def _print_answer(answer: SimulationAnswer, *, as_json: bool) -> None:
    """Print a completed simulation.

    Raises:
        ValueError: when it was rejected or failed, with the reason.
    """
    from streams.reporting.text import simulation_text

    if answer.result is None:
        raise ValueError(f"{answer.status.value}: {answer.reason}")
    print_result(answer.model_dump(mode="json"), lambda: simulation_text(answer), as_json=as_json)


def _simulate_again(simulation_id: UUID, *, as_json: bool) -> None:
    """Compute a past simulation again; exit status 1 when the result is not the same to the last bit."""
    from streams.reporting.text import reproduction_text
    from streams.simulation import reproduce

    reproduction = with_read_pool(lambda settings, pool: reproduce(settings, pool, simulation_id), "mlflow")
    text = partial(reproduction_text, reproduction.answer, reproduction.differences)
    print_result(reproduction.to_dict(), text, as_json=as_json)
    if reproduction.differences:
        raise typer.Exit(1)
