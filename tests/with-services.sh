#!/usr/bin/env bash
# Runs a command with a real PostgreSQL and a real Redis of its own, and stops them when it ends:
#
#   tests/with-services.sh cargo test --test store
#
# The command finds them in TEST_DATABASE_URL (a superuser's; tests create their own databases) and TEST_REDIS_URL. Set
# one of these to use a server that runs already; then none is started in its place.
# The servers live in a temporary directory, on free ports of 127.0.0.1, under an unprivileged user when this runs as
# root (PostgreSQL refuses root). Their logs are kept when the command fails.
set -euo pipefail

PORT_TRIES=20
REDIS_START_S=30

dir='' owner='' pg_ctl='' redis_pid='' command_pid=''

say() { echo "services: $*" >&2; }

main() {
  [ $# -gt 0 ] || { say "usage: $0 COMMAND [ARGUMENT...]"; exit 2; }
  "$(dirname "${BASH_SOURCE[0]}")/prerequisites.sh"
  trap finish EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  make_dir
  if [ -n "${TEST_DATABASE_URL:-}" ]; then say 'PostgreSQL as TEST_DATABASE_URL says'; else start_postgres; fi
  if [ -n "${TEST_REDIS_URL:-}" ]; then say 'Redis as TEST_REDIS_URL says'; else start_redis; fi
  run "$@"
}

# Runs it as the servers' user, from a directory that every user may enter.
as_owner() (
  cd /
  if [ -z "$owner" ]; then exec "$@"; else exec runuser -u "$owner" -- "$@"; fi
)

make_dir() {
  local base=${TMPDIR:-/tmp}
  if [ "$(id -u)" = 0 ]; then
    owner=nobody
    if id postgres >/dev/null 2>&1; then owner=postgres; fi
  fi
  # root's TMPDIR may be closed to the servers' user.
  as_owner test -x "$base" || base=/tmp
  dir=$(mktemp -d "$base/hookpost-services.XXXXXX")
  [ -z "$owner" ] || chown "$owner" "$dir"
}

# One below those that the kernel gives to outgoing connections. It may be taken: callers try another then.
random_port() { echo $((20000 + RANDOM % 12000)); }

port_was_taken() { grep -qs 'Address already in use' "$1"; }

gave_up() {
  say "$1 did not start; the end of its log:"
  tail -n 30 "$2" >&2 || true
  exit 1
}

# On the PATH, or the newest of Debian's, which keeps a directory for each major version off it.
find_pg_ctl() {
  command -v pg_ctl || compgen -G '/usr/lib/postgresql/*/bin/pg_ctl' | sort -V | tail -n 1
}

start_postgres() {
  local data=$dir/postgres log=$dir/postgres.log options port
  pg_ctl=$(find_pg_ctl)
  as_owner "$(dirname "$pg_ctl")/initdb" -D "$data" -U postgres -A trust -E UTF8 --no-locale >"$log" 2>&1 ||
    gave_up initdb "$log"
  # No sockets in the file system: their paths may have no more than 107 bytes. fsync stays on: durability is tested.
  options="-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200"
  for _ in $(seq "$PORT_TRIES"); do
    port=$(random_port)
    rm -f "$log"
    if as_owner "$pg_ctl" start --wait --silent -D "$data" -l "$log" -o "$options -p $port" >/dev/null 2>&1; then
      export TEST_DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
      say "PostgreSQL: $TEST_DATABASE_URL"
      return
    fi
    port_was_taken "$log" || break
  done
  gave_up PostgreSQL "$log"
}

start_redis() {
  local log=$dir/redis.log port
  for _ in $(seq "$PORT_TRIES"); do
    port=$(random_port)
    rm -f "$log"
    redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$dir" </dev/null >"$log" 2>&1 &
    redis_pid=$!
    if redis_is_ready "$log"; then
      export TEST_REDIS_URL="redis://127.0.0.1:$port"
      say "Redis: $TEST_REDIS_URL"
      return
    fi
    stop_redis
    port_was_taken "$log" || break
  done
  gave_up Redis "$log"
}

# Asks the log, not the port: another server may be answering there.
redis_is_ready() {
  local deadline=$((SECONDS + REDIS_START_S))
  while [ $SECONDS -lt $deadline ] && kill -0 "$redis_pid" 2>/dev/null; do
    if grep -qs 'Ready to accept connections' "$1"; then return 0; fi
    sleep 0.05
  done
  return 1
}

# In a process group of its own, so that an interrupt reaches the tests that cargo has started, too.
run() {
  set -m
  "$@" </dev/null &
  command_pid=$!
  set +m
  wait "$command_pid"
}

finish() {
  local status=$?
  trap - EXIT
  trap '' HUP INT TERM
  [ -z "$command_pid" ] || kill -TERM -- "-$command_pid" 2>/dev/null || true
  stop_redis
  stop_postgres
  [ -z "$dir" ] || discard "$status"
  exit "$status"
}

stop_redis() {
  [ -n "$redis_pid" ] || return 0
  kill -KILL "$redis_pid" 2>/dev/null || true
  wait "$redis_pid" 2>/dev/null || true
  redis_pid=''
}

# At once: nothing of it is needed any more.
stop_postgres() {
  [ -f "$dir/postgres/postmaster.pid" ] || return 0
  as_owner "$pg_ctl" stop --wait --silent -m immediate -D "$dir/postgres" >/dev/null 2>&1 ||
    say "PostgreSQL in $dir/postgres could not be stopped"
}

discard() {
  if [ "$1" = 0 ]; then
    rm -rf "$dir"
  else
    rm -rf "$dir/postgres"
    say "the servers' logs are in $dir"
  fi
}

main "$@"
