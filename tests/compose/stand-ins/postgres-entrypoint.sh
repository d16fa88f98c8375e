#!/usr/bin/env bash
# What the compose file asks of the image of PostgreSQL: at the first start, a cluster with that user, its password from a
# file, and a database; then the server.
set -euo pipefail

server() { pg_ctl --pgdata "$PGDATA" --wait --silent "$@"; }

make_cluster() {
  chmod 700 "$PGDATA"
  initdb --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth-local trust --auth-host scram-sha-256
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
  server --options "-c listen_addresses=''" start
  createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
  server --mode fast stop
}

[ "$1" != postgres ] || [ -s "$PGDATA/PG_VERSION" ] || make_cluster
exec "$@"
