-- What was published from files: each publication with the events it states, written before they are sent. So the same rows get the
-- same events, revisions and times again, whatever happened to an earlier attempt, and each row can be asked what became of it.

-- publication_id follows from the content of the file, in any order of rows. A row that repeats another one of its file is no event of
-- its own. `tried_at` is the begin of the last attempt, `sent_at` the end of an attempt that sent everything.
CREATE TABLE publications (
    publication_id  uuid PRIMARY KEY,
    name            text NOT NULL,
    published_by    text NOT NULL,
    rows            bigint NOT NULL,
    repeated        bigint NOT NULL,
    begun_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    tried_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at         timestamptz
);
CREATE INDEX publications_begun ON publications (begun_at);

-- origin: the event was new, a correction of a known event, or known with this content when the publication stated it first.
-- `observed_at` is the time that was filled in where the file had none. `digest` is that of the outcome, as in fidelity_tracking.
CREATE TABLE published_events (
    publication_id  uuid NOT NULL REFERENCES publications ON DELETE CASCADE,
    event_id        uuid NOT NULL,
    revision        integer NOT NULL,
    digest          bytea NOT NULL,
    line            text NOT NULL,
    observed_at     timestamptz,
    origin          text NOT NULL CHECK (origin IN ('new', 'correction', 'known')),
    PRIMARY KEY (publication_id, event_id, revision)
);
CREATE INDEX published_events_event ON published_events (event_id);

-- Outcomes that came too late to be counted are history: their errors are shown by the time of the outcomes.
CREATE INDEX fidelity_tracking_late ON fidelity_tracking (line, observed_at) WHERE fate = 'too_late';

-- Refused records of published events: the key of such a record is the id of its event. Keys of others may be of any length.
CREATE INDEX refused_records_key ON refused_records USING hash (key);

-- Publications that were last tried before this time. Their outcomes are told apart by what is stored of them.
CREATE FUNCTION age_publications(before timestamptz, chunk integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    events  bigint;
    files   bigint;
BEGIN
    before := least(before, now() - least_retention());
    DELETE FROM published_events WHERE ctid = ANY(ARRAY(
        SELECT e.ctid FROM published_events e JOIN publications p USING (publication_id) WHERE p.tried_at < before LIMIT chunk));
    GET DIAGNOSTICS events = ROW_COUNT;
    DELETE FROM publications p WHERE publication_id = ANY(ARRAY(
        SELECT p.publication_id FROM publications p
        WHERE p.tried_at < before AND NOT EXISTS (SELECT FROM published_events e WHERE e.publication_id = p.publication_id)
        LIMIT chunk - events));
    GET DIAGNOSTICS files = ROW_COUNT;
    RETURN events + files;
END $$;
