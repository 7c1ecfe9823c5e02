-- A withdrawal that can be taken back, the catalogue of each effects version, and versions that a person has chosen.

-- The state of the highest revision counts; of two with the same one that of the withdrawal.
ALTER TABLE experiments ADD COLUMN revision integer NOT NULL DEFAULT 0;

ALTER TABLE effect_versions ADD COLUMN catalogue_version integer;  -- null: made before this column

-- Which effects version simulations of a line take: the last row decides, null for the newest version. Rows are never changed.
CREATE TABLE effect_pins (
    line       text NOT NULL,
    number     integer NOT NULL CHECK (number > 0),
    version    integer CHECK (version >= 0),
    pinned_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    pinned_by  text NOT NULL,
    reason     text NOT NULL DEFAULT '',
    PRIMARY KEY (line, number)
);
CREATE TRIGGER effect_pins_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON effect_pins
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite();
