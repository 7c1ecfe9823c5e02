-- The catalogue is the user's: its versions, and which one everything was made under. 0 is the built-in catalogue.

-- A brand is any name of a catalogue, which the service checks. As a domain it keeps its name and its statements, and takes any
-- name that can be one, without a change of the schema for each.
ALTER TYPE brand RENAME TO built_in_brand;
CREATE DOMAIN brand AS text CHECK (VALUE ~ '^[a-z][a-z0-9_]{0,59}$');
ALTER TABLE digital_twin_models ALTER COLUMN brand TYPE brand USING brand::text;
ALTER TABLE model_lines ALTER COLUMN brand TYPE brand USING brand::text;
DROP TYPE built_in_brand;

-- The content is JSON as text: the order of its entries has a meaning, which jsonb would lose.
CREATE TABLE catalogue_versions (
    version     integer PRIMARY KEY CHECK (version > 0),
    sha256      text NOT NULL,
    content     text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by  text NOT NULL,
    reason      text NOT NULL DEFAULT ''
);
CREATE TRIGGER catalogue_versions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON catalogue_versions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite();

ALTER TABLE digital_twin_models ADD COLUMN catalogue_version integer NOT NULL DEFAULT 0;
ALTER TABLE twin_populations ADD COLUMN catalogue_version integer NOT NULL DEFAULT 0;
ALTER TABLE simulation_runs ADD COLUMN catalogue_version integer NOT NULL DEFAULT 0;
