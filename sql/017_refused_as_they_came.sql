-- Refused records exactly as they came, what was done about them later, and stretches of topics that were worked through again.

-- A refused record was published again as the record (topic, partition, source_offset), by whom, and with which change.
CREATE TABLE refused_replays (
    refusal_id     uuid NOT NULL REFERENCES refused_records ON DELETE CASCADE,
    topic          text NOT NULL,
    partition      integer NOT NULL,
    source_offset  bigint NOT NULL,
    replayed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    replayed_by    text NOT NULL,
    change         text NOT NULL DEFAULT '',
    PRIMARY KEY (refusal_id, topic, partition, source_offset)
);

-- While a stretch of a topic is worked through again, and a moment longer, drift of these lines trains nothing by itself.
CREATE TABLE replays (
    replay_id    uuid PRIMARY KEY,
    topic        text NOT NULL,
    lines        text[] NOT NULL,
    replayed_by  text NOT NULL,
    begun_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    quiet_until  timestamptz NOT NULL
);
CREATE INDEX replays_quiet ON replays (quiet_until);

-- `headers` are pairs of a name and base64 of the bytes, null where there were none; json, because jsonb has no NUL for a name that
-- has one. `exception` is the class of what was raised. Outside of slices a topic that was made anew gives the same offsets again.
ALTER TABLE refused_records ALTER COLUMN headers DROP DEFAULT;
ALTER TABLE refused_records
    ALTER COLUMN headers TYPE json,
    ALTER COLUMN headers SET DEFAULT '[]',
    ADD COLUMN exception text NOT NULL DEFAULT '',
    DROP CONSTRAINT refused_records_source_source_offset_element_key,
    ADD UNIQUE (source, source_offset, element, tracked_at);
CREATE INDEX refused_records_newest ON refused_records (refused_at);
