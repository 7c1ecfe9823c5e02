from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from engine.effects.base_effect import SCORES, prior_interval
from engine.effects.calibration import calibrate
from engine.effects.effect_model import catalogue_prior
from engine.effects.similar_campaigns import UNRELATED
from engine.simulation_engine import SimulationEngine
from schemas import ExperimentResult
from tests.populations import intervention, population
from tests.unit.engine.effects.test_parameter_learning import experiment, group

SPEAKERS, PEERS, EMAILS = (
    catalogue_prior(name) for name in ("speaker_program_invitation", "peer_to_peer_referral", "email_campaign")
)


def on(kind: str, name: str, effect: float, error: float, *groups) -> ExperimentResult:
    return experiment(name, effect, error, *groups).model_copy(update={"intervention": intervention(kind)})


def speakers(factor: float, count: int = 4) -> list[ExperimentResult]:
    """Experiments on speaker programs that find a multiple of the catalogue's effect."""
    return [on("speaker_program_invitation", f"speakers {i}", factor * SPEAKERS.mean, 0.005) for i in range(count)]


def width(prior) -> float:
    return float(np.subtract(*prior_interval(prior)[::-1]))


def test_without_experiments_anywhere_the_prior_stays_as_it_is():
    assert calibrate(PEERS, [], {}, []) == PEERS


def test_an_untested_campaign_borrows_the_factor_of_tested_ones_by_its_channel_with_its_doubt():
    high, low = (calibrate(PEERS, [], {}, speakers(factor)) for factor in (3.0, 0.2))
    assert high.mean > 1.05 * PEERS.mean
    assert low.mean < 0.975 * PEERS.mean
    tested = calibrate(PEERS, [on("peer_to_peer_referral", str(i), 0.3, 0.005) for i in range(4)])
    assert width(high) > 1.5 * width(tested)
    assert prior_interval(high)[0] < PEERS.mean < prior_interval(high)[1]


def test_other_campaigns_may_tell_nothing_so_the_prior_is_a_mixture_with_that_of_the_catalogue(monkeypatch):
    def chance_below(effect: float) -> float:
        (scenario, *_) = calibrate(PEERS, [], {}, speakers(0.2)).scenarios
        return float(norm.cdf(np.interp(effect, scenario.quantiles, SCORES)))

    at = {}
    for unrelated in (0.0, UNRELATED, 1.0):
        monkeypatch.setattr("engine.effects.similar_campaigns.UNRELATED", unrelated)
        at[unrelated] = [chance_below(effect) for effect in (0.02, 0.05, 0.1, 0.2)]
    assert at[UNRELATED] == pytest.approx(np.mean([at[0.0], at[1.0]], axis=0), abs=0.01)
    alone = [norm.cdf(np.interp(effect, PEERS.scenarios[0].quantiles, SCORES)) for effect in (0.02, 0.05, 0.1, 0.2)]
    assert at[1.0] == pytest.approx(alone, abs=0.02)


def test_a_borrowed_prior_is_still_one_that_nobody_has_tested():
    borrowed = calibrate(PEERS, [], {}, speakers(1.0))
    assert (borrowed.version, borrowed.n_experiments, borrowed.tested) == (0, 0, ())
    assert "shifted by 4 real experiments on other campaigns by its channel (speaker_program_invitation)" in borrowed.source
    engine = SimulationEngine(population(200), priors={PEERS.intervention_type: borrowed})
    assert "not yet tested by an experiment" in engine.simulate(intervention("peer_to_peer_referral")).recommendation_reason


def test_another_channel_and_experiments_of_its_own_borrow_no_base_effect():
    assert calibrate(EMAILS, [], {}, speakers(3.0)) == EMAILS
    own = [on("peer_to_peer_referral", "own", 0.1, 0.01)]
    assert calibrate(PEERS, own, {}, speakers(3.0)) == calibrate(PEERS, own)


def test_the_first_campaign_teaches_the_second_about_oncologists():
    groups = (group("oncology", 0.24, 0.008, 300), group("urology", 0.06, 0.008, 300))
    taught = [on("speaker_program_invitation", str(i), 0.15, 0.006, *groups) for i in range(4)]
    people = population(features=pd.DataFrame({"specialty": ["oncology", "urology"] * 500}))

    def ratio(prior) -> float:
        result = SimulationEngine(people, priors={prior.intervention_type: prior}).simulate(intervention(prior.intervention_type))
        effects = {effect.group: effect.estimate for effect in result.heterogeneity.by_dimension["specialty"]}
        return effects["oncology"] / effects["urology"]

    assert ratio(EMAILS) == pytest.approx(np.exp(0.10), rel=0.01)
    assert ratio(calibrate(EMAILS, [], {}, taught)) > 1.8
    own = [on("email_campaign", "e-mail", 0.05, 0.01)]
    assert ratio(calibrate(EMAILS, own, {}, taught)) > 1.8
    assert ratio(calibrate(EMAILS, own)) < 1.2


def test_the_order_of_other_experiments_does_not_matter():
    groups = (group("oncology", 0.20, 0.02, 300), group("urology", 0.10, 0.02, 300))
    others = [on("speaker_program_invitation", "a", 0.15, 0.01, *groups), *speakers(0.8), on("email_campaign", "b", 0.04, 0.01)]
    assert calibrate(PEERS, [], {}, others) == calibrate(PEERS, [], {}, others[::-1])


def test_an_answer_on_a_borrowed_effect_names_the_campaigns_that_it_is_borrowed_from():
    borrowed = calibrate(PEERS, [], {}, speakers(0.2, 2))
    referral = intervention("peer_to_peer_referral")
    owed = "shifted by 2 real experiments on other campaigns by its channel (speaker_program_invitation)"
    assert borrowed.borrowed == owed
    result = SimulationEngine(population(50), priors={borrowed.intervention_type: borrowed}).simulate(referral)
    assert owed in result.recommendation_reason
    assert any(owed in warning for warning in result.warnings)
    earlier = borrowed.model_copy(update={"method": 3})
    repeated = SimulationEngine(population(50), priors={borrowed.intervention_type: earlier}).simulate(referral)
    assert owed not in repeated.recommendation_reason + "".join(repeated.warnings)
