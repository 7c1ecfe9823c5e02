-- Pinned simulation requests that wait for their computation, or are computed now. A row is deleted when the answer is published.
-- flow: requests of one requester and one order of magnitude. Flows share a lane equally: the row with the lowest start_tag is next,
-- a flow's tags advance by the work of its requests, and a new flow starts at the tag that the lane has reached.
CREATE TABLE simulation_lanes (
    lane     text PRIMARY KEY,
    reached  bigint NOT NULL DEFAULT 0
);
INSERT INTO simulation_lanes (lane) VALUES ('small'), ('large');

CREATE TABLE simulation_queue (
    simulation_id  uuid PRIMARY KEY REFERENCES simulation_runs ON DELETE CASCADE,
    lane           text NOT NULL REFERENCES simulation_lanes,
    flow           text NOT NULL,
    work           bigint NOT NULL CHECK (work > 0),
    start_tag      bigint NOT NULL,
    model_id       uuid,
    queued_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries          integer NOT NULL DEFAULT 0,
    fence          bigint NOT NULL DEFAULT 0,
    holder         text,
    heartbeat_at   timestamptz
);
CREATE INDEX simulation_queue_order ON simulation_queue (lane, start_tag);
CREATE INDEX simulation_queue_flow ON simulation_queue (lane, flow, start_tag);
