-- Records that are parked: refused with the kind `parked`, because they could not be processed for a reason that no rule foresees, or
-- because an operator decided so. `traceback` is where the exception was raised.
ALTER TABLE refused_records ADD COLUMN traceback text NOT NULL DEFAULT '';
CREATE INDEX refused_records_parked ON refused_records (topic, source_offset) WHERE kind = 'parked';

-- Records that an operator wants to be parked: the role that reads them does it. One row for each position of a topic; a topic that
-- was created again may give the position again.
CREATE TABLE park_requests (
    topic          text NOT NULL,
    partition      integer NOT NULL,
    source_offset  bigint NOT NULL,
    why            text NOT NULL DEFAULT '',
    requested_by   text NOT NULL,
    requested_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    parked_at      timestamptz,
    PRIMARY KEY (topic, partition, source_offset)
);
CREATE INDEX park_requests_pending ON park_requests (topic) WHERE parked_at IS NULL;
