"""The charts of a pilot's plan: its power, and the effect that it detects, by the number of people."""

from __future__ import annotations

from collections.abc import Sequence

from schemas import ExperimentPlan
from streams.reporting import Chart, ReferenceLine
from streams.reporting.charts import Curve, ValueMarker, curves_chart

__all__ = ["pilot_charts"]


def pilot_charts(plan: ExperimentPlan, by_size: Sequence[tuple[int, ExperimentPlan]], power: float) -> dict[str, Chart]:
    """The charts ``power`` and ``detectable`` of a plan, from plans like it by their number of people."""
    people = [size for size, _ in by_size]
    planned = sum(arm.n for arm in plan.arms)
    markers = [ValueMarker(planned, f"{planned:,} people")]
    return {
        "power": curves_chart(
            [
                Curve(f"an effect of {plan.effect:.1%}", people, [sized.power for _, sized in by_size]),
                Curve(
                    f"the simulated effect of {plan.simulation.ate:.1%}",
                    people,
                    [sized.power_at_simulated for _, sized in by_size],
                    tone="two",
                ),
            ],
            title="Power by number of people",
            description="Probability that the experiment detects an effect, by the people in both arms.",
            x_label="People in both arms",
            form=".0%",
            x_form=",.0f",
            log_x=True,
            lines=[ReferenceLine(power, f"power {power:.0%}", "good")],
            markers=markers,
        ),
        "detectable": curves_chart(
            [Curve("smallest detectable effect", people, [abs(sized.detectable_effect) for _, sized in by_size])],
            title="Smallest detectable effect by number of people",
            description=f"Smallest effect that the experiment detects with probability {power:.0%}, by the people in both arms.",
            x_label="People in both arms",
            form=".1%",
            x_form=",.0f",
            log_x=True,
            lines=[ReferenceLine(plan.effect, f"planned {plan.effect:.1%}")],
            markers=markers,
        ),
    }
