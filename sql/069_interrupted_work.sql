-- Records that were in work when the process of their role ended without finishing them: killed because it hung or used too much
-- memory, or ended by an error. One row for each end of a process and each range of offsets. A record with many of them is parked.
CREATE TABLE interrupted_work (
    topic           text NOT NULL,
    partition       integer NOT NULL,
    first_offset    bigint NOT NULL,
    last_offset     bigint NOT NULL,
    interrupted_at  timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, first_offset, last_offset, interrupted_at)
);
