#!/bin/sh
# The ledger's database and its two roles, made once in an empty PostgreSQL: the owner migrates, the
# service's role owns nothing and may not change what happened (migrating grants it what it needs).
# Run by the image's entry point as the superuser; by hand with PGUSER, PGHOST, … set.
set -eu
: "${STOCKADE_PASSWORD:?}" "${STOCKADE_OWNER_PASSWORD:?}"
psql --no-psqlrc --set ON_ERROR_STOP=1 --dbname postgres \
  --set service="$STOCKADE_PASSWORD" --set owner="$STOCKADE_OWNER_PASSWORD" <<'SQL'
CREATE ROLE stockade_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'owner';
CREATE ROLE stockade LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'service';
CREATE DATABASE stockade OWNER stockade_owner ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE stockade FROM PUBLIC;
GRANT CONNECT ON DATABASE stockade TO stockade;
SQL
