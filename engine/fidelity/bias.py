"""The verdict on the mean signed error: whether the latest predictions are too high or too low beyond what the baseline expects."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.fidelity.drift_rules import BIAS_RULE, N_MIN
from engine.fidelity.e_detector import LOSS_QUANTUM
from schemas.events import SUM_FIELDS
from schemas.fidelity_models import Verdict
from schemas.twin_models import Errors

__all__ = ["BIAS_LIMIT", "bias_verdict"]

BIAS_LIMIT = 0.10
"""Mean signed error beyond the expected one, in half widths of the interval, from which it calls for a retrain."""

_STANDARD_ERRORS = 3.0
_N, _ERROR = SUM_FIELDS.index("n"), SUM_FIELDS.index("excess_error")


def bias_verdict(sums: Sequence[int], reference: Errors, n_min: int = N_MIN) -> Verdict | None:
    """The verdict on outcomes with these sums, in the order of ``SUM_FIELDS``; None where the baseline knows no signed errors.

    An error counts up to one half width, and beyond the mean of such outcomes in the baseline. The limit is at least three standard
    errors.
    """
    moments = reference.losses.get("error")
    if moments is None or sums[_N] <= 0:
        return None
    n = sums[_N]
    value = sums[_ERROR] * LOSS_QUANTUM / n - moments.mean
    limit = max(BIAS_LIMIT, _STANDARD_ERRORS * moments.sd / math.sqrt(n))
    fired = n >= n_min and abs(value) > limit
    side = "high" if value > 0 else "low"
    reason = (
        f"predictions are too {side} by {abs(value):.2f} half widths of the interval, {'more' if fired else 'not more'} than"
        f" {limit:.2f}"
        if n >= n_min
        else f"{n:,} outcomes are too few to judge, {n_min:,} are needed"
    )
    return Verdict(rule=BIAS_RULE, action="retrain", fired=fired, value=value, limit=limit, baseline=0.0, n=n, reason=reason)
