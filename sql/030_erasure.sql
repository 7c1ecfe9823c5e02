-- An erasure reaches every column that can hold an id, in small transactions, without a lock for which outcomes wait; and bounds of
-- what the functions that run with the rights of the owner do for their caller.

-- Whoever stores what can name a person asks these two first, in the same transaction. ROW SHARE conflicts with no lock that the
-- service, a reader or a backup takes: it marks the transaction, and what follows it reads with a newer snapshot. An erasure enters
-- its id, commits, and waits for the transactions that are marked by then; all later ones find the id.
CREATE OR REPLACE FUNCTION erased_entities(entities text[]) RETURNS TABLE (entity text, twin_type text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    LOCK TABLE erasures IN ROW SHARE MODE;
    RETURN QUERY
    SELECT e.entity, r.twin_type
    FROM erasure_salt s CROSS JOIN unnest(entities) AS e (entity)
    JOIN erasures r ON r.entity_hash = sha256(s.salt || convert_to(e.entity, 'UTF8'))
    WHERE EXISTS (SELECT FROM erasures);
END $$;

CREATE FUNCTION has_erasures() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    LOCK TABLE erasures IN ROW SHARE MODE;
    RETURN EXISTS (SELECT FROM erasures);
END $$;

CREATE OR REPLACE FUNCTION begin_erasure(entity text, of_type text, by_whom text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO erasures (entity_hash, twin_type, requested_by) VALUES (erasure_hash(entity), of_type, by_whom) ON CONFLICT DO NOTHING
$$;

DROP FUNCTION finish_erasure(text, text, jsonb);
CREATE FUNCTION record_erasure(entity text, of_type text, new_report jsonb, is_finished boolean) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE erasures SET report = new_report, finished_at = CASE WHEN is_finished THEN clock_timestamp() ELSE finished_at END
    WHERE entity_hash = erasure_hash(entity) AND twin_type = of_type
$$;

DROP FUNCTION erase_entity(text, text);
DROP FUNCTION erase_notes(text);
DROP FUNCTION json_without(jsonb, text);

-- Redacts or deletes the rows of a table that are about the person, and returns their number. It can do nothing else. `of_type` is a
-- twin type, or '' for all.
CREATE FUNCTION erase_own_rows(entity text, of_type text, of_table text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    rows   bigint;
    more   bigint := 0;
    named  uuid[];
BEGIN
    CASE of_table
    WHEN 'fidelity_tracking' THEN
        UPDATE fidelity_tracking f SET entity_id = NULL, features = NULL
        WHERE f.entity_id = entity AND (of_type = '' OR split_part(f.line, ':', 1) = of_type);
        GET DIAGNOSTICS rows = ROW_COUNT;
    WHEN 'entity_history' THEN
        DELETE FROM entity_history h WHERE h.entity_id = entity AND (of_type = '' OR split_part(h.line, ':', 1) = of_type);
        GET DIAGNOSTICS rows = ROW_COUNT;
    WHEN 'digital_twins' THEN
        SELECT array_agg(t.twin_id) INTO named FROM digital_twins t
        WHERE (of_type = '' OR t.twin_type::text = of_type) AND (json_names(t.metadata, entity) OR features_name(t.features, entity));
        DELETE FROM digital_twins t
        WHERE t.twin_id = ANY(named)
          AND NOT EXISTS (SELECT FROM twin_population_members m WHERE m.twin_id = t.twin_id)
          AND NOT EXISTS (SELECT FROM fidelity_tracking f WHERE f.twin_id = t.twin_id);
        GET DIAGNOSTICS rows = ROW_COUNT;
        UPDATE digital_twins t SET features = '{}', outcome = NULL, metadata = '{"erased": true}' WHERE t.twin_id = ANY(named);
        GET DIAGNOSTICS more = ROW_COUNT;
    ELSE
        RAISE EXCEPTION 'table % has no rows about a person: use fidelity_tracking, entity_history or digital_twins', of_table
            USING ERRCODE = 'invalid_parameter_value';
    END CASE;
    RETURN rows + more;
END $$;

-- Columns with payload or free text, in which an id is replaced wherever it stands. Refused records have a function of their own.
CREATE FUNCTION erasable_columns() RETURNS TABLE (table_name text, column_name text)
LANGUAGE sql IMMUTABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    VALUES ('fidelity_tracking', 'features'),
           ('entity_history', 'features'), ('entity_history', 'source'),
           ('digital_twins', 'features'), ('digital_twins', 'metadata'),
           ('twin_populations', 'name'), ('twin_populations', 'description'), ('twin_populations', 'filters_applied'),
           ('twin_populations', 'realism'), ('twin_populations', 'columns'), ('twin_populations', 'spread'),
           ('simulation_runs', 'intervention_config'), ('simulation_runs', 'filters'), ('simulation_runs', 'results'),
           ('simulation_runs', 'recommendation_reason'), ('simulation_runs', 'error_message'), ('simulation_runs', 'request'),
           ('simulation_queue', 'flow'),
           ('experiments', 'reach'),
           ('effect_versions', 'experiments'), ('effect_priors', 'experiments'), ('effect_priors', 'prior'),
           ('retrain_requests', 'reason'), ('retrain_requests', 'evidence'), ('retrain_requests', 'learned'),
           ('retrain_requests', 'outcome'),
           ('promotion_effects', 'comparison'), ('estimated_fidelity', 'estimate'),
           ('refused_replays', 'change'), ('refused_replays', 'replayed_by'), ('replays', 'replayed_by'),
           ('park_requests', 'why'), ('park_requests', 'requested_by'),
           ('line_thresholds', 'changed_by'), ('line_thresholds', 'reason'),
           ('publications', 'name'), ('publications', 'published_by'),
           ('maintenance_runs', 'run_by'), ('maintenance_runs', 'error'), ('maintenance_runs', 'deleted'),
           ('erasures', 'requested_by'), ('erasures', 'report')
$$;

-- Whether a text is another one of which parts, or all, were replaced by '[erased]'.
CREATE FUNCTION is_redacted_text(old text, new text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT old LIKE replace(regexp_replace(new, '([\\%_])', '\\\1', 'g'), '[erased]', '%')
$$;

-- Whether a document is another one in which whole values, or parts of texts or of the names of members, were replaced by '[erased]'.
CREATE OR REPLACE FUNCTION is_redaction(old jsonb, new jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF old = new OR new = '"[erased]"' THEN
        RETURN true;
    ELSIF jsonb_typeof(old) <> jsonb_typeof(new) THEN
        RETURN false;
    ELSIF jsonb_typeof(old) = 'string' THEN
        RETURN is_redacted_text(old #>> '{}', new #>> '{}');
    ELSIF jsonb_typeof(old) = 'array' THEN
        RETURN jsonb_array_length(old) = jsonb_array_length(new) AND
               (SELECT coalesce(bool_and(is_redaction(old -> i, new -> i)), true) FROM generate_series(0, jsonb_array_length(old) - 1) i);
    ELSIF jsonb_typeof(old) = 'object' THEN
        RETURN (SELECT count(*) FROM jsonb_object_keys(old)) = (SELECT count(*) FROM jsonb_object_keys(new)) AND
               (SELECT coalesce(bool_and(CASE WHEN old ? n.key THEN is_redaction(old -> n.key, n.value) ELSE EXISTS (
                    SELECT FROM jsonb_each(old) o
                    WHERE NOT new ? o.key AND is_redacted_text(o.key, n.key) AND is_redaction(o.value, n.value)) END), true)
                FROM jsonb_each(new) n);
    END IF;
    RETURN false;
END $$;

-- Replaces values of a row, by column, by redactions of them; nothing else is taken. Returns false where the row has moved or is gone.
CREATE FUNCTION redact_values(of_table regclass, row_id tid, new_values jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    of_column    text;
    old_values   jsonb;
    assignments  text;
BEGIN
    EXECUTE format('SELECT to_jsonb(t) FROM ONLY %s t WHERE ctid = $1 FOR NO KEY UPDATE', of_table) INTO old_values USING row_id;
    IF old_values IS NULL THEN
        RETURN false;
    END IF;
    FOR of_column IN SELECT jsonb_object_keys(new_values) LOOP
        IF NOT EXISTS (SELECT FROM erasable_columns() c WHERE c.column_name = of_column
                       AND to_regclass(c.table_name) = coalesce(pg_partition_root(of_table), of_table)) THEN
            RAISE EXCEPTION 'nothing is redacted in column % of %', of_column, of_table USING ERRCODE = 'invalid_parameter_value';
        ELSIF is_redaction(old_values -> of_column, new_values -> of_column) IS NOT TRUE THEN
            RAISE EXCEPTION 'column % of %: the new value is no redaction of the stored one', of_column, of_table
                USING ERRCODE = 'check_violation';
        END IF;
    END LOOP;
    SELECT string_agg(format('%1$I = (jsonb_populate_record(t, $2)).%1$I', key), ', ') INTO assignments FROM jsonb_object_keys(new_values) key;
    EXECUTE format('UPDATE ONLY %s t SET %s WHERE ctid = $1', of_table, assignments) USING row_id, new_values;
    RETURN true;
END $$;

-- The name of an experiment whose id named a person: it tells experiments apart, and leads to nobody without the salt.
CREATE FUNCTION erased_name(name text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT '[erased ' || left(encode(erasure_hash(name), 'hex'), 16) || ']'
$$;

-- Redacts the body of an experiment, and gives one whose id names a person its erased name, wherever the id refers to it.
CREATE FUNCTION redact_experiment(old_id text, is_renamed boolean, new_body jsonb, new_digest bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    new_id  text := CASE WHEN is_renamed THEN erased_name(old_id) ELSE old_id END;
    stored  record;
BEGIN
    SELECT line, body INTO stored FROM experiments WHERE experiment_id = old_id FOR UPDATE;
    IF new_body ->> 'experiment_id' IS DISTINCT FROM new_id
       OR NOT is_redaction(stored.body - 'experiment_id', new_body - 'experiment_id') THEN
        RAISE EXCEPTION 'experiment: the new body is no redaction of the stored one' USING ERRCODE = 'check_violation';
    END IF;
    UPDATE experiments SET experiment_id = new_id, body = new_body, digest = new_digest WHERE experiment_id = old_id;
    UPDATE effect_versions SET experiments = array_replace(experiments, old_id, new_id)
    WHERE line = stored.line AND old_id = ANY(experiments);
    UPDATE effect_priors SET experiments = array_replace(experiments, old_id, new_id)
    WHERE line = stored.line AND old_id = ANY(experiments);
    UPDATE simulation_runs SET request = jsonb_set(request, '{experiment_id}', to_jsonb(new_id)) WHERE request ->> 'experiment_id' = old_id;
END $$;

-- A head only rises: to a higher revision of its event, or to the higher digest of two with the same one.
CREATE FUNCTION refuse_to_lower_head() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the head of event % is at revision %: it only rises', OLD.event_id, OLD.revision USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER event_heads_only_rise BEFORE UPDATE ON event_heads FOR EACH ROW
    WHEN ((NEW.revision, NEW.digest) <= (OLD.revision, OLD.digest)) EXECUTE FUNCTION refuse_to_lower_head();

-- The service asks for 3 months ahead. Each partition is a table that every query of outcomes has to plan for.
CREATE OR REPLACE FUNCTION make_fidelity_partitions(months_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    this_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    month      timestamp;
    name       text;
    bounds     text;
    written    text := (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                        WHERE attrelid = 'fidelity_tracking'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '');
    made       integer := 0;
BEGIN
    IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 12 THEN
        RAISE EXCEPTION 'partitions are made for 0 to 12 months ahead, not %', months_ahead USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('make_fidelity_partitions'));
    FOR month IN SELECT generate_series(this_month - interval '1 month', this_month + make_interval(months => months_ahead),
                                        interval '1 month') LOOP
        name := 'fidelity_tracking_' || to_char(month, 'YYYY_MM');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        bounds := format('tracked_at >= %L AND tracked_at < %L', month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
        EXECUTE format('CREATE TABLE %I (LIKE fidelity_tracking INCLUDING DEFAULTS INCLUDING GENERATED)', name);
        EXECUTE 'LOCK TABLE fidelity_tracking_default IN ACCESS EXCLUSIVE MODE';
        EXECUTE format('WITH moved AS (DELETE FROM fidelity_tracking_default WHERE %s RETURNING *) INSERT INTO %I (%s) SELECT %s FROM moved',
                       bounds, name, written, written);
        EXECUTE format('ALTER TABLE fidelity_tracking ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Drops the monthly partitions that ended before `before` and are empty, and returns their names: none that Kafka may still fill. The
-- emptiness is checked twice: first without a lock, as it may read many pages, then with the lock, when those pages are known to be empty.
CREATE OR REPLACE FUNCTION drop_aged_partitions(before timestamptz) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    partition_name  text;
    is_used         boolean;
    dropped         text[] := '{}';
BEGIN
    IF before IS NULL OR before > now() - least_retention() THEN
        RAISE EXCEPTION 'partitions are dropped that ended before % at the latest, not %: Kafka may deliver records of that age again',
            now() - least_retention(), before USING ERRCODE = 'invalid_parameter_value';
    END IF;
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
