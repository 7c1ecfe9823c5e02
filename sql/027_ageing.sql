-- What has aged out of the tables, so that every count can still be verified; the functions that delete aged rows, and those that
-- erase a person. They are the only way to delete or change an outcome: each can do nothing but that.

-- Elements of a source whose rows were deleted. An element at or below `last_offset` that has no row is one of them: a replay.
CREATE TABLE aged_sources (
    source       text PRIMARY KEY,
    last_offset  bigint NOT NULL,
    elements     bigint NOT NULL,
    last_time    timestamptz NOT NULL,
    watermark    timestamptz
);

-- Panes below `horizon` (seconds since the epoch, never above the floor) have lost outcomes, so they cannot be recomputed: their
-- number and the sum of their digests must stay as they are. `events` is the number of the line's events in aged_events.
CREATE TABLE aged_lines (
    line         text PRIMARY KEY,
    horizon      double precision NOT NULL DEFAULT '-infinity',
    events       bigint NOT NULL DEFAULT 0,
    panes        bigint NOT NULL DEFAULT 0,
    pane_digest  numeric NOT NULL DEFAULT 0
);

-- Events whose outcomes and head were deleted: whatever comes of them later is too late.
CREATE TABLE aged_events (
    event_id  uuid PRIMARY KEY
);

CREATE TABLE maintenance_runs (
    run_id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    started_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at         timestamptz,
    run_by              text NOT NULL,
    deleted             jsonb NOT NULL DEFAULT '{}',
    partitions_created  integer NOT NULL DEFAULT 0,
    partitions_dropped  text[] NOT NULL DEFAULT '{}',
    error               text NOT NULL DEFAULT ''
);
CREATE INDEX maintenance_runs_finished ON maintenance_runs (finished_at) WHERE error = '';

-- Whatever a caller asks for, nothing younger than this ages out: Kafka holds records for 30 days and the rest of a segment.
CREATE FUNCTION least_retention() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '38 days' $$;

-- The check of a foreign key must not scan every outcome for each run that is deleted.
CREATE INDEX fidelity_tracking_simulation ON fidelity_tracking (simulation_id) WHERE simulation_id IS NOT NULL;

CREATE FUNCTION pane_digest(p fidelity_panes) RETURNS numeric
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT hashtextextended(concat_ws('|', p.model_id, p.segment, p.pane, p.width_s, p.source, p.line, p.version, p.last_offset, p.n,
                                      p.n_interval, p.n_inside, p.predicted, p.actual, p.predicted_squared, p.actual_squared,
                                      p.product, p.absolute_error, p.n_outliers, p.log_bet_0, p.log_bet_1, p.log_bet_2, p.log_bet_3,
                                      p.log_bet_4), 0)::numeric
$$;

-- Nothing changes below a floor, so the digests of the panes between the old and the new horizon are final.
CREATE FUNCTION raise_aged_horizon(of_line text, new_horizon double precision) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO aged_lines (line) VALUES (of_line) ON CONFLICT DO NOTHING;
    UPDATE aged_lines a SET horizon = new_horizon, panes = a.panes + d.panes, pane_digest = a.pane_digest + d.digest
    FROM (SELECT count(*) AS panes, coalesce(sum(pane_digest(p)), 0) AS digest FROM fidelity_panes p, aged_lines o
          WHERE o.line = of_line AND p.line = of_line AND p.pane >= o.horizon AND p.pane < new_horizon) d
    WHERE a.line = of_line AND a.horizon < new_horizon;
END $$;

CREATE TYPE aged_element AS (source text, source_offset bigint, tracked_at timestamptz, observed_at timestamptz);

CREATE FUNCTION add_aged_elements(elements aged_element[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO aged_sources AS a (source, last_offset, elements, last_time, watermark)
    SELECT source, max(source_offset), count(*), max(tracked_at), max(observed_at) FROM unnest(elements)
    WHERE source IN (SELECT p.source FROM source_positions p)
    GROUP BY source ORDER BY source
    ON CONFLICT (source) DO UPDATE
    SET last_offset = greatest(a.last_offset, excluded.last_offset), elements = a.elements + excluded.elements,
        last_time = greatest(a.last_time, excluded.last_time), watermark = greatest(a.watermark, excluded.watermark);
    DELETE FROM source_gaps g USING aged_sources a WHERE g.source = a.source AND g.last_offset <= a.last_offset;
END $$;

-- Training rows that are still needed: of a line in training, and those by which the effect of a promotion is being measured.
CREATE FUNCTION outcomes_needed_since(of_line text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM training_leases t WHERE t.line = of_line AND t.heartbeat_at > now() - interval '1 hour')
        THEN '-infinity'
        ELSE (SELECT min(g.effective_from) FROM model_ledger g LEFT JOIN promotion_effects e USING (line, generation)
              WHERE g.line = of_line AND g.happened = 'promoted' AND e.final IS FALSE) END
$$;

-- Deletes outcomes of a source tracked before `before`, from `after_offset` on, at most about `chunk` of them. An event goes as a
-- whole: every outcome by which it was counted is that old, lies below the floor of its line, and is not needed any more. Returns
-- the last offset that was looked at (null at the end of the source) and the number of deleted outcomes.
CREATE FUNCTION age_outcomes(of_source text, after_offset bigint, before timestamptz, chunk integer,
                             OUT last_looked_at bigint, OUT deleted bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    candidates  uuid[];
    aged        uuid[];
    elements    aged_element[];
    twins       uuid[];
    more        aged_element[];
    horizon     record;
BEGIN
    before := least(before, now() - least_retention());
    SELECT max(source_offset) INTO last_looked_at FROM (
        SELECT source_offset FROM fidelity_tracking
        WHERE source = of_source AND source_offset > after_offset AND tracked_at < before ORDER BY source_offset LIMIT chunk) c;
    deleted := 0;
    IF last_looked_at IS NULL THEN
        RETURN;
    END IF;
    -- A revision of an event with a head locks that head first, so that nothing is added to these events until the end.
    SELECT array_agg(event_id) INTO candidates FROM (
        SELECT h.event_id FROM event_heads h
        WHERE h.event_id IN (SELECT f.event_id FROM fidelity_tracking f
                             WHERE f.source = of_source AND f.source_offset > after_offset AND f.source_offset <= last_looked_at
                               AND f.tracked_at < before AND f.fate IN ('counted', 'superseded'))
        ORDER BY h.event_id FOR UPDATE SKIP LOCKED) h;
    SELECT array_agg(event_id) INTO aged FROM (
        SELECT f.event_id FROM fidelity_tracking f
        LEFT JOIN (SELECT m.line, m.pane_s, m.floor, coalesce(outcomes_needed_since(m.line), 'infinity') AS needed
                   FROM model_lines m OFFSET 0) l ON l.line = f.line
        WHERE f.event_id = ANY(candidates) AND f.fate IN ('counted', 'superseded')
        GROUP BY f.event_id
        HAVING bool_and(coalesce(
            f.tracked_at < before AND f.observed_at < l.floor
            AND (f.observed_at < l.needed OR f.features IS NULL AND f.twin_id IS NULL)
            AND (f.pane IS NULL OR (floor(f.pane / l.pane_s) + 1) * l.pane_s <= extract(epoch FROM l.floor)::float8), false))) e;
    FOR horizon IN
        SELECT f.line, max((floor(f.pane / l.pane_s) + 1) * l.pane_s) AS ends FROM fidelity_tracking f JOIN model_lines l USING (line)
        WHERE f.event_id = ANY(aged) AND f.tracked_at < before AND f.fate IN ('counted', 'superseded') AND f.pane IS NOT NULL
        GROUP BY f.line ORDER BY f.line
    LOOP
        PERFORM raise_aged_horizon(horizon.line, horizon.ends);
    END LOOP;
    WITH gone AS (
        DELETE FROM fidelity_tracking f
        WHERE f.event_id = ANY(aged) AND f.tracked_at < before AND f.fate IN ('counted', 'superseded')
        RETURNING f.source, f.source_offset, f.tracked_at, f.observed_at, f.twin_id)
    SELECT array_agg(ROW(g.source, g.source_offset, g.tracked_at, g.observed_at)::aged_element), array_agg(DISTINCT g.twin_id)
    INTO elements, twins FROM gone g;
    WITH gone AS (
        DELETE FROM fidelity_tracking f
        WHERE f.source = of_source AND f.source_offset > after_offset AND f.source_offset <= last_looked_at AND f.tracked_at < before
          AND f.fate IN ('duplicate', 'too_late')
        RETURNING f.source, f.source_offset, f.tracked_at, f.observed_at, f.twin_id)
    SELECT array_agg(ROW(g.source, g.source_offset, g.tracked_at, g.observed_at)::aged_element), twins || array_agg(DISTINCT g.twin_id)
    INTO more, twins FROM gone g;
    elements := coalesce(elements, '{}') || coalesce(more, '{}');
    deleted := coalesce(array_length(elements, 1), 0);
    IF deleted > 0 THEN
        PERFORM add_aged_elements(elements);
    END IF;
    WITH gone AS (
        DELETE FROM event_heads h WHERE h.event_id = ANY(aged) RETURNING h.event_id, h.line
    ), kept AS (
        INSERT INTO aged_events (event_id) SELECT event_id FROM gone ORDER BY event_id
    )
    INSERT INTO aged_lines AS a (line, events) SELECT line, count(*) FROM gone GROUP BY line ORDER BY line
    ON CONFLICT (line) DO UPDATE SET events = a.events + excluded.events;
    -- Twins that only these outcomes have named. A batch that is naming one again holds it: then it stays until that outcome ages.
    BEGIN
        DELETE FROM digital_twins t
        WHERE t.twin_id = ANY(twins)
          AND NOT EXISTS (SELECT FROM twin_population_members o WHERE o.twin_id = t.twin_id)
          AND NOT EXISTS (SELECT FROM fidelity_tracking f WHERE f.twin_id = t.twin_id);
    EXCEPTION WHEN foreign_key_violation OR lock_not_available THEN
        NULL;
    END;
END $$;

-- The functions below delete at most `chunk` rows that are older than `before`, and return their number.

CREATE FUNCTION age_refused_records(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    elements  aged_element[];
BEGIN
    before := least(before, now() - least_retention());
    WITH gone AS (
        DELETE FROM refused_records WHERE refusal_id IN (
            SELECT refusal_id FROM refused_records
            WHERE refused_at < before AND tracked_at < before AND sent_at IS NOT NULL
            ORDER BY refused_at LIMIT chunk FOR UPDATE SKIP LOCKED)
        RETURNING source, source_offset, tracked_at)
    SELECT array_agg(ROW(source, source_offset, tracked_at, NULL)::aged_element) INTO elements FROM gone;
    IF elements IS NOT NULL THEN
        PERFORM add_aged_elements(elements);
    END IF;
    RETURN coalesce(array_length(elements, 1), 0);
END $$;

-- Panes wholly below the windows that reach above the floor. Of each series of a champion the latest pane stays, so that it is known.
CREATE FUNCTION age_panes(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    of_line  record;
    deleted  bigint := 0;
    gone     record;
BEGIN
    before := least(before, now() - least_retention());
    FOR of_line IN
        SELECT line, champion, floor(least(extract(epoch FROM before)::float8, extract(epoch FROM floor)::float8 - window_s - pane_s)
                                     / pane_s) * pane_s AS lowest
        FROM model_lines WHERE floor IS NOT NULL ORDER BY line
    LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM fidelity_panes WHERE line = of_line.line AND pane < of_line.lowest);
        PERFORM raise_aged_horizon(of_line.line, of_line.lowest);
        WITH d AS (
            DELETE FROM fidelity_panes p WHERE p.ctid = ANY(ARRAY(
                SELECT o.ctid FROM fidelity_panes o
                WHERE o.line = of_line.line AND o.pane < of_line.lowest
                  AND (o.model_id IS DISTINCT FROM of_line.champion
                       OR EXISTS (SELECT FROM fidelity_panes n WHERE n.line = o.line AND n.model_id = o.model_id
                                  AND n.segment = o.segment AND n.pane > o.pane))
                ORDER BY o.pane LIMIT chunk - deleted))
            RETURNING pane_digest(p) AS digest)
        SELECT count(*) AS panes, coalesce(sum(digest), 0) AS digest INTO gone FROM d;
        UPDATE aged_lines SET panes = panes - gone.panes, pane_digest = pane_digest - gone.digest WHERE line = of_line.line;
        deleted := deleted + gone.panes;
        EXIT WHEN deleted >= chunk;
    END LOOP;
    RETURN deleted;
END $$;

CREATE FUNCTION age_snapshots(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    deleted  bigint;
BEGIN
    before := least(before, now() - least_retention());
    DELETE FROM fidelity_snapshots WHERE ctid = ANY(ARRAY(
        SELECT s.ctid FROM fidelity_snapshots s JOIN model_lines l USING (line)
        WHERE s.window_start < before AND s.window_end < before AND s.window_end <= l.floor LIMIT chunk));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

-- Drift states, alarms and detector values of series that have no panes left, of models that are champion nowhere.
CREATE FUNCTION age_drift_states(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    models    uuid[];
    segments  text[];
BEGIN
    before := least(before, now() - least_retention());
    SELECT array_agg(model_id), array_agg(segment) INTO models, segments FROM (
        SELECT model_id, segment FROM (
            SELECT model_id, segment FROM drift_states UNION SELECT model_id, segment FROM detector_alarms
            UNION SELECT model_id, segment FROM detector_floors) s
        WHERE NOT EXISTS (SELECT FROM fidelity_panes p WHERE p.model_id = s.model_id AND p.segment = s.segment)
          AND NOT EXISTS (SELECT FROM model_lines l WHERE l.champion = s.model_id)
          AND NOT EXISTS (SELECT FROM drift_states d WHERE d.model_id = s.model_id AND d.segment = s.segment
                          AND (d.changed_at >= before OR NOT d.said))
          AND NOT EXISTS (SELECT FROM detector_alarms a WHERE a.model_id = s.model_id AND a.segment = s.segment
                          AND a.raised_at >= before)
        LIMIT chunk) ended;
    DELETE FROM detector_floors WHERE (model_id, segment) IN (SELECT * FROM unnest(models, segments));
    DELETE FROM detector_alarms WHERE (model_id, segment) IN (SELECT * FROM unnest(models, segments));
    DELETE FROM drift_states WHERE (model_id, segment) IN (SELECT * FROM unnest(models, segments));
    RETURN coalesce(array_length(models, 1), 0);
END $$;

-- Runs that no outcome names, and the recipes of populations that no run, outcome or snapshot names.
CREATE FUNCTION age_simulations(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    deleted      bigint;
    populations  uuid[];
BEGIN
    before := least(before, now() - least_retention());
    WITH gone AS (
        DELETE FROM simulation_runs WHERE simulation_id = ANY(ARRAY(
            SELECT r.simulation_id FROM simulation_runs r
            WHERE coalesce(r.completed_at, r.started_at) < before
              AND NOT EXISTS (SELECT FROM fidelity_tracking f WHERE f.simulation_id = r.simulation_id)
            LIMIT chunk))
        RETURNING population_id)
    SELECT count(*), array_agg(DISTINCT population_id) INTO deleted, populations FROM gone;
    DELETE FROM twin_populations p
    WHERE p.population_id = ANY(populations) AND p.columns IS NULL AND p.created_at < before
      AND NOT EXISTS (SELECT FROM simulation_runs r WHERE r.population_id = p.population_id)
      AND NOT EXISTS (SELECT FROM twin_population_members m WHERE m.population_id = p.population_id)
      AND NOT EXISTS (SELECT FROM fidelity_tracking f WHERE f.population_id = p.population_id)
      AND NOT EXISTS (SELECT FROM fidelity_snapshots s WHERE s.population_id = p.population_id);
    RETURN deleted;
END $$;

CREATE FUNCTION age_history(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    deleted  bigint;
BEGIN
    before := least(before, now() - least_retention());
    DELETE FROM entity_history WHERE ctid = ANY(ARRAY(
        SELECT h.ctid FROM entity_history h
        WHERE h.observed_at < before
          AND NOT EXISTS (SELECT FROM training_leases t WHERE t.line = h.line AND t.heartbeat_at > now() - interval '1 hour')
        LIMIT chunk));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

-- Retrains closed before `before`, except those about a champion: their number is part of the id of its next retrain.
CREATE FUNCTION age_retrains(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    deleted  bigint;
BEGIN
    before := least(before, now() - least_retention());
    DELETE FROM retrain_requests WHERE retrain_id = ANY(ARRAY(
        SELECT r.retrain_id FROM retrain_requests r
        WHERE r.finished_at < before AND r.status NOT IN ('queued', 'running')
          AND NOT EXISTS (SELECT FROM model_lines l WHERE l.champion = r.model_id)
          AND NOT EXISTS (SELECT FROM training_leases t WHERE t.retrain_id = r.retrain_id)
        LIMIT chunk));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

-- Suppressions of drift that ended, unless a retrain that was requested meanwhile is still open.
CREATE FUNCTION age_replays(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    deleted  bigint;
BEGIN
    before := least(before, now() - least_retention());
    DELETE FROM replays WHERE replay_id = ANY(ARRAY(
        SELECT p.replay_id FROM replays p
        WHERE p.quiet_until < before
          AND NOT EXISTS (SELECT FROM retrain_requests r WHERE r.status IN ('queued', 'running') AND r.line = ANY(p.lines)
                          AND r.queued_at BETWEEN p.begun_at AND p.quiet_until)
        LIMIT chunk));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

CREATE FUNCTION age_maintenance_runs(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    deleted  bigint;
BEGIN
    before := least(before, now() - least_retention());
    DELETE FROM maintenance_runs WHERE run_id = ANY(ARRAY(SELECT run_id FROM maintenance_runs WHERE started_at < before LIMIT chunk));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

-- Drops the monthly partitions that ended before `before` and are empty, and returns their names. The emptiness is checked twice:
-- first without a lock, as it may read many pages, then with the lock, when those pages are known to be empty.
CREATE FUNCTION drop_aged_partitions(before timestamptz) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    partition_name  text;
    is_used         boolean;
    dropped         text[] := '{}';
BEGIN
    FOR partition_name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'fidelity_tracking'::regclass AND c.relname ~ '^fidelity_tracking_\d{4}_\d{2}$'
          AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' <= before
        ORDER BY c.relname
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT source FROM %I ORDER BY source, source_offset LIMIT 1)', partition_name) INTO is_used;
        CONTINUE WHEN is_used;
        LOCK TABLE ONLY fidelity_tracking IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('SELECT EXISTS (SELECT source FROM %I ORDER BY source, source_offset LIMIT 1)', partition_name) INTO is_used;
        CONTINUE WHEN is_used;
        EXECUTE format('ALTER TABLE fidelity_tracking DETACH PARTITION %I', partition_name);
        EXECUTE format('DROP TABLE %I', partition_name);
        dropped := dropped || partition_name;
    END LOOP;
    RETURN dropped;
END $$;

-- Number of consecutive months after the present one that have their partition.
CREATE FUNCTION fidelity_partitions_ahead() RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    ahead  integer := 0;
BEGIN
    WHILE to_regclass('fidelity_tracking_' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC')
                                                      + make_interval(months => ahead + 1), 'YYYY_MM')) IS NOT NULL LOOP
        ahead := ahead + 1;
    END LOOP;
    RETURN ahead;
END $$;

-- Persons who were erased, by a hash of their id with a salt of this database; '' for all twin types. Records of them that arrive
-- later are stored without id and features. Whoever stores such records reads this table in the same transaction.
CREATE TABLE erasures (
    entity_hash   bytea NOT NULL,
    twin_type     text NOT NULL DEFAULT '',
    requested_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    requested_by  text NOT NULL,
    finished_at   timestamptz,
    report        jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (entity_hash, twin_type)
);

CREATE TABLE erasure_salt (
    salt  bytea NOT NULL
);
INSERT INTO erasure_salt (salt) VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

CREATE FUNCTION erasure_hash(entity text) RETURNS bytea LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT sha256(salt || convert_to(entity, 'UTF8')) FROM erasure_salt
$$;

-- Those of the ids that were erased, each with the twin type of the erasure.
CREATE FUNCTION erased_entities(entities text[]) RETURNS TABLE (entity text, twin_type text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT e.entity, r.twin_type
    FROM erasure_salt s CROSS JOIN unnest(entities) AS e (entity)
    JOIN erasures r ON r.entity_hash = sha256(s.salt || convert_to(e.entity, 'UTF8'))
    WHERE EXISTS (SELECT FROM erasures)
$$;

-- The lock waits for transactions that have read the table before: from here on, no record is stored with the id.
CREATE FUNCTION begin_erasure(entity text, of_type text, by_whom text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    LOCK TABLE erasures IN ACCESS EXCLUSIVE MODE;
    INSERT INTO erasures (entity_hash, twin_type, requested_by) VALUES (erasure_hash(entity), of_type, by_whom) ON CONFLICT DO NOTHING;
END $$;

CREATE FUNCTION finish_erasure(entity text, of_type text, new_report jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE erasures SET finished_at = clock_timestamp(), report = new_report
    WHERE entity_hash = erasure_hash(entity) AND twin_type = of_type
$$;

-- Whether a JSON value or one of its members is exactly this text.
CREATE FUNCTION json_names(document jsonb, entity text) RETURNS boolean
LANGUAGE sql IMMUTABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT position(to_jsonb(entity)::text IN document::text) > 0
$$;

-- A JSON document with this text replaced, where a member or the name of one is exactly this text.
CREATE FUNCTION json_without(document jsonb, entity text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT replace(document::text, to_jsonb(entity)::text, '"[erased]"')::jsonb
$$;

-- Whether a feature whose name is that of an id has this value; a region that is called like the person does not count.
CREATE FUNCTION features_name(features jsonb, entity text) RETURNS boolean
LANGUAGE sql IMMUTABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT EXISTS (SELECT FROM jsonb_each_text(CASE jsonb_typeof(features) WHEN 'object' THEN features ELSE '{}' END) f
                   WHERE f.value = entity AND f.key ~* '(^|_)(id|npi|name|entity|key)$')
$$;

-- Redacts everything that names a person in tables whose columns tell what names it: outcomes, history, twins, requests and notes.
-- Returns the number of rows by table. It can do nothing else. `of_type` is a twin type, or '' for all.
CREATE FUNCTION erase_entity(entity text, of_type text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    rows   bigint;
    more   bigint;
    named  uuid[];
    done   jsonb := '{}';
BEGIN
    UPDATE fidelity_tracking f SET entity_id = NULL, features = NULL
    WHERE f.entity_id = entity AND (of_type = '' OR split_part(f.line, ':', 1) = of_type);
    GET DIAGNOSTICS rows = ROW_COUNT;
    done := done || jsonb_build_object('fidelity_tracking', rows);

    DELETE FROM entity_history h WHERE h.entity_id = entity AND (of_type = '' OR split_part(h.line, ':', 1) = of_type);
    GET DIAGNOSTICS rows = ROW_COUNT;
    done := done || jsonb_build_object('entity_history', rows);

    SELECT array_agg(t.twin_id) INTO named FROM digital_twins t
    WHERE (of_type = '' OR t.twin_type::text = of_type) AND (json_names(t.metadata, entity) OR features_name(t.features, entity));
    DELETE FROM digital_twins t
    WHERE t.twin_id = ANY(named)
      AND NOT EXISTS (SELECT FROM twin_population_members m WHERE m.twin_id = t.twin_id)
      AND NOT EXISTS (SELECT FROM fidelity_tracking f WHERE f.twin_id = t.twin_id);
    GET DIAGNOSTICS rows = ROW_COUNT;
    UPDATE digital_twins t SET features = '{}', outcome = NULL, metadata = '{"erased": true}' WHERE t.twin_id = ANY(named);
    GET DIAGNOSTICS more = ROW_COUNT;
    done := done || jsonb_build_object('digital_twins', rows + more);

    UPDATE simulation_runs r
    SET request = json_without(r.request, entity), filters = json_without(r.filters, entity),
        intervention_config = json_without(r.intervention_config, entity), results = json_without(r.results, entity),
        recommendation_reason = replace(r.recommendation_reason, entity, '[erased]'),
        error_message = replace(r.error_message, entity, '[erased]')
    WHERE (of_type = '' OR r.line IS NULL OR split_part(r.line, ':', 1) = of_type)
      AND (json_names(r.request, entity) OR json_names(r.filters, entity) OR json_names(r.results, entity)
           OR json_names(r.intervention_config, entity));
    GET DIAGNOSTICS rows = ROW_COUNT;
    done := done || jsonb_build_object('simulation_runs', rows);

    UPDATE twin_populations p
    SET filters_applied = json_without(p.filters_applied, entity), name = replace(p.name, entity, '[erased]'),
        description = replace(p.description, entity, '[erased]')
    FROM digital_twin_models m
    WHERE m.model_id = p.model_id AND (of_type = '' OR m.twin_type::text = of_type)
      AND (json_names(p.filters_applied, entity) OR p.name = entity OR p.description = entity);
    GET DIAGNOSTICS rows = ROW_COUNT;
    done := done || jsonb_build_object('twin_populations', rows);

    UPDATE experiments e SET body = json_without(e.body, entity)
    WHERE json_names(e.body, entity) AND (of_type = '' OR split_part(e.line, ':', 1) = of_type);
    GET DIAGNOSTICS rows = ROW_COUNT;
    done := done || jsonb_build_object('experiments', rows);

    UPDATE retrain_requests r
    SET evidence = json_without(r.evidence, entity), learned = json_without(r.learned, entity)
    WHERE (json_names(r.evidence, entity) OR json_names(r.learned, entity)) AND (of_type = '' OR split_part(r.line, ':', 1) = of_type);
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN done || jsonb_build_object('retrain_requests', rows);
END $$;

-- Whether a document is another one in which whole values, or names of members, were replaced by '[erased]'.
CREATE FUNCTION is_redaction(old jsonb, new jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF old = new OR new = '"[erased]"' THEN
        RETURN true;
    ELSIF jsonb_typeof(old) = 'array' AND jsonb_typeof(new) = 'array' AND jsonb_array_length(old) = jsonb_array_length(new) THEN
        RETURN (SELECT coalesce(bool_and(is_redaction(old -> i, new -> i)), true) FROM generate_series(0, jsonb_array_length(old) - 1) i);
    ELSIF jsonb_typeof(old) = 'object' AND jsonb_typeof(new) = 'object' THEN
        RETURN (SELECT coalesce(bool_and(old ? n.key AND is_redaction(old -> n.key, n.value)), true) FROM jsonb_each(new) n)
               AND (SELECT count(*) FROM jsonb_object_keys(old)) = (SELECT count(*) FROM jsonb_object_keys(new));
    END IF;
    RETURN false;
END $$;

-- Redacts a refused record: its key, its value (to a redaction of it: nothing else is taken), headers by their index, and its reason
-- with the traceback. Notes of its replays go too.
CREATE FUNCTION redact_refused_record(id uuid, erase_key boolean, new_value bytea, erased_headers integer[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    old_value  bytea := (SELECT value FROM refused_records WHERE refusal_id = id);
BEGIN
    IF new_value IS DISTINCT FROM old_value AND new_value IS DISTINCT FROM '"[erased]"'::bytea
       AND (old_value IS NULL OR new_value IS NULL
            OR NOT is_redaction(convert_from(old_value, 'UTF8')::jsonb, convert_from(new_value, 'UTF8')::jsonb)) THEN
        RAISE EXCEPTION 'refused record %: the new value is no redaction of the stored one', id USING ERRCODE = 'check_violation';
    END IF;
    UPDATE refused_records r
    SET key = CASE WHEN erase_key THEN '[erased]'::bytea ELSE key END, value = new_value, reason = '[erased]', traceback = '',
        headers = (SELECT coalesce(json_agg(CASE WHEN h.place - 1 = ANY(erased_headers) THEN '["[erased]", null]'::json ELSE h.header END
                                            ORDER BY h.place), '[]')
                   FROM json_array_elements(r.headers) WITH ORDINALITY AS h (header, place))
    WHERE refusal_id = id;
    UPDATE refused_replays SET change = '[erased]' WHERE refusal_id = id AND change <> '';
END $$;

-- Notes of operators that contain an id.
CREATE FUNCTION erase_notes(entity text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    rows  bigint;
    more  bigint;
BEGIN
    UPDATE refused_replays SET change = '[erased]' WHERE position(to_json(entity)::text IN change) > 0;
    GET DIAGNOSTICS rows = ROW_COUNT;
    UPDATE park_requests SET why = '[erased]'
    WHERE entity = ANY(regexp_split_to_array(why, '[\s,;()"'']+'));
    GET DIAGNOSTICS more = ROW_COUNT;
    RETURN rows + more;
END $$;

-- In a database whose tables are in another schema than public, these functions find them there.
DO $$
DECLARE
    signature  regprocedure;
BEGIN
    FOR signature IN
        SELECT p.oid FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace AND p.prosecdef
        AND current_schema() <> 'public' AND 'search_path=public, pg_temp' = ANY(p.proconfig)
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', signature, current_schema());
    END LOOP;
END $$;
