#!/bin/sh
# Installs what some tests need beside Python from Debian's packages, where it is absent: PostgreSQL,
# nginx, Apache, HAProxy, Chromium and Prometheus.
# Never fails: of what cannot be installed it says which tests will be skipped.
set -u

absent() {
    command -v nginx >/dev/null 2>&1 || ls /usr/sbin/nginx >/dev/null 2>&1 || echo nginx-light
    ls /usr/sbin/apache2 >/dev/null 2>&1 || echo apache2
    ls /usr/sbin/haproxy >/dev/null 2>&1 || echo haproxy
    command -v prometheus >/dev/null 2>&1 || echo prometheus
    command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || echo chromium
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || echo postgresql
}

install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$(id -u)" = 0 ]; then as_root=""; else as_root="sudo -n"; fi
    [ -z "$as_root" ] || command -v sudo >/dev/null 2>&1 || return 1
    # A machine without a network must not be waited for long.
    patience="-o Acquire::Retries=1 -o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15 -o DPkg::Lock::Timeout=60"
    timeout 180 $as_root apt-get $patience update -qq
    timeout 600 $as_root env DEBIAN_FRONTEND=noninteractive apt-get $patience install -y -qq --no-install-recommends "$@"
}

wanted=$(absent)
[ -n "$wanted" ] || exit 0
echo "installing for the tests:" $wanted >&2
# shellcheck disable=SC2086 (they are words)
install $wanted >/dev/null 2>&1
for name in $(absent); do
    echo "no $name on this machine and it cannot be installed: the tests that need it will be skipped" >&2
done
exit 0
