#!/usr/bin/env bash
# Starts two unequal hosts, Envoy by envoy.yaml, agents, engine and router; prints how often each host was chosen by prediction.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
port=${PORT:-8080} a=${A_PORT:-9001} b=${B_PORT:-9002} engine=${ENGINE_PORT:-3000}
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$folder"' EXIT
export PATH="$here/../../.venv/bin:$PATH" FINGERPOST_HOME="$folder/home" FINGERPOST_LOG_LEVEL=ERROR
# Windows and batches are short, so that the example takes seconds; hosts are explored more, since there is little traffic.
export FINGERPOST_ENGINE_PORT="$engine" FINGERPOST_WINDOW_S=2 FINGERPOST_AGENT_BATCH_S=1 FINGERPOST_EXPLORATION=0.1
log="$folder/access.log" table="$folder/shop.table"

# Host a takes eight times as long for /report, host b for /search.
python "$here/../service.py" "$a" /report & a_pid=$!
python "$here/../service.py" "$b" /search & b_pid=$!

sed -e "s|/var/log/envoy/access.log|$log|; s|/var/lib/fingerpost/shop.table|$table|" \
    -e "s|port_value: 8080|port_value: $port|; s|port_value: 9001|port_value: $a|; s|port_value: 9002|port_value: $b|" \
    "$here/envoy.yaml" > "$folder/envoy.yaml"
ENVOY_DYNAMIC_MODULES_SEARCH_PATH=$(dirname "$(fingerpost envoy build)")
export ENVOY_DYNAMIC_MODULES_SEARCH_PATH
fingerpost engine > "$folder/engine.log" 2>&1 &
envoy -c "$folder/envoy.yaml" --base-id "$port" --concurrency 1 -l error --file-flush-interval-msec 250 &
send() { for route in report search; do curl -s -o "$folder/out" "http://127.0.0.1:$port/$route" || sleep 0.2; done; }

# An agent reads a log that it does not know from the beginning, and chooses the categories by the requests in it.
for _ in $(seq 100); do send; done
fingerpost agent --host a --access-log "$log" --pid "$a_pid" --slots 4 --engine-url "http://127.0.0.1:$engine" &
fingerpost agent --host b --access-log "$log" --pid "$b_pid" --slots 4 --engine-url "http://127.0.0.1:$engine" &
fingerpost router --engine-url "http://127.0.0.1:$engine" --table "$table" --access-log "$log" &

# Until the engine has a table requests go by least request, and the log says so. Its last field is the category.
predicted() { grep '"decision":"fingerpost;;;[^"]*;GET /' "$log" || true; }
until [ "$(predicted | wc -l)" -ge "${REQUESTS:-100}" ]; do send; done
for route in report search; do
    for host in a b; do
        echo "/$route on $host: $(predicted | grep "\"host\":\"$host\"" | grep -c "\"path\":\"/$route\"" || true) requests chosen by prediction"
    done
done
