-- Keys by which a caller of the HTTP API repeats a request without doing it twice; rows are deleted a day later.

CREATE TABLE api_requests (
    caller         text NOT NULL,
    request_key    text NOT NULL CHECK (length(request_key) BETWEEN 1 AND 200),
    sha256         bytea NOT NULL,  -- of the method, the address and the body
    accepted_at    timestamptz NOT NULL,
    answer_status  integer,         -- null until the request is done
    answer         jsonb,
    PRIMARY KEY (caller, request_key)
);

CREATE INDEX api_requests_accepted_at ON api_requests (accepted_at);
