-- Several rows of one entity may have the same time: an import numbers them.
ALTER TABLE entity_history ADD COLUMN ordinal integer NOT NULL DEFAULT 0 CHECK (ordinal >= 0);
ALTER TABLE entity_history DROP CONSTRAINT entity_history_pkey, ADD PRIMARY KEY (line, entity_id, observed_at, ordinal);

-- Whose rows each model was trained on: eight bytes per training row, in the order of the rows. A row is written before the model is
-- registered, so that no registered model lacks it.
CREATE TABLE model_training_rows (
    model_id  uuid PRIMARY KEY,
    entities  bytea NOT NULL CHECK (length(entities) % 8 = 0)
);

-- The first eight bytes of a salted hash of each id, in the order of the ids; another hash than that of erasures.
CREATE FUNCTION entity_keys(entities text[]) RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT coalesce(string_agg(substr(sha256(s.salt || convert_to('training row:' || e.entity, 'UTF8')), 1, 8), ''::bytea ORDER BY e.place),
                    ''::bytea)
    FROM erasure_salt s CROSS JOIN unnest(entities) WITH ORDINALITY AS e (entity, place)
$$;
