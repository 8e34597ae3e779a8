"""The router follows a real HTTP server's table; and the commands that people type."""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fingerpost.errors import FingerpostError
from fingerpost.heartbeat import Heartbeats
from fingerpost.names import is_name
from fingerpost.routing.metrics_port import TableMetrics
from fingerpost.routing.router import Router
from fingerpost.routing.services import Places, ServiceRouter, check_places, follow_all
from fingerpost.routing.table_file import decode
from fingerpost.settings import Settings
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

TABLE = {
    "version": "v1",
    "model_version": "7",
    "hosts": [{"name": "a", "weight": 1.0}],
    "categories": ["GET /x", "other"],
    "routes": [],
    "throughput_rps": [[100.0], [10.0]],
    "latency_p50_s": [[0.01], [0.1]],
    "success_rate": [[1.0], [1.0]],
}


@pytest.fixture
def engine():
    """An engine that serves one table: with its version as ETag, and its expiry in a header."""
    state = {"version": "v1", "expires": time.time() + 60, "status": 200, "body": None, "asked": [], "pickers": set()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state["pickers"].add(self.headers.get("x-fingerpost-picker"))
            state["asked"].append((self.path, self.headers.get("if-none-match"), self.headers.get("authorization")))
            same = self.headers.get("if-none-match") == f'"{state["version"]}"'
            body = (
                state["body"]
                or json.dumps({**TABLE, **{k: state[k] for k in ("version",)}, "expires_at": state["expires"]}).encode()
            )
            absent = "/services/absent/" in self.path
            self.send_response(404 if absent else 304 if same and state["status"] == 200 else state["status"])
            self.send_header("etag", f'"{state["version"]}"')
            self.send_header("x-fingerpost-expires-at", f"{state['expires']:.3f}")
            self.end_headers()
            if not same:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state["url"] = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


def read(path: Path):
    return decode(path.read_bytes())


def test_the_file_is_what_the_engine_says(engine, tmp_path):
    path = tmp_path / "t"
    router = Router(engine["url"], path, Settings(engine_token="secret"))
    assert router.sync()
    assert read(path).version == "v1"
    assert engine["asked"][0] == ("/v1/services/shop/table", None, "Bearer secret")
    engine["expires"] += 100
    assert not router.sync()
    assert read(path).expires_us == pytest.approx(engine["expires"] * 1e6, abs=1e3)
    engine["version"] = "v2"
    assert router.sync(1.0)
    assert read(path).version == "v2"
    assert list(tmp_path.iterdir()) == [path]


def test_the_token_is_that_of_its_file_at_the_time_of_asking(engine, tmp_path):
    (token := tmp_path / "token").write_text("the-old-one\n")
    router = Router(engine["url"], tmp_path / "routing" / "t", Settings(engine_token_file=token))
    (tmp_path / "routing").mkdir()
    router.sync()
    token.write_text("the-new-one\n")
    router.sync()
    assert [sent for _, _, sent in engine["asked"]] == ["Bearer the-old-one", "Bearer the-new-one"]


def test_what_a_router_left_that_was_killed_while_it_wrote_is_removed(engine, tmp_path):
    old, new, other = (tmp_path / name for name in (".t.1-0a1b2c3d.tmp", ".t.2-0a1b2c3d.tmp", ".notes.tmp"))
    for each in (old, new, other):
        each.write_bytes(b"half")
    for each in (old, other):
        os.utime(each, (time.time() - 7200,) * 2)
    Router(engine["url"], tmp_path / "t", Settings())
    # One that is written now is another router's.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([new.name, other.name])


def test_what_is_no_table_leaves_the_file_alone(engine, tmp_path):
    path = tmp_path / "t"
    router = Router(engine["url"], path, Settings())
    router.sync()
    before = path.read_bytes()
    engine["version"] = "v2"
    for body in (b"no json", b"[]", b'{"hosts": 3}', b"[" + b"[]," * 50_000 + b"[]]"):
        engine["body"] = body
        with pytest.raises(FingerpostError, match="more than" if len(body) > 100 else "no table|fit"):
            router.sync()
    engine.update(status=503, body=b"{}")
    with pytest.raises(FingerpostError, match="503"):
        router.sync()
    assert path.read_bytes() == before


def test_it_follows_until_told_to_stop(engine, tmp_path):
    path, stop = tmp_path / "t", threading.Event()
    engine["status"] = 503
    router = Router(engine["url"], path, Settings())
    thread = threading.Thread(target=router.follow, args=(stop,))
    thread.start()
    time.sleep(0.5)
    assert not path.exists()
    engine["status"] = 200
    deadline = time.monotonic() + 10
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    thread.join(10)
    assert read(path).version == "v1"
    # The engine is told who picks by it: this machine, and the file, since that is not called as the service.
    (who,) = engine["pickers"]
    assert who.startswith("router/")
    assert who.endswith("-t")
    assert is_name(who.removeprefix("router/"))


def test_the_age_of_the_table_is_a_metric(engine, tmp_path):
    router = Router(engine["url"], tmp_path / "t", Settings())

    def ages():
        metrics = {each.name: each.samples for each in TableMetrics({"shop": router}).collect()}
        return [each.value for each in metrics["fingerpost_router_table_age_seconds"]]

    assert ages() == []
    router.sync()
    # Nobody goes on to ask after a single look.
    assert engine["pickers"] == {None}
    [first] = ages()
    [second] = ages()
    assert 0 <= first < second
    engine["status"] = 503
    with pytest.raises(FingerpostError):
        router.sync()
    [third] = ages()
    assert third > second
    engine["status"] = 200
    asked_s = time.monotonic()
    router.sync()
    [fourth] = ages()
    assert fourth <= time.monotonic() - asked_s


def fingerpost(*arguments, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-m", "fingerpost", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_commands(engine, tmp_path):
    home = {"FINGERPOST_HOME": str(tmp_path)}
    done = fingerpost("router", "--engine-url", engine["url"], "--once", **home)
    assert done.returncode == 0, done.stderr
    assert read(Path(done.stdout.strip())).version == "v1"
    done = fingerpost("router", "--engine-url", "http://127.0.0.1:9", "--once", **home)
    assert (done.returncode, "no table from" in done.stderr) == (1, True)
    done = fingerpost("envoy", "config", "--host", "a=127.0.0.1:9", "--policy", "orca", **home)
    assert json.loads(done.stdout)["static_resources"]["clusters"][0]["name"] == "hosts"
    for wrong, word in (("a", "name=address:port"), ("a=127.0.0.1:x", "a=127.0.0.1:x"), ("=1.2.3.4:80", "host")):
        done = fingerpost("envoy", "config", "--host", wrong, "--policy", "orca", **home)
        assert (done.returncode, word in done.stderr) == (1, True)
    endpoints = tmp_path / "routing" / "endpoints.json"
    done = fingerpost("envoy", "config", "--endpoints", str(endpoints), "--policy", "orca", **home)
    assert done.returncode == 0
    # Envoy does not start without the file, and the router may come later.
    assert json.loads(endpoints.read_text())["resources"][0]["endpoints"] == []
    done = fingerpost("envoy", "config", "--policy", "orca", **home)
    assert "at least one host" in done.stderr


def router_command(engine, folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "fingerpost", "router", "--once", "--engine-url", engine["url"], *arguments],
        env={**os.environ, "FINGERPOST_HOME": str(folder), "FINGERPOST_LOG_FORMAT": "console"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_router_serves_several_services_and_one_without_a_table_leaves_the_others_alone(engine, tmp_path):
    hosts = tmp_path / "shop.hosts"
    hosts.write_text("a=127.0.0.1:9001\n")
    command = [sys.executable, "-m", "fingerpost", "router", "--engine-url", engine["url"]]
    for service in ("absent", "shop", "calls"):
        command += ["--service", service]
    for option, name in (("table", "table"), ("access-log", "log"), ("hosts", "hosts"), ("endpoints", "json")):
        command += [f"--{option}", f"{tmp_path}/{{service}}.{name}"]
    environment = {**os.environ, "FINGERPOST_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for((tmp_path / "calls.table").exists)
            wait_for((tmp_path / "shop.table").exists)
            engine["version"] = "v2"
            wait_for(lambda: {read(tmp_path / f"{name}.table").version for name in ("shop", "calls")} == {"v2"})
        finally:
            process.terminate()
            said = process.communicate(timeout=20)[1]
    assert process.returncode == 0
    assert not (tmp_path / "absent.table").exists()
    assert "no table from" in said
    # The list of hosts is one service's; the cluster is called as the service.
    assert json.loads((tmp_path / "shop.json").read_text())["resources"][0]["cluster_name"] == "shop"
    assert not (tmp_path / "calls.json").exists()


@pytest.mark.parametrize(
    ("services", "places", "told"),
    [
        (["shop", "calls"], Places(table="/t"), "--table /t is one for 2 services"),
        (["shop", "calls"], Places(access_log="/l", cluster="{service}"), "--access-log /l is one"),
        (["shop", "calls"], Places(), "--cluster hosts is one"),
        (["shop", "shop"], Places(cluster="{service}"), "named twice"),
        (["a/b"], Places(), "invalid service 'a/b'"),
    ],
)
def test_services_that_would_share_a_file_are_refused(services, places, told):
    with pytest.raises(FingerpostError, match=told):
        check_places(places, services)


def test_a_router_that_fails_unforeseen_is_tried_again(engine, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fingerpost.routing.services._AGAIN_S", 0.01)
    settings = Settings(home=tmp_path)
    shop = ServiceRouter(engine["url"], settings, Places(table=str(tmp_path / "t")))
    stop, failed = threading.Event(), []

    def fails_once(stop):
        failed.append(1)
        if len(failed) == 1:
            raise KeyError("unforeseen")
        stop.set()

    monkeypatch.setattr(shop.router, "follow", fails_once)
    follow_all([shop], stop)
    shop.close()
    assert len(failed) == 2
    assert "the router of shop failed" in caplog.text


def test_a_router_without_a_log_says_that_the_guard_is_off(engine, tmp_path):
    assert "the guard is off" in router_command(engine, tmp_path).stderr
    log = tmp_path / "access.log"
    assert f"no access log at {log} yet" in router_command(engine, tmp_path, "--access-log", str(log)).stderr
    log.touch()
    with_log = router_command(engine, tmp_path, "--access-log", str(log))
    assert (with_log.returncode, with_log.stderr) == (0, "")


@pytest.mark.skipif(not Heartbeats.possible(), reason="heartbeats need addresses without files")
def test_a_router_that_follows_gives_signs_of_life_also_without_an_engine(tmp_path, monkeypatch):
    heartbeats, stop = Heartbeats(), threading.Event()
    for name, value in heartbeats.environment().items():
        monkeypatch.setenv(name, value)
    router = Router("http://127.0.0.1:9", tmp_path / "t", Settings())
    following = threading.Thread(target=router.follow, args=(stop,))
    following.start()
    deadline = time.monotonic() + 20
    while not heartbeats.heard():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stop.set()
    following.join(20)
    router.close()
    heartbeats.close()
