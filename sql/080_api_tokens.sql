-- Tokens of the HTTP API. Only the hash of a token is stored, so that nobody who reads this table can use one.

CREATE TABLE api_tokens (
    token_id      uuid PRIMARY KEY,
    token_name    text NOT NULL CHECK (token_name <> ''),
    sha256        bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    scopes        text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ '{read,ask,operate}'),
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz CHECK (expires_at > created_at),
    revoked_at    timestamptz,
    last_used_on  date
);

-- A name can be used again once its token is revoked.
CREATE UNIQUE INDEX api_tokens_name ON api_tokens (token_name) WHERE revoked_at IS NULL;
