-- A request for more twins than one table holds is computed in shards. Its row in simulation_queue is due at infinity until the last
-- shard is stored, one has failed, or the request is cancelled; from then on any worker concludes it, as it computes other requests.
INSERT INTO simulation_lanes (lane) VALUES ('sharded');

-- When somebody cancelled the request: whoever leases it next answers so.
ALTER TABLE simulation_queue ADD COLUMN cancelled_at timestamptz;

-- The blocks from first_block to before end_block. sums: over their twins, once they are computed. failure: why they never will be.
CREATE TABLE simulation_shards (
    simulation_id  uuid NOT NULL REFERENCES simulation_queue ON DELETE CASCADE,
    first_block    integer NOT NULL,
    end_block      integer NOT NULL CHECK (end_block > first_block),
    twins          bigint NOT NULL CHECK (twins > 0),
    start_tag      bigint NOT NULL,
    sums           bytea,
    failure        text,
    tries          integer NOT NULL DEFAULT 0,
    fence          bigint NOT NULL DEFAULT 0,
    holder         text,
    heartbeat_at   timestamptz,
    due_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (simulation_id, first_block)
);
CREATE INDEX simulation_shards_order ON simulation_shards (start_tag) WHERE sums IS NULL;
