# What tests/compose/run.sh checks, each in a shell of its own. They build on each other: subscription 1 is the README's.
# shellcheck shell=bash disable=SC2154 # what is asked and answered is run.sh's

SERVICES='hookpost postgres redis'
# The seed's event; its signature was computed by others and is shared with the vectors of the signing tests.
SIGNATURE=07f1da34b6ff57da613077d361ed7debaca285d7fed3c05254a2d82822b51d01

sources_are_a_layer_of_their_own() {
  local before after
  before=$(dependencies)
  echo >>src/lib.rs
  after=$(dependencies)
  [ "$before" = "$after" ]
}

dependencies() { docker build --quiet --build-arg CARGO_PROFILE="$CARGO_PROFILE" --target dependencies . 2>/dev/null; }

no_secret_shows() {
  local password key service
  password=$(compose exec -T postgres cat /password/password)
  key=$(compose exec -T hookpost sed -n "s/^master_key = '\(.*\)'/\1/p" /settings/hookpost.toml)
  [ ${#password} = 64 ]
  [ ${#key} = 44 ]
  {
    compose config
    compose logs
    for service in init $SERVICES; do docker inspect "$(container "$service")"; done
    docker history --no-trunc "$IMAGE"
    cat .env .env.example docker-compose.yml Dockerfile
  } >"$dir/shown" 2>&1
  [ "$(wc -l <"$dir/shown")" -gt 500 ]
  if grep -F -e "$password" -e "$key" "$dir/shown"; then return 1; fi
}

only_loopback_is_published() {
  local ports='{{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}}:{{.HostPort}} {{end}}{{end}}' service
  [ "$(inspect hookpost "$ports")" = "127.0.0.1:$PORT " ]
  for service in postgres redis; do
    [ -z "$(inspect "$service" "$ports")" ]
    [ "$(inspect "$service" '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}')" = "${project}_stores " ]
  done
  [ "$(docker network inspect --format '{{.Internal}}' "${project}_stores")" = true ]
}

all_are_confined() {
  local service volumes='{{range .Mounts}}{{if .Name}}{{println .Name}}{{end}}{{end}}'
  local limits='{{.Memory}} {{.PidsLimit}} {{.ReadonlyRootfs}} {{.RestartPolicy.Name}} {{index .LogConfig.Config "max-size"}}'
  for service in $SERVICES; do
    eventually healthy "$service"
    [[ $(inspect "$service" "{{with .HostConfig}}$limits{{end}}") =~ ^[1-9][0-9]+\ [1-9][0-9]+\ true\ unless-stopped\ 10m$ ]]
    # None without a name, which nobody would find again.
    [ -z "$(inspect "$service" "$volumes" | sed -e "/^${project}_/d" -e '/^$/d')" ]
    # Asked inside of it: what it is, not what it was told to be.
    compose exec -T "$service" sh -ec '
      [ "$(id -u)" != 0 ]
      grep -q "^CapEff:[[:space:]]*0*$" /proc/1/status
      grep -q "^NoNewPrivs:[[:space:]]*1$" /proc/1/status
      if touch /probe; then exit 1; fi'
  done
  [ "$(compose exec -T hookpost id -u)" = 10001 ]
}

# The README's receiver, in the container: its loopback is the one that may be a target.
listen() {
  compose exec -T hookpost hookpost listen --port "$1" "${@:2}" >"$dir/received.$1" 2>&1 3>&- 9>&- &
  eventually grep -q "127.0.0.1:$1" "$dir/received.$1"
}

# A block of the README, from its first line on.
readme() { awk -v first="$1" 'index($0, first) == 1 { on = 1 } /^```/ { on = 0 } on' README.md; }

delivered() { answers 200 "curl $api/status/$1" && [[ $answer == *'"state":"delivered"'* ]]; }

ingest() {
  cat <<LINE
curl -X POST http://localhost:8000/ingest/1 \
-H "Content-Type: application/json" \
-H "X-Hub-Signature-256: sha256=$1" \
-H "event_type: order.created" \
-d '{"order_id":123,"amount":49.99}'
LINE
}

taken() { answers 202 "$(ingest "$SIGNATURE")"; }

readme_walk() {
  readme 'curl -X POST http://localhost:8000/subscriptions' >"$dir/walk"
  [ "$(grep -c '^curl' "$dir/walk")" = 3 ]
  listen 9000 --secret mysecret --json
  CURL_HOME=$dir bash -e "$dir/walk"
  eventually answers_with_success
  grep '"standard_webhooks":"verified","x_hub_signature_256":"verified"' "$dir/received.9000"
}

answers_with_success() { answers 200 "curl $api/subscriptions/1/logs" && [[ $answer == *'"outcome":"Success"'* ]]; }

seeds_curl_lines() {
  expect 201 'curl -X POST http://localhost:8000/subscriptions \
-H "Content-Type: application/json" \
-d '"'"'{"target_url":"https://webhook.site/your-url","event_type":["order.created"],"secret":"mysecret"}'"'" '"id":2'
  expect 200 'curl http://localhost:8000/subscriptions' '"target_url":"https://webhook.site/your-url"'
  expect 200 'curl -X PUT http://localhost:8000/subscriptions/1 \
-H "Content-Type: application/json" \
-d '"'"'{"target_url":"https://webhook.site/your-new-url","event_type":["order.updated"]}'"'" '"event_type":["order.updated"]'
  # Back to what the ingest example expects, and to the receiver that is here.
  expect 200 "curl -X PUT $api/subscriptions/1 -H 'Content-Type: application/json' \
    -d '{\"target_url\":\"http://127.0.0.1:9000/\",\"event_type\":[\"order.created\"]}'"
  expect 401 "$(ingest ...)"
  expect 202 "$(ingest "$SIGNATURE")" '"subscription_id":1'
  local delivery
  delivery=$(field delivery_id)
  eventually delivered "$delivery"
  expect 200 "curl http://localhost:8000/status/$delivery" "$delivery"
  expect 200 'curl http://localhost:8000/subscriptions/1/logs' "$delivery"
  expect 204 'curl -X DELETE http://localhost:8000/subscriptions/2'
}

postgres_stops() {
  compose stop postgres
  eventually answers 503 "$(ingest "$SIGNATURE")"
  expect 503 "$(ingest "$SIGNATURE") --include" 'retry-after: '
  expect 503 "curl $api/readyz"
  echo "$answer"
  expect 200 "curl $api/livez"
  eventually unhealthy hookpost
  compose start postgres
  eventually taken
  eventually delivered "$(field delivery_id)"
  eventually healthy hookpost
}

unhealthy() { [ "$(inspect "$1" '{{.State.Health.Status}}')" = unhealthy ]; }

redis_stops() {
  compose stop redis
  expect 202 "$(ingest "$SIGNATURE")"
  eventually delivered "$(field delivery_id)"
  expect 200 "curl $api/readyz" '"status":"ready"'
  compose start redis
  eventually healthy redis
}

in_flight() { answers 200 "curl $api/readyz" && [[ $answer == *'"attempts_in_flight":1'* ]]; }

sigterm_drains() {
  local delivery
  listen 9001 --delay 4s
  expect 201 "curl $api/subscriptions -H 'Content-Type: application/json' -d '{\"target_url\":\"http://127.0.0.1:9001/\"}'"
  expect 202 "curl $api/ingest/$(sed -n 's/.*"id":\([0-9]*\).*/\1/p' <<<"$answer") -H 'Content-Type: application/json' \
    -H 'event_type: order.created' -d '{}'"
  delivery=$(field delivery_id)
  eventually in_flight
  compose stop hookpost
  [ "$(inspect hookpost '{{.State.ExitCode}} {{.State.OOMKilled}}')" = '0 false' ]
  compose start hookpost
  eventually healthy hookpost
  # The receiver has gone with the container: only the attempt that was in flight can have succeeded.
  expect 200 "curl $api/status/$delivery" '"state":"delivered"'
}

data_stays() {
  compose down
  compose up --detach
  eventually healthy hookpost
  expect 401 "$(ingest ...)"
  listen 9000 --secret mysecret --json
  expect 202 "$(ingest "$SIGNATURE")"
  eventually delivered "$(field delivery_id)"
  grep '"x_hub_signature_256":"verified"' "$dir/received.9000"
}

open_door_is_refused() {
  if PUBLISH=0.0.0.0:8000 timeout "$COMMAND_S" "${tool[@]}" run --rm init </dev/null >"$dir/refused" 2>&1; then return 1; fi
  grep 'HOOKPOST_AUTH=off asks for no key' "$dir/refused"
}

# On loopback all the same: `compose` sets PUBLISH, and that goes over what the lines put into .env.
keys_are_switched_on() {
  local lines key
  lines=$(readme "printf 'HOOKPOST_AUTH=keys")
  [ "$(wc -l <<<"$lines")" = 3 ]
  eval "$lines" >"$dir/key"
  key=$(grep -o 'hp_[A-Za-z0-9_]*' "$dir/key")
  eventually healthy hookpost
  expect 401 "curl $api/subscriptions"
  expect 200 "curl $api/subscriptions -H 'Authorization: Bearer $key'" '"id":1'
}
