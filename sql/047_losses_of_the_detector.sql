-- Sums of the losses that the detector bets on beside the size of errors, each with that of its squares; 0 for earlier outcomes, whose
-- models have nothing to compare them with.
ALTER TABLE fidelity_panes
    ADD COLUMN excess_error          numeric NOT NULL DEFAULT 0,
    ADD COLUMN excess_error_spread   numeric NOT NULL DEFAULT 0,
    ADD COLUMN slope                 numeric NOT NULL DEFAULT 0,
    ADD COLUMN slope_spread          numeric NOT NULL DEFAULT 0,
    ADD COLUMN excess_misses         numeric NOT NULL DEFAULT 0,
    ADD COLUMN excess_misses_spread  numeric NOT NULL DEFAULT 0;

-- The digest of a pane without these sums stays what it was: concat_ws leaves out what is null.
CREATE OR REPLACE FUNCTION pane_digest(p fidelity_panes) RETURNS numeric
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT hashtextextended(concat_ws('|', p.model_id, p.segment, p.pane, p.width_s, p.source, p.line, p.version, p.last_offset, p.n,
                                      p.n_interval, p.n_inside, p.predicted, p.actual, p.predicted_squared, p.actual_squared,
                                      p.product, p.absolute_error, p.n_outliers, p.log_bet_0, p.log_bet_1, p.log_bet_2, p.log_bet_3,
                                      p.log_bet_4,
                                      CASE WHEN (p.excess_error, p.excess_error_spread, p.slope, p.slope_spread, p.excess_misses,
                                                 p.excess_misses_spread) <> (0, 0, 0, 0, 0, 0)
                                      THEN concat_ws('|', p.excess_error, p.excess_error_spread, p.slope, p.slope_spread,
                                                     p.excess_misses, p.excess_misses_spread) END), 0)::numeric
$$;
