"""Many lines and simulations, written straight into the tables: test data of lists."""

from __future__ import annotations

from datetime import datetime

from schemas import BUILT_IN
from schemas.events import SUM_FIELDS
from sql.catalogue_store import apply_version
from sql.database import Pool
from tests.flow.line_fixture import LINE, PANE_S

__all__ = ["add_many"]

_LINES = """
INSERT INTO model_lines (line, twin_type, brand, target, champion, generation, policy, pane_s, window_s)
SELECT format('hcp:brand_%s:prescribing_change', number), twin_type, brand, target, NULL, 0, policy, pane_s, window_s
FROM model_lines, generate_series(1, $2) number WHERE line = $1"""

_MODELS = """
INSERT INTO digital_twin_models (model_id, twin_type, brand, model_type, training_samples, target_variable, features,
                                 hyperparameters, metrics, trained_at, line, baseline)
SELECT gen_random_uuid(), m.twin_type, m.brand, m.model_type, m.training_samples, m.target_variable, m.features,
       m.hyperparameters, m.metrics, m.trained_at, l.line, m.baseline
FROM model_lines l, digital_twin_models m
WHERE l.champion IS NULL AND m.model_id = (SELECT champion FROM model_lines WHERE line = $1)"""

_CHAMPIONS = (
    "UPDATE model_lines l SET champion = m.model_id FROM digital_twin_models m WHERE m.line = l.line AND l.champion IS NULL"
)

_PANES = f"""
INSERT INTO fidelity_panes (model_id, segment, pane, width_s, source, line, last_offset, {", ".join(SUM_FIELDS)})
SELECT l.champion, p.segment, p.pane, p.width_s, p.source, l.line, p.last_offset, {", ".join(f"p.{name}" for name in SUM_FIELDS)}
FROM model_lines l, fidelity_panes p
WHERE l.line <> $1 AND p.line = $1 AND p.model_id = (SELECT champion FROM model_lines WHERE line = $1) AND p.pane >= $2"""

_STATES = """
INSERT INTO drift_states (model_id, segment, line, state, evidence_ratio, event)
SELECT champion, 'all', line, CASE WHEN line LIKE '%7:%' THEN 'alarm' WHEN line LIKE '%3:%' THEN 'warning' ELSE 'ok' END, 0.4, '{}'
FROM model_lines WHERE line <> $1"""

_SIMULATIONS = """
INSERT INTO simulation_runs (simulation_id, intervention_config, filters, status, results, recommendation, recommendation_reason,
                             started_at, completed_at, line, body_hash)
SELECT gen_random_uuid(), intervention_config, filters, status, results, recommendation, recommendation_reason,
       $2::timestamptz - number * interval '1 minute', $2::timestamptz - number * interval '1 minute' + interval '1 second',
       line, body_hash
FROM generate_series(1, $3) number, LATERAL (
    SELECT * FROM simulation_runs WHERE line = $1 AND status = 'completed' ORDER BY simulation_id OFFSET number % 3 LIMIT 1) r"""


async def add_many(pool: Pool, *, now: datetime, lines: int, simulations: int) -> None:
    """Copies of the line that ``add_history`` made: a tenth in alarm, and of its simulations."""
    brands = {f"brand_{number}": {"label": f"Brand {number}"} for number in range(1, lines + 1)}
    await apply_version(pool, BUILT_IN.with_entries({"brands": brands}), applied_by="test")
    await pool.execute(_SIMULATIONS, LINE, now, simulations)
    await pool.execute(_LINES, LINE, lines)
    await pool.execute(_MODELS, LINE)
    await pool.execute(_CHAMPIONS)
    await pool.execute(_PANES, LINE, now.timestamp() - 24 * PANE_S)
    await pool.execute(_STATES, LINE)
