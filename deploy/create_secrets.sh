#!/bin/sh
# Creates the passwords that docker-compose.yml mounts, one file each, in the folder secrets beside it; what exists stays as it is.
# Only this user can enter the folder. The files are readable for all, because the users of the containers have other numbers.
set -eu

cd "$(dirname "$0")/.."
mkdir -p secrets
chmod 700 secrets
for name in postgres_admin postgres_migrate postgres_write postgres_read grafana_admin; do
    file="secrets/${name}_password"
    [ -s "$file" ] && continue
    head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$file"
    chmod 444 "$file"
    echo "created $file"
done
