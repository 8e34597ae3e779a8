"""Recipes of the documentation, run as they stand there, with real servers: only paths and ports are others."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from fingerpost.accesslog.formats import LOG_FORMATS
from fingerpost.agent.main import build_agent
from fingerpost.agent.options import AgentOptions
from fingerpost.category import category_key, size_bucket
from fingerpost.client_attributes import auth_method, coarse_region, user_agent_class
from fingerpost.clock import US
from fingerpost.routing.envoy.module import compiler
from tests.support.recipes import DOCS, blocks, program

pytestmark = pytest.mark.process

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
# What clients send: method, path, body, headers. Long headers of a request without a body must not count as its size.
SENT = [
    ("GET", "/users/42/orders?page=2", b"", {"user-agent": BROWSER, "x-long": "x" * 3000}),
    ("GET", "/users/43/orders", b"", {"user-agent": "curl/8.5.0", "cookie": "session=SECRET"}),
    ("POST", "/upload", b"x" * 20_000, {"user-agent": "python-httpx/1", "authorization": "Bearer SECRET"}),
    ("POST", "/upload", b"x" * 700, {"user-agent": BROWSER, "x-api-key": "SECRET", "cf-ipcountry": "DE"}),
    ("PUT", "/upload", b"x", {"user-agent": BROWSER, "cookie": "a=b", "authorization": "Digest SECRET"}),
    (
        "DELETE",
        "/users/44",
        b"",
        {"user-agent": "kube-probe/1.30", "authorization": "Basic " + b64encode(b"me:SECRET").decode()},
    ),
]
CATEGORIES = ["/users/*/orders", "/users/*/orders", "/upload", "/upload", "/upload", "/users/*"]
COST = re.compile(
    r'fingerpost_category_cpu_seconds\{category="GET /users/\*/orders\|0\|none\|library\|none"\} 0\.\d*[1-9]'
)


def category_by_the_picker(method, route, body, headers):
    """The category of a request as a picker finds it, from what it sees before sending it."""
    scheme, agent = headers.get("authorization"), headers["user-agent"]
    auth = auth_method(scheme and scheme[:6], "x-api-key" in headers, "cookie" in headers)
    region = coarse_region(headers.get("cf-ipcountry"))
    return category_key(method, route, size_bucket(len(body)), auth, user_agent_class(agent), region)


@pytest.fixture
def backend():
    """The port of a service that takes 30 ms for everything."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            time.sleep(0.03)
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_args):
            pass

    for method in ("GET", "POST", "PUT", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@contextmanager
def running(command, port, output):
    """A server in the foreground, from when its port answers."""
    with output.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 30
            while True:
                assert process.poll() is None, output.read_text()
                try:
                    httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False, timeout=5)
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline, output.read_text()
                    time.sleep(0.02)
            yield process
        finally:
            process.terminate()
            process.wait(20)


def send_all(port):
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        for method, path, body, headers in SENT:
            assert client.request(method, path, content=body or None, headers=headers).status_code == 200


def records_of(log, log_format, folder, host="h1"):
    """What an agent makes of the lines of a log, as it would report them; refused lines fail the test."""
    agent, *_ = build_agent(AgentOptions(folder / "lake", "shop", host, log, log_format=log_format))
    deadline = time.monotonic() + 20
    rows = []
    while len(rows) < len(SENT):
        assert time.monotonic() < deadline, log.read_text()
        agent.read()
        agent.report()
        rows = [row for row in read_rows(folder / "lake") if row["route"] != "/ready"]
        time.sleep(0.05)
    assert not list((folder / "lake" / "quarantine").rglob("*.jsonl"))
    assert "SECRET" not in log.read_text()
    return sorted(rows, key=lambda row: row["time"])


def read_rows(lake):
    import pyarrow.parquet as pq

    from fingerpost.lake import parquet_files

    return [
        row for path in parquet_files(lake / "inbox" / "requests") for row in pq.ParquetFile(path).read().to_pylist()
    ]


def assert_the_picker_looks_up_what_was_measured(rows, began, ended):
    names = ("method", "route", "bytes_in", "auth", "user_agent_class", "region")
    for row, (method, _, body, headers), route in zip(rows, SENT, CATEGORIES, strict=True):
        _, _, size, *rest = (row[name] for name in names)
        found = category_key(row["method"], row["route"], size_bucket(size), *rest)
        assert found == category_by_the_picker(method, route, body, headers)
        assert row["duration_s"] >= 0.03
        assert began - 0.002 <= row["time"].timestamp() <= ended + 0.002
    assert len({row["time"] for row in rows}) == len(rows)


def nginx(folder, http):
    """The command of an nginx whose files are in a folder."""
    places = "".join(f"{name}_temp_path {folder}/{name}; " for name in ("client_body", "proxy", "fastcgi"))
    places += "".join(f"{name}_temp_path {folder}/{name}; " for name in ("uwsgi", "scgi"))
    # Its workers write into folders of the test, which belong to whoever runs it.
    user = "user root; " if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1; events {{}}\n"
        f"http {{ {places} {http} }}"
    )
    return [program("nginx"), "-c", str(folder / "nginx.conf"), "-e", f"{folder}/error.log"]


def test_the_recipe_for_nginx(backend, tmp_path, free_ports):
    [port] = free_ports(1)
    log = tmp_path / "access.log"
    [recipe] = blocks("agent.md", "nginx")
    assert "/var/log/nginx/access.log" in recipe
    server = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{backend}; }} }}"
    command = nginx(tmp_path, f"{recipe.replace('/var/log/nginx/access.log', str(log))}\n{server}")
    with running(command, port, tmp_path / "out"):
        began = time.time()
        send_all(port)
        rows = records_of(log, "combined", tmp_path)
    assert_the_picker_looks_up_what_was_measured(rows, began, time.time())
    # Each of its two clocks is read in whole milliseconds.
    assert all(0.025 <= row["service_time_s"] <= row["duration_s"] + 0.005 for row in rows)


def test_the_recipe_for_nginx_before_several_hosts(backend, tmp_path, free_ports):
    """Of a request that was tried at two hosts the record is of the one that answered."""
    port, dead = free_ports(2)
    log = tmp_path / "proxy.log"
    [maps], [recipe] = blocks("agent.md", "nginx"), blocks("logs.md", "nginx")
    maps = "".join(line for line in maps.splitlines(keepends=True) if line.startswith("map "))
    recipe = recipe.replace("/var/log/nginx/proxy.log", str(log)).replace(
        "10\\.0\\.0\\.11:8080", f"127\\.0\\.0\\.1:{dead}"
    )
    recipe = recipe.replace("10\\.0\\.0\\.12:8080", f"127\\.0\\.0\\.1:{backend}")
    hosts = f"upstream hosts {{ server 127.0.0.1:{dead} max_fails=0; server 127.0.0.1:{backend} max_fails=0; }}"
    server = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://hosts; }} }}"
    with running(nginx(tmp_path, f"{maps}{recipe}{hosts}\n{server}"), port, tmp_path / "out"):
        began = time.time()
        send_all(port)
        ended = time.time()
    made = [LOG_FORMATS["combined"].parse(line, "shop", None) for line in log.read_bytes().splitlines()]
    assert {row["host"] for row in made} == {"web-2"}
    assert ", " in log.read_text(), "some were tried at both"
    for row in made:
        row["time"] = datetime.fromtimestamp(row["time"] / US, UTC)
    rows = sorted((row for row in made if row["route"] != "/ready"), key=lambda row: row["time"])
    assert_the_picker_looks_up_what_was_measured(rows, began, ended)


def test_the_recipe_for_apache(backend, tmp_path, free_ports):
    [port] = free_ports(1)
    log = tmp_path / "access.log"
    [recipe] = blocks("logs.md", "apache")
    assert "/var/log/apache2/access.log" in recipe
    apache = program("apache2")
    modules = ("mpm_event", "setenvif", "proxy", "proxy_http", "authz_core")
    loads = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in modules)
    config = tmp_path / "apache.conf"
    config.write_text(
        f"{loads}\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile {tmp_path}/apache.pid\n"
        f"DefaultRuntimeDir {tmp_path}\nErrorLog {tmp_path}/error.log\nProxyPass / http://127.0.0.1:{backend}/\n"
        f"{recipe.replace('/var/log/apache2/access.log', str(log))}"
    )
    command = [apache, "-f", str(config), "-D", "FOREGROUND"]
    with running(command, port, tmp_path / "out"):
        began = time.time()
        send_all(port)
        rows = records_of(log, "combined", tmp_path)
    assert_the_picker_looks_up_what_was_measured(rows, began, time.time())


def test_the_recipe_for_haproxy(backend, tmp_path, free_ports):
    [port] = free_ports(1)
    log = tmp_path / "haproxy.log"
    [recipe] = blocks("logs.md", "haproxy")
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "global\n    log stdout format raw local0\ndefaults\n    mode http\n    log global\n"
        "    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n"
        f"frontend clients\n    bind 127.0.0.1:{port}\n{recipe}    default_backend hosts\n"
        f"backend hosts\n    server h1 127.0.0.1:{backend}\n"
    )
    with running([program("haproxy"), "-db", "-f", str(config)], port, log):
        began = time.time()
        send_all(port)
        rows = records_of(log, "haproxy", tmp_path)
    assert_the_picker_looks_up_what_was_measured(rows, began, time.time())
    assert all(0.025 <= row["service_time_s"] <= row["duration_s"] for row in rows)


@contextmanager
def shell(script, folder, others, **settings):
    """A shell script of the documentation in a folder of its own, with other ports; all it started ends with it."""
    for old, new in others.items():
        assert str(old) in script
        script = script.replace(str(old), str(new))
    script = script.replace("/tmp/", f"{folder}/")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **{f"FINGERPOST_{name}": str(value) for name, value in settings.items()}}
    process = subprocess.Popen(
        ["bash", "-c", f"{script}\nwait"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def recipe_with_middleware(framework):
    """The application and the commands of a framework's part of docs/agent.md."""
    [text] = [part for part in (DOCS / "agent.md").read_text().split("\n## ") if part.startswith(f"A {framework} ")]
    [application], [commands] = (
        re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for language in ("python", "sh")
    )
    return application, commands


@pytest.mark.timeout(180)
def test_the_recipe_for_fastapi(tmp_path, free_ports):
    application, commands = recipe_with_middleware("FastAPI")
    (tmp_path / "app.py").write_text(application.replace("/tmp/", f"{tmp_path}/"))
    with shell(commands, tmp_path, dict(zip((8000, 9464), free_ports(2), strict=True))) as process:
        told = next((line for line in process.stdout if line.startswith("fingerpost_category_cpu_seconds")), "")
    assert COST.match(told)


def test_the_recipe_for_flask(tmp_path, free_ports):
    application, commands = recipe_with_middleware("Flask")
    (tmp_path / "app.py").write_text(application.replace("/tmp/", f"{tmp_path}/"))
    service, metrics = free_ports(2)
    with shell(commands, tmp_path, {8001: service, 9465: metrics}), httpx.Client(trust_env=False, timeout=10) as client:
        deadline = time.monotonic() + 60
        found = None
        while not found:
            assert time.monotonic() < deadline
            with contextlib.suppress(httpx.TransportError):
                client.get(f"http://127.0.0.1:{service}/users/7/orders")
                found = COST.search(client.get(f"http://127.0.0.1:{metrics}/metrics").text)
            time.sleep(0.05)


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
@pytest.mark.timeout(180)
def test_the_recipe_for_routing(backend, tmp_path, free_ports):
    """Without an engine there is no table yet: requests go by least request, and the log says so."""
    text = (DOCS / "routing.md").read_text().partition("## Run it")[2]
    script = re.search(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    port, admin, engine = free_ports(3)
    others = {"10.0.0.1:80 ": f"127.0.0.1:{backend} ", "10.0.0.2:80 ": f"127.0.0.1:{backend} ", ":3000": f":{engine}"}
    with shell(script, tmp_path, others, ENVOY_PORT=port, ENVOY_ADMIN_PORT=admin):
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/users/1", trust_env=False).status_code == 200)
        log = tmp_path / ".fingerpost" / "access.log"
        wait_for(lambda: json.loads(log.read_text().splitlines()[0])["decision"].startswith("least_request;no_table;"))


def wait_for(found):
    """Waits until it is true; what is not there yet is no error."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.TransportError, OSError, IndexError):
            if found():
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", range(4))
def test_the_examples_of_the_middleware_run(number, tmp_path):
    examples = blocks("middleware.md", "python")
    assert len(examples) == 4
    command = [sys.executable, "-c", examples[number].replace("/tmp/", f"{tmp_path}/")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
