#!/usr/bin/env bash
# Starts the service and an agent on the loopback, sends requests, prints what one costs, and stops both.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
port=${PORT:-8000} metrics=${METRICS_PORT:-9464}
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$folder"' EXIT
export PATH="$here/../../.venv/bin:$PATH" FINGERPOST_HOME="$folder/home" FINGERPOST_LOG_LEVEL=ERROR SHOP_SOCKET="$folder/web-1.sock"

python -m uvicorn --app-dir "$here" app:app --port "$port" --log-level warning &
fingerpost agent --service shop --host web-1 --middleware-socket "$SHOP_SOCKET" --pid $! --slots 8 --http-port "$metrics" &
until curl -fs "http://127.0.0.1:$metrics/healthz" > "$folder/health" && curl -s -o "$folder/out" "http://127.0.0.1:$port/"; do
    sleep 0.2
done

send() { curl -fs -o "$folder/out" "http://127.0.0.1:$port/users/$1/orders"; }
for user in $(seq 100); do send "$user"; done
until curl -fs "http://127.0.0.1:$metrics/metrics" | grep 'category_cpu_seconds{.*/users/\*/orders'; do send 1; done
