-- Who may do what: this runs as twinstream_owner, who owns all that the migrations create (sql/roles.sql, sql/privileges.py).

-- What the owner creates from now on, partitions included: readable by the service and by readers, callable by nobody.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO twinstream_writer, twinstream_reader;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO twinstream_writer;
REVOKE EXECUTE ON FUNCTION make_fidelity_partitions(integer), refuse_to_rewrite() FROM PUBLIC;

-- The service makes partitions without the right to create tables. The path is fixed, and has the temporary schema last, so that no
-- caller can put a table of its own in the place of one that the function names.
ALTER FUNCTION make_fidelity_partitions(integer) SECURITY DEFINER;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION make_fidelity_partitions(integer) SET search_path = %I, pg_temp', current_schema());
END $$;
