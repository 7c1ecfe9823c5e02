-- Outcomes without an actual value have a fate of their own, and those with outlying errors are found.
ALTER TYPE outcome_fate ADD VALUE 'missing';

-- Pairs that a FidelityTracker tracks, outside of the stream: they enter no sum, and belong to no source.
ALTER TYPE outcome_fate ADD VALUE 'tracked';

-- A missing outcome is a revision of its event like a counted one, and ages with it.
DO $$
DECLARE
    definition  text;
BEGIN
    FOR definition IN
        SELECT pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND prosrc LIKE '%IN (''counted'', ''superseded'')%'
    LOOP
        EXECUTE replace(definition, 'IN (''counted'', ''superseded'')', 'IN (''counted'', ''superseded'', ''missing'')');
    END LOOP;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no function names the fates of outcomes that have aged';
    END IF;
END $$;

CREATE INDEX fidelity_tracking_missing ON fidelity_tracking (line, observed_at) WHERE actual_value IS NULL;

-- The tenth number that an event adds to its sums is 1 for an outlier.
CREATE INDEX event_heads_outliers ON event_heads (line, pane) WHERE contribution[10] = 1;
