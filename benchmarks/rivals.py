"""HAProxy and nginx before the emulated fleet, as their users would run them: configurations, and the processes.

Both keep connections to hosts and clients open, have room for all of them, one thread as Envoy has one worker here, and
write no log. Both leave out a host that fails ten requests in a row or so: HAProxy by watching answers and a health
check, nginx by `max_fails`; neither sends a request again that a host has answered.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fingerpost.cli.stack.parts import answers
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.settings import LOOPBACK

# `haproxy_queue` also holds requests back until a host has a free place, which takes knowing its places.
HAPROXY = {"haproxy_leastconn": "leastconn", "haproxy_random2": "random(2)", "haproxy_queue": "leastconn"}
NGINX = "nginx_least_conn"
RIVALS = (*HAPROXY, NGINX)
# Of clients and hosts together: more than any run here opens, and within the limits of common systems.
_CONNECTIONS, _START_S = 8000, 20.0


def haproxy_config(upstreams: list[Upstream], policy: str, port: int, slots: int) -> str:
    """A configuration; `slots` are the places of a host, for `haproxy_queue`."""
    limit = f" maxconn {slots}" if policy == "haproxy_queue" else ""
    watched = "check inter 1s fall 2 rise 1 observe layer7 error-limit 10 on-error mark-down"
    servers = "\n".join(f"    server {each.name} {each.address}:{each.port}{limit} {watched}" for each in upstreams)
    return f"""global
    nbthread 1
    maxconn {_CONNECTIONS}
defaults
    mode http
    option http-keep-alive
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout queue 60s
    timeout http-keep-alive 60s
frontend clients
    bind {LOOPBACK}:{port}
    default_backend hosts
backend hosts
    balance {HAPROXY[policy]}
    http-reuse always
    option httpchk GET /healthz
{servers}
"""


def nginx_config(upstreams: list[Upstream], port: int, folder: Path) -> str:
    """A configuration whose files all lie in the folder."""
    user = "user root;" if os.getuid() == 0 else ""
    servers = "\n".join(
        f"        server {each.address}:{each.port} max_fails=10 fail_timeout=10s;" for each in upstreams
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "\n".join(f"    {kind}_temp_path {folder}/nginx-{kind};" for kind in kinds)
    return f"""{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {2 * _CONNECTIONS};
pid {folder}/nginx-{port}.pid;
error_log {folder}/nginx-{port}.err;
events {{ worker_connections {_CONNECTIONS}; }}
http {{
{places}
    access_log off;
    keepalive_requests 1000000;
    upstream hosts {{
        least_conn;
{servers}
        keepalive 1024;
        keepalive_requests 1000000;
    }}
    server {{
        listen {LOOPBACK}:{port} backlog=4096;
        location / {{
            proxy_pass http://hosts;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream error timeout http_500;
            proxy_next_upstream_tries 1;
        }}
    }}
}}
"""


@contextmanager
def running_rival(policy: str, upstreams: list[Upstream], port: int, slots: int, folder: Path) -> Iterator[None]:
    """HAProxy or nginx, ready at a port.

    Raises:
        FingerpostError: it is not installed, or does not start.
    """
    name = "nginx" if policy == NGINX else "haproxy"
    path = folder / f"{policy}-{port}.conf"
    path.write_text(
        nginx_config(upstreams, port, folder) if name == "nginx" else haproxy_config(upstreams, policy, port, slots)
    )
    output = folder / f"{policy}-{port}.txt"
    command = {"nginx": ["-c", str(path), "-e", f"{folder}/nginx-{port}.err"], "haproxy": ["-db", "-f", str(path)]}
    with output.open("wb") as log:
        process = subprocess.Popen([_program(name), *command[name]], stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + _START_S
        while not _serves(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise FingerpostError(f"{name} does not start: {output.read_text()[-500:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _serves(port: int) -> bool:
    return answers(f"http://{LOOPBACK}:{port}/healthz")


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FingerpostError(f"no {name} on this machine: `make system-packages` installs it")
    return found
