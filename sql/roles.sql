-- The four roles of a Twinstream database. Every `twinstream migrate` runs this first, and the local stack before its first start;
-- it repeats without effect, and several databases of a server can run it at the same time, because roles belong to the server.
--
--   twinstream_owner     owns every table, type and function; nobody logs in as the owner
--   twinstream_migrator  may become the owner with SET ROLE, to apply migrations
--   twinstream_writer    the service: reads every table, and writes what sql/privileges.py declares
--   twinstream_reader    reads every table
DO $$
DECLARE
    is_superuser CONSTANT boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
    has_created  boolean := false;
    role         text;
    large_object_function  text;
    advisory_function      text;
BEGIN
    FOREACH role IN ARRAY ARRAY['twinstream_owner', 'twinstream_migrator', 'twinstream_writer', 'twinstream_reader'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = role);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', role);
            has_created := true;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- by another database of this server, at the same time
        END;
    END LOOP;
    IF NOT pg_has_role('twinstream_migrator', 'twinstream_owner', 'MEMBER') THEN
        BEGIN
            GRANT twinstream_owner TO twinstream_migrator;
        EXCEPTION WHEN unique_violation OR internal_error THEN  -- internal_error: the row was updated concurrently
            IF NOT pg_has_role('twinstream_migrator', 'twinstream_owner', 'MEMBER') THEN
                RAISE;
            END IF;
        END;
    END IF;
    IF has_created AND NOT is_superuser THEN  -- who has one user only goes on working with it
        EXECUTE format('GRANT twinstream_migrator, twinstream_writer TO %I', current_user);
    END IF;
    IF NOT has_schema_privilege('twinstream_owner', current_schema(), 'CREATE') THEN
        EXECUTE format('GRANT CREATE, USAGE ON SCHEMA %I TO twinstream_owner', current_schema());
        IF NOT has_schema_privilege('twinstream_owner', current_schema(), 'CREATE') THEN  -- only a warning was raised
            RAISE EXCEPTION 'permission denied for schema %', current_schema() USING ERRCODE = 'insufficient_privilege';
        END IF;
    END IF;
    FOREACH role IN ARRAY ARRAY['twinstream_writer', 'twinstream_reader'] LOOP
        CONTINUE WHEN has_schema_privilege(role, current_schema(), 'USAGE');
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    END LOOP;
    IF has_schema_privilege('public', current_schema(), 'CREATE')
       AND (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = current_schema()) THEN
        EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    END IF;
    IF is_superuser THEN  -- large objects: anybody could store bytes there, out of reach of retention and erasure
        FOR large_object_function IN
            SELECT p.oid::regprocedure FROM pg_proc p
            WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY('{lo_creat,lo_create,lo_from_bytea,lo_open,lo_put,
                  lo_get,lo_unlink,lo_truncate,lo_truncate64,lo_lseek,lo_lseek64,lo_tell,lo_tell64,lo_close,loread,lowrite}')
              AND has_function_privilege('public', p.oid, 'EXECUTE')
        LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', large_object_function);
        END LOOP;
    END IF;
    IF is_superuser THEN  -- advisory locks order the work of the service: anybody who may take them could stop it
        FOR advisory_function IN
            SELECT p.oid::regprocedure FROM pg_proc p
            WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname LIKE 'pg\_%advisory%lock%'
              AND p.proname NOT LIKE '%unlock%'  -- which clients call at the end of a session
              AND (has_function_privilege('public', p.oid, 'EXECUTE')
                   OR NOT has_function_privilege('twinstream_owner', p.oid, 'EXECUTE')
                   OR NOT has_function_privilege('twinstream_migrator', p.oid, 'EXECUTE')
                   OR NOT has_function_privilege('twinstream_writer', p.oid, 'EXECUTE'))
        LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', advisory_function);
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO twinstream_owner, twinstream_migrator, twinstream_writer', advisory_function);
        END LOOP;
    END IF;
    IF has_database_privilege('public', current_database(), 'TEMPORARY')
       AND (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()) THEN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    END IF;
END $$;
