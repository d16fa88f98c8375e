#!/usr/bin/env bash
# Builds the image and runs the compose file as somebody with a clean clone would, and checks what they promise: one line
# for each check. `make compose-test` runs it, and so does `make test`.
#
# It needs a container engine and its Compose tool; without them it says that it was skipped. It leaves a project of its own
# name behind in no case. What a build made stays for the next one, as hookpost-test:* and hookpost-stand-in/*.
set -euo pipefail

ENGINE_S=20
LOCK_S=1200
BUILD_S=1500
UP_S=180
# More than the 30 s after which an engine ends what does not stop.
COMMAND_S=120
# For what follows at once, or within a health check's interval.
WAIT_S=60
ASK_S=20
PORT=8000

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
project=hookpost-test-$$
api=http://localhost:8000
dir='' failed=0

export COMPOSE_PROJECT_NAME=$project IMAGE=hookpost-test:latest CARGO_PROFILE=${CARGO_PROFILE:-dev}

say() { echo "compose: $*" >&2; }
skip() { echo "SKIPPED: compose: $*"; exit 0; }

main() {
  find_engine
  exec 9>"${TMPDIR:-/tmp}/hookpost-compose.$(id -u).lock"
  flock -w "$LOCK_S" 9 || fail 'another run on this engine has not ended'
  trap finish EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  clone
  find_images
  start
  check 'a change of the sources leaves the layer of dependencies as it is' sources_are_a_layer_of_their_own
  check 'what must be secret is in no file, variable or layer' no_secret_shows
  check 'only loopback is published, and the stores are on a network without a way out' only_loopback_is_published
  check 'all run without root, capabilities and a file system that can be written' all_are_confined
  check "the README's curl lines end with a delivery that verifies" readme_walk
  check "the seed's curl lines work as they stand" seeds_curl_lines
  check 'without PostgreSQL events are refused with 503, and taken again once it is back' postgres_stops
  check 'without Redis events are taken and delivered' redis_stops
  check 'SIGTERM lets the attempt in flight end, and the exit status is 0' sigterm_drains
  check 'what was there is there after down and up' data_stays
  check 'nobody is let in from outside without keys' open_door_is_refused
  check "the README's three lines switch the keys on" keys_are_switched_on
  [ "$failed" = 0 ] || fail "$failed checks failed"
  say "all passed in $SECONDS s"
}

# --- what it runs on

find_engine() {
  timeout "$ENGINE_S" docker info >/dev/null 2>&1 || skip 'no container engine'
  if command docker compose version >/dev/null 2>&1; then tool=(docker compose)
  elif command -v docker-compose >/dev/null; then tool=(docker-compose)
  else skip 'the engine has no Compose tool'; fi
  command -v curl >/dev/null || skip 'no curl'
}

# The tree without what git does not know.
clone() {
  dir=$(mktemp -d "${TMPDIR:-/tmp}/hookpost-compose.XXXXXX")
  mkdir "$dir/clone"
  git -C "$root" ls-files -z | tar -C "$root" --create --null --files-from=- --ignore-failed-read 2>/dev/null |
    tar -C "$dir/clone" --extract || fail "$root cannot be copied: is it a clone?"
  cd "$dir/clone"
}

# Those that the files name, under these names.
find_images() {
  local images status=0
  images=$({ sed -n 's/^FROM \([^ ]*:[^ ]*\).*/\1/p' Dockerfile; sed -n 's/^ *image: \([a-z]*:.*\)/\1/p' docker-compose.yml; } |
    sort -u)
  # shellcheck disable=SC2086 # one a word
  "$here/stand-ins.sh" $images >"$dir/tagged" || status=$?
  [ "$status" != 3 ] || skip 'no registry can be reached, and stand-ins need root and debootstrap'
  [ "$status" = 0 ] || fail 'no stand-ins could be built'
}

start() {
  local began=$SECONDS
  cp .env.example .env
  printf '%s\n' silent show-error "max-time = $ASK_S" >"$dir/.curlrc"
  port_is_free || elsewhere
  # A name for the stage that builds, or what tidies up below would take its layers along.
  bounded "$BUILD_S" docker build --quiet --build-arg CARGO_PROFILE="$CARGO_PROFILE" --target build \
    --tag "hookpost-test:build-$CARGO_PROFILE" . || fail 'the program does not build'
  bounded "$BUILD_S" "${tool[@]}" build || fail 'the image does not build'
  say "built with the profile $CARGO_PROFILE in $((SECONDS - began)) s: $(image_size) MB"
  began=$SECONDS
  bounded "$UP_S" "${tool[@]}" up --build --detach || fail 'it does not come up'
  eventually healthy hookpost || fail 'hookpost does not become healthy'
  say "up and healthy in $((SECONDS - began)) s"
}

image_size() { echo $(($(docker image inspect --format '{{.Size}}' "$IMAGE") / 1000000)); }

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; }

# curl reads the lines as they stand, and is told where that name is.
elsewhere() {
  PORT=$((20000 + RANDOM % 12000))
  say "port 8000 is taken; using $PORT"
  export PUBLISH=127.0.0.1:$PORT
  echo "connect-to = localhost:8000:127.0.0.1:$PORT" >>"$dir/.curlrc"
}

finish() {
  local status=$?
  trap - EXIT
  trap '' HUP INT TERM
  cd /
  if [ -n "$dir" ] && [ -e "$dir/clone/.env" ]; then
    [ "$status" = 0 ] || { cd "$dir/clone" && compose ps >&2; compose logs --tail 40 >&2; } || true
    (cd "$dir/clone" && compose down --volumes --remove-orphans --timeout 5 >/dev/null 2>&1) || say "$project is left over"
  fi
  # Or somebody takes the stand-ins for the real ones.
  if [ -s "$dir/tagged" ]; then xargs docker rmi --no-prune <"$dir/tagged" >/dev/null 2>&1 || true; fi
  [ -z "$dir" ] || rm -rf "$dir"
  docker image prune --force --filter label=hookpost.stage=build >/dev/null 2>&1 || true
  exit "$status"
}

# --- how it asks

fail() { say "FAILED: $*"; exit 1; }

# In a shell of its own that ends with the first command that fails.
check() {
  local began=$SECONDS status=0
  set +e
  (set -eE; trap 'echo "ended at: $BASH_COMMAND"' ERR; "$2") >"$dir/log" 2>&1
  status=$?
  set -e
  if [ "$status" = 0 ]; then say "ok: $1 ($((SECONDS - began)) s)"; return; fi
  failed=$((failed + 1))
  say "FAILED: $1"
  tail -n 20 "$dir/log" | sed 's/^/    /' >&2
}

# Quiet as long as it succeeds.
bounded() {
  local seconds=$1
  shift
  timeout "$seconds" "$@" </dev/null >"$dir/log" 2>&1 && return
  tail -n 40 "$dir/log" >&2
  return 1
}

compose() { PUBLISH=127.0.0.1:$PORT timeout "$COMMAND_S" "${tool[@]}" "$@" </dev/null; }

# `docker compose`, as people write it, with whichever tool is here.
docker() {
  if [ "$1" = compose ]; then shift; compose "$@"; else command docker "$@"; fi
}

eventually() {
  local deadline=$((SECONDS + WAIT_S))
  until "$@"; do
    [ $SECONDS -lt $deadline ] || { echo "not within $WAIT_S s: $*"; return 1; }
    sleep 0.2
  done
}

# The stopped ones, too, which Compose 2 leaves out.
container() { compose ps --all --quiet "$1"; }
inspect() { docker inspect --format "$2" "$(container "$1")"; }
healthy() { [ "$(inspect "$1" '{{.State.Health.Status}}')" = healthy ]; }

# Runs curl lines; the answer and its status are in $answer and $status.
ask() {
  local text
  text=$(CURL_HOME=$dir bash -c "$1 --write-out '\n%{http_code}'")
  status=${text##*$'\n'} answer=${text%$'\n'*}
}

answers() { ask "$2" && [ "$status" = "$1" ]; }

expect() {
  answers "$1" "$2" && [[ $answer == *"${3:-}"* ]] && return
  echo "expected $1 with ${3:-anything} from: $2"
  echo "found $status: $answer"
  return 1
}

field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" <<<"$answer"; }

. "$here/checks.sh"
main "$@"
