#!/bin/sh
# Creates the roles of Twinstream and a user for each kind of work. The image of Postgres runs this once, for an empty volume. Run it
# again to set up an older volume, or after a change of the passwords in the folder secrets:
#     docker compose exec postgres sh /docker-entrypoint-initdb.d/create_users.sh
# It runs as the superuser of the server, whom no service of Twinstream uses. Passwords are read from files, so that no list of
# processes shows them.
set -eu

export SECRETS="${SECRETS:-/run/secrets}"
SCRIPTS="${SCRIPTS:-/etc/twinstream}"
for user in admin migrate write read; do
    if [ ! -s "$SECRETS/postgres_${user}_password" ]; then
        echo "$SECRETS/postgres_${user}_password is missing or empty: run deploy/create_secrets.sh" >&2
        exit 1
    fi
done
PGPASSWORD=$(cat "$SECRETS/postgres_admin_password")
export PGPASSWORD

psql --no-psqlrc --quiet --no-password --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" \
    --set=roles="$SCRIPTS/roles.sql" --set=ownership="$SCRIPTS/take_ownership.sql" <<'SQL'
SET log_min_error_statement = panic;
SET log_statement = 'none';
\i :roles
\i :ownership
SELECT format('CREATE ROLE %I LOGIN IN ROLE %I', login, role)
FROM (VALUES ('twinstream_migrate', 'twinstream_migrator'),
             ('twinstream_write', 'twinstream_writer'),
             ('twinstream_read', 'twinstream_reader')) AS users (login, role)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) \gexec
\set password `cat "$SECRETS/postgres_migrate_password"`
ALTER ROLE twinstream_migrate PASSWORD :'password';
\set password `cat "$SECRETS/postgres_write_password"`
ALTER ROLE twinstream_write PASSWORD :'password';
\set password `cat "$SECRETS/postgres_read_password"`
ALTER ROLE twinstream_read PASSWORD :'password';
SQL
