-- For a database that belongs to Twinstream alone: what an earlier version has created there as the superuser goes to the owner.
DO $$
DECLARE
    object text;
BEGIN
    FOR object IN
        SELECT 'TABLE ' || oid::regclass FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relowner <> 'twinstream_owner'::regrole
        UNION ALL
        SELECT 'FUNCTION ' || oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proowner <> 'twinstream_owner'::regrole
        UNION ALL
        SELECT 'TYPE ' || oid::regtype FROM pg_type
        WHERE typnamespace = 'public'::regnamespace AND typtype = 'e' AND typowner <> 'twinstream_owner'::regrole
    LOOP
        EXECUTE format('ALTER %s OWNER TO twinstream_owner', object);
    END LOOP;
END $$;
