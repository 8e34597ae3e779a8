#!/usr/bin/env bash
# Starts a service, nginx before it and an agent that reads nginx's log; prints what requests cost, and stops all.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
port=${PORT:-8080} service=${SERVICE_PORT:-9001} metrics=${METRICS_PORT:-9466}
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$folder"' EXIT
export PATH="$here/../../.venv/bin:$PATH:/usr/sbin" FINGERPOST_HOME="$folder/home" FINGERPOST_LOG_LEVEL=ERROR

python "$here/../service.py" "$service" /report &
host=$!
sed -e "s|/var/log/nginx/|$folder/|; s|127.0.0.1:8080|127.0.0.1:$port|; s|127.0.0.1:9001|127.0.0.1:$service|" \
    "$here/nginx.conf" > "$folder/nginx.conf"
# Started by root its workers would be another user, who may not enter the folder.
[ "$(id -u)" = 0 ] && user="user root;" || user=""
nginx -p "$folder" -c nginx.conf -e error.log -g "daemon off; $user" &
send() { for route in users/$1 report; do curl -fs -o "$folder/out" "http://127.0.0.1:$port/$route" || sleep 0.2; done; }
category_costs() { curl -fs "http://127.0.0.1:$metrics/metrics" | grep 'category_cpu_seconds{.*GET /\(report\|users\)' || true; }

# An agent reads a log that it does not know from the beginning, and chooses the categories by the requests in it.
for user in $(seq 50); do send "$user"; done
fingerpost agent --service shop --host edge-1 --access-log "$folder/access.log" --log-format combined \
    --pid "$host" --slots 8 --http-port "$metrics" &
# Costs are known once the host was sampled while requests ran.
for user in $(seq 50); do send "$user"; done
until [ "$(category_costs | wc -l)" -ge 2 ]; do send 1; done
category_costs
